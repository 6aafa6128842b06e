"""Whether TensorRT works here. Its plans are built by plans.py; no backend runs them yet."""

from __future__ import annotations

from pathlib import Path

from fiffdepth_rt import cuda
from fiffdepth_rt.backends import Usability
from fiffdepth_rt.backends.wheels import installed
from fiffdepth_rt.errors import BackendUnavailableError
from fiffdepth_rt.plan_rules import check_supported

NAME = "tensorrt"

_WHEELS = ("tensorrt", "cuda-python", "cuda-bindings")
_JETSON = Path("/etc/nv_tegra_release")  # JetPack writes it


def usable() -> Usability:
    """Whether TensorRT and cuda-python can be imported here, and find a GPU. Never raises."""
    versions = installed(_WHEELS)
    try:
        import tensorrt

        version = str(tensorrt.__version__)
        versions["tensorrt"] = version
    except Exception as error:  # a broken wheel fails in its own ways
        absent = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        why = "tensorrt is not installed" if absent else f"tensorrt cannot be imported ({error})"
        return _unusable(why, _install(again=not absent), versions)
    try:
        check_supported(version)
    except BackendUnavailableError as error:
        return _unusable(str(error), _install(again=False), versions)
    try:
        from cuda.bindings import runtime  # noqa: F401
    except Exception as error:  # as above
        why = f"TensorRT {version} is here, but cuda-python cannot be imported ({error})"
        return _unusable(why, cuda.INSTALL, versions)
    try:
        gpu = cuda.gpu()
    except Exception as error:  # BackendUnavailableError for what can be foreseen
        return _unusable(f"TensorRT {version} is here, but {error}", "nvidia-smi", versions)
    why = f"TensorRT {version} on {gpu.name} (compute capability {gpu.compute_capability})"
    return Usability(name=NAME, usable=True, why=why, mend="", versions=versions)


def require() -> None:
    """Raises BackendUnavailableError, with the mending command, unless TensorRT is usable here."""
    usability = usable()
    if not usability.usable:
        raise BackendUnavailableError(f"TensorRT cannot be used: {usability.why}. Run: {usability.mend}")


def _unusable(why: str, mend: str, versions: dict[str, str]) -> Usability:
    return Usability(name=NAME, usable=False, why=why.rstrip("."), mend=mend, versions=versions)


def _install(*, again: bool) -> str:
    if _JETSON.exists():
        return "sudo apt install python3-libnvinfer   (JetPack's own; pip's TensorRT is not for Jetson)"
    return f"pip install {'--force-reinstall ' if again else ''}'fiffdepth-rt[tensorrt]'"

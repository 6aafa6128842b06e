"""The TensorRT and the GPU of this machine: whether they work, and what a plan must be for to run on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fiffdepth_rt.backends import Usability
from fiffdepth_rt.backends.tensorrt.versions import check_driver, check_supported, parse_version, show_version
from fiffdepth_rt.errors import BackendUnavailableError, DriverError
from fiffdepth_rt.gpu import cuda
from fiffdepth_rt.machine import installed

NAME = "tensorrt"

_WHEELS = ("tensorrt", "cuda-python", "cuda-bindings")
_JETSON = Path("/etc/nv_tegra_release")  # JetPack writes it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where a plan runs: a GPU's name, its compute capability ("8.9"), and TensorRT's full version."""

    gpu_name: str
    compute_capability: str
    tensorrt_version: str


def usable() -> Usability:
    """Whether TensorRT and cuda-python can be imported here, and find a GPU. Never raises."""
    versions = installed(_WHEELS)
    try:
        version = _import_tensorrt()
        versions["tensorrt"] = version  # TensorRT's own word comes before its wheel's
        gpu = _find_gpu(0, version)
    except _UnusableError as error:
        return Usability(
            name=NAME, usable=False, why=error.why, fix=error.fix, versions=versions, error=error.kind
        )
    why = f"TensorRT {version} on {gpu.name} (compute capability {gpu.compute_capability})"
    return Usability(name=NAME, usable=True, why=why, fix="", versions=versions)


def require(index: int = 0) -> tuple[Target, cuda.Gpu]:
    """What plans must be for to run here, and the GPU with this index.

    Raises BackendUnavailableError, with the command that helps, unless TensorRT is usable there; DriverError
    where only the driver is too old.
    """
    try:
        version = _import_tensorrt()
        gpu = _find_gpu(index, version)
    except _UnusableError as error:
        raise error.kind(f"TensorRT cannot be used: {error.why}. Run: {error.fix}") from error
    target = Target(
        gpu_name=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt_version=show_version(parse_version(version)),
    )
    return target, gpu


def cuda_device_index(device: str | None) -> int:
    """ "cuda:1" -> 1; None and "cuda" are the first GPU. Raises BackendUnavailableError."""
    kind, colon, index = (device or "cuda").partition(":")
    if kind != "cuda" or not (index.isdecimal() if colon else True):
        raise BackendUnavailableError(
            f"device={device!r}: TensorRT runs on NVIDIA GPUs. Say 'cuda', 'cuda:1', or another backend."
        )
    return int(index or 0)


class _UnusableError(Exception):
    """Why TensorRT cannot be used here, the command that helps, and the kind of error that a caller gets."""

    def __init__(
        self, why: str, fix: str, kind: type[BackendUnavailableError] = BackendUnavailableError
    ) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why.rstrip(".")
        self.fix = fix


def _import_tensorrt() -> str:
    """The version of the TensorRT that can be imported here. Raises _UnusableError."""
    try:
        import tensorrt

        version = str(tensorrt.__version__)
    except Exception as error:  # a broken wheel fails in its own ways
        absent = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        why = "tensorrt is not installed" if absent else f"tensorrt cannot be imported ({error})"
        raise _UnusableError(why, _install(again=not absent)) from error
    try:
        check_supported(version)
    except BackendUnavailableError as error:
        raise _UnusableError(str(error), _install(again=False)) from error
    return version


def _find_gpu(index: int, version: str) -> cuda.Gpu:
    """The GPU with this index, which this TensorRT can use. Raises _UnusableError."""
    try:
        from cuda.bindings import runtime  # noqa: F401
    except Exception as error:  # as above
        why = f"TensorRT {version} is here, but cuda-python cannot be imported ({error})"
        raise _UnusableError(why, cuda.INSTALL) from error
    try:
        gpu = cuda.gpu(index)
        check_driver(version, gpu.driver_cuda)
    except DriverError as error:
        why = f"TensorRT {version} is here, but {error}"
        raise _UnusableError(why, "nvidia-smi", DriverError) from error
    except Exception as error:  # BackendUnavailableError for what can be foreseen
        raise _UnusableError(f"TensorRT {version} is here, but {error}", "nvidia-smi") from error
    return gpu


def _install(*, again: bool) -> str:
    if _JETSON.exists():
        return "sudo apt install python3-libnvinfer   (JetPack's own; pip's TensorRT is not for Jetson)"
    return f"pip install {'--force-reinstall ' if again else ''}'fiffdepth-rt[tensorrt]'"

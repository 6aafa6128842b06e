"""The libraries and the GPU of this machine: whether they work, and what a plan must be for to run here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fiffdepth_rt.backends import Usability
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, Flavour, load
from fiffdepth_rt.backends.tensorrt.versions import (
    Release,
    check_driver,
    check_supported,
    parse_version,
    show_version,
)
from fiffdepth_rt.errors import BackendUnavailableError, DriverError
from fiffdepth_rt.gpu import cuda
from fiffdepth_rt.machine import installed

_WHEELS = ("cuda-python", "cuda-bindings")
_JETSON = Path("/etc/nv_tegra_release")  # JetPack writes it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where a plan runs: a flavour in one version, and a GPU by name and compute capability ("8.9").

    gpu_name: None for a portable plan, which is for every GPU that its compute capability stands for.
    """

    flavour: Flavour = TENSORRT
    gpu_name: str | None
    compute_capability: str
    tensorrt_version: str

    @property
    def release(self) -> Release:
        """The flavour in its version."""
        return Release(flavour=self.flavour, version=parse_version(self.tensorrt_version))


def usable(flavour: Flavour = TENSORRT) -> Usability:
    """Whether the library and cuda-python can be imported here, and find a GPU. Never raises."""
    versions = installed((flavour.name, *_WHEELS))
    try:
        release = _import(flavour)
        versions[flavour.name] = show_version(release.version)  # its own word comes before its wheel's
        gpu = _find_gpu(0, release)
    except _UnusableError as error:
        return Usability(
            name=flavour.name,
            usable=False,
            why=error.why,
            fix=error.fix,
            versions=versions,
            error=error.kind,
        )
    why = f"{release} on {gpu.name} (compute capability {gpu.compute_capability})"
    return Usability(name=flavour.name, usable=True, why=why, fix="", versions=versions)


def require(index: int = 0, flavour: Flavour = TENSORRT) -> tuple[Target, cuda.Gpu]:
    """What plans must be for to run here, and the GPU with this index.

    Raises BackendUnavailableError, with the command that helps, unless the library is usable there;
    DriverError where only the driver is missing or too old.
    """
    try:
        release = _import(flavour)
        gpu = _find_gpu(index, release)
    except _UnusableError as error:
        raise error.kind(f"{flavour.title} cannot be used: {error.why}. Run: {error.fix}") from error
    target = Target(
        flavour=flavour,
        gpu_name=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt_version=show_version(release.version),
    )
    return target, gpu


def require_builder(flavour: Flavour) -> Release:
    """The release that builds portable plans here, with or without a GPU. Raises BackendUnavailableError."""
    try:
        return _import(flavour)
    except _UnusableError as error:
        raise error.kind(f"{flavour.title} cannot be used: {error.why}. Run: {error.fix}") from error


def cuda_device_index(device: str | None) -> int:
    """ "cuda:1" -> 1; None and "cuda" are the first GPU. Raises BackendUnavailableError."""
    kind, colon, index = ("cuda" if device is None else device).partition(":")
    if kind != "cuda" or not (index.isdecimal() if colon else True):
        raise BackendUnavailableError(
            f"device={device!r}: TensorRT runs on NVIDIA GPUs. Say 'cuda', 'cuda:1', or another backend."
        )
    return int(index or 0)


class _UnusableError(Exception):
    """Why a library cannot be used here, the command that helps, and the kind of error that a caller gets."""

    def __init__(
        self, why: str, fix: str, kind: type[BackendUnavailableError] = BackendUnavailableError
    ) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why.rstrip(".")
        self.fix = fix


def _import(flavour: Flavour) -> Release:
    """The release that can be imported here. Raises _UnusableError."""
    try:
        version = str(load(flavour).__version__)
    except Exception as error:  # a broken wheel fails in its own ways
        absent = isinstance(error, ModuleNotFoundError) and error.name == flavour.module
        why = f"{flavour.name} is not installed" if absent else f"{flavour.name} cannot be imported ({error})"
        raise _UnusableError(why, _install(flavour, again=not absent)) from error
    try:
        check_supported(version, flavour)
    except BackendUnavailableError as error:
        raise _UnusableError(str(error), _install(flavour, again=False)) from error
    return Release(flavour=flavour, version=parse_version(version))


def _find_gpu(index: int, release: Release) -> cuda.Gpu:
    """The GPU with this index, which this release can use. Raises _UnusableError."""
    try:
        from cuda.bindings import runtime  # noqa: F401
    except Exception as error:  # as above
        why = f"{release} is here, but cuda-python cannot be imported ({error})"
        raise _UnusableError(why, cuda.INSTALL) from error
    try:
        gpu = cuda.gpu(index)
        check_driver(release, gpu.driver_cuda)
    except DriverError as error:
        why = f"{release} is here, but {error}"
        raise _UnusableError(why, "nvidia-smi", DriverError) from error
    except Exception as error:  # BackendUnavailableError for what can be foreseen
        raise _UnusableError(f"{release} is here, but {error}", "nvidia-smi") from error
    return gpu


def _install(flavour: Flavour, *, again: bool) -> str:
    if _JETSON.exists() and not flavour.portable:
        return "sudo apt install python3-libnvinfer   (JetPack's own; pip's TensorRT is not for Jetson)"
    return f"pip install {'--force-reinstall ' if again else ''}'fiffdepth-rt[{flavour.name}]'"

"""What an inference engine is to the journey: one small Protocol; each engine has a folder here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends.grids import Size
from fiffdepth_rt.errors import BackendUnavailableError

Array = npt.NDArray[Any]


class Backend(Protocol):
    """An opened engine: the three stages of one graph set on one device.

    Shapes: B batch, h×w grid. Safe to call from several threads at once. A failure raises InferenceError, or
    DeviceMemoryError where a GPU has no room.
    """

    @property
    def name(self) -> str:
        """ "onnxruntime", "openvino", "tensorrt" or "tensorrt-rtx"."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:0"."""

    @property
    def precision(self) -> str:
        """The graph set, e.g. "fp32"; or sets that differ in their grid alone (`grids.families`)."""

    def grid_for(self, photo_hw: tuple[int, int], size: Size) -> tuple[int, int]:
        """The grid on which this engine takes such a photo: `grids.Grids.choose`."""

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """image -> depth map: uint8 B×h×w×3 on the grid -> float32 B×h×w in [0, 1].

        Takes any B, and splits it where memory or the engine asks for that.
        """

    def run_stage(self, stage: str, value: Array) -> Array:
        """One stage alone, by its name in engine_dir.STAGES; the decoder gives the depth map, clipped."""

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        """depth latent -> the decoder's value before the clip, B×h×w; the measure of parity."""

    def describe(self) -> dict[str, Any]:
        """Versions, threads, provider: whatever tells this engine from another."""

    def close(self) -> None:
        """Let go of memory and device. Calls that are running end well."""


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that takes arrays on its GPU, and leaves its results there."""

    def run_on_gpu(
        self, image: Any, *, color: str = "rgb", out: Any = "device", cuda_stream: Any = None
    ) -> Any:
        """image -> depth map, one of them on the GPU at least, without a copy through the host.

        image: uint8 h×w×3 on the grid, an array on the GPU (`gpu.arrays`) or on the host.
        color: "rgb"; another one only for the error.
        out: "device" gives a DeviceDepth, "host" a numpy array; a float32 h×w array on the GPU is written and
            returned.
        cuda_stream: the caller's (see `gpu.arrays.stream_handle`); None for CUDA's default stream. The work
            waits for what was asked of it before, and what is asked of it afterwards waits for the work.

        Raises ImageError, SizeError, InferenceError, DeviceMemoryError.
        """


@runtime_checkable
class CompilingBackend(Backend, Protocol):
    """A backend that may compile kernels when it is opened, and keep them in the user's cache folder."""

    def forget_kernels(self) -> bool:
        """Delete those that are kept, so that the next opening compiles; False where none are ever kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usability:
    """Whether an engine works on this machine.

    why: one sentence, also where it is usable. fix: the command that helps, or "" if none is needed.
    versions: of everything looked at, by distribution name. error: what asking for it by name raises.
    """

    name: str
    usable: bool
    why: str
    fix: str
    versions: Mapping[str, str]
    error: type[BackendUnavailableError] = BackendUnavailableError

    @classmethod
    def not_imported(
        cls, name: str, error: Exception, *, versions: Mapping[str, str], extra: str
    ) -> Usability:
        """Of an engine whose package raised `error` on import: it is not installed, or broken.

        extra: of fiffdepth-rt, the one that installs the engine.
        """
        why = f"{name} cannot be imported ({error})" if versions else f"{name} is not installed"
        fix = f"pip install {'--force-reinstall ' if versions else ''}'fiffdepth-rt[{extra}]'"
        return cls(name=name, usable=False, why=why, fix=fix, versions=versions)

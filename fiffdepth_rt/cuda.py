"""The little of CUDA that a plan needs, through cuda-python: which GPU is here, memory on it, a stream.

Importing this file needs no GPU and no cuda-python; the first call does, and raises BackendUnavailableError.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

from fiffdepth_rt.errors import BackendUnavailableError, InferenceError

INSTALL = "pip install 'cuda-python>=12.6.1,<14'"

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, by what CUDA says: its name, its compute capability ("8.9"), the highest CUDA of its driver."""

    name: str
    compute_capability: str
    driver_cuda: str


def gpu(index: int = 0) -> Gpu:
    """The GPU with this index. Raises BackendUnavailableError where there is none, or no driver."""
    runtime = _runtime()
    try:
        count = _call(runtime.cudaGetDeviceCount)
        if index >= count:
            raise BackendUnavailableError(f"GPU {index} is not here: CUDA finds {count}.")
        properties = _call(runtime.cudaGetDeviceProperties, index)
        driver = _call(runtime.cudaDriverGetVersion)
    except InferenceError as error:
        raise BackendUnavailableError(
            f"CUDA finds no GPU that works ({error}). Install its driver, so that `nvidia-smi` lists it."
        ) from error
    name = properties.name
    return Gpu(
        name=(name.decode() if isinstance(name, bytes) else str(name)).strip("\0 "),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver_cuda=f"{driver // 1000}.{driver % 1000 // 10}",
    )


class Stream:
    """A stream of work on the GPU that does not wait for the default stream. Close it after use."""

    def __init__(self) -> None:
        runtime = _runtime()
        self._stream = _call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        self.handle = _native_handle(self._stream)

    def synchronize(self) -> None:
        """Wait until the work is done. Raises InferenceError for what failed in it."""
        _call(_runtime().cudaStreamSynchronize, self._stream)

    def copy_in(self, memory: int, value: Array) -> None:
        """A C-contiguous array -> memory of the GPU, which has room for it."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(_runtime().cudaMemcpyAsync, memory, value.ctypes.data, value.nbytes, kind, self._stream)

    def copy_out(self, value: Array, memory: int) -> None:
        """Memory of the GPU -> a C-contiguous array; its values are there after `synchronize`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(_runtime().cudaMemcpyAsync, value.ctypes.data, memory, value.nbytes, kind, self._stream)

    def close(self) -> None:
        _call(_runtime().cudaStreamDestroy, self._stream)


@contextlib.contextmanager
def allocated(nbytes: int) -> Iterator[int]:
    """Memory of the GPU, as its address, until the block ends. Raises InferenceError: no room."""
    runtime = _runtime()
    address = int(_call(runtime.cudaMalloc, nbytes))
    try:
        yield address
    finally:
        runtime.cudaFree(address)  # its status may be of an earlier failure, which was raised already


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except Exception as error:  # a wheel without its libraries fails in its own ways
        raise BackendUnavailableError(f"cuda-python cannot be imported ({error}). Run: {INSTALL}") from error
    return runtime


def _call(function: Any, *arguments: Any) -> Any:
    """A function of cuda-python -> its result. Raises InferenceError where its status is not success."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # the driver's library is not here, or lacks the function
        raise InferenceError(f"CUDA: {error}") from error
    if int(status) != 0:
        text = _runtime().cudaGetErrorString(status)[1]
        raise InferenceError(f"CUDA: {text.decode() if isinstance(text, bytes) else text}")
    return results[0] if results else None


def _native_handle(stream: Any) -> int:
    """cuda-python's stream -> the address that TensorRT takes; from 12.9 on, int() of it is deprecated."""
    try:
        from cuda.bindings.utils import get_cuda_native_handle
    except ImportError:
        return int(stream)
    return int(get_cuda_native_handle(stream))

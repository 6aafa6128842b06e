"""The little of CUDA that plans need, through cuda-python: a GPU, memory, streams, events, CUDA graphs.

All of it in the GPU's primary context, the one that torch, cupy and numba use too. Importing this file needs
no GPU and no cuda-python; the first call does, and raises BackendUnavailableError.

An address is an int. A stream is known to others by its handle, an int as well: 1 is CUDA's legacy default
stream, which torch, cupy and numba work in unless told otherwise. H2D: host to device (GPU); D2H: back.

Why not cuda.core (1.2), which has all of these: cuda-python 12 does not bring it, it does not import beside
the cuda-python 12.6 of JetPack 6, and it calls the driver below Python, where no stand-in can take the GPU's
place: the order of copies, stages and waits could then be tested on a GPU only.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import BackendUnavailableError, DeviceMemoryError, DriverError, InferenceError
from fiffdepth_rt.machine import MIB

INSTALL = "pip install 'cuda-python>=12.6.1,<14'"
DEFAULT_STREAM = 1

# cudaError_t
_OUT_OF_MEMORY = 2
_INSUFFICIENT_DRIVER = 35

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as CUDA describes it: name, compute capability ("8.9"), highest CUDA of its driver ("12.4")."""

    name: str
    compute_capability: str
    driver_cuda: str


def gpu(index: int = 0) -> Gpu:
    """The GPU with this index.

    Raises BackendUnavailableError where there is no GPU, DriverError where the driver is missing or old.
    """
    runtime = _runtime()
    try:
        check_driver(_version(runtime.cudaDriverGetVersion), _version(runtime.cudaRuntimeGetVersion))
        count = _call(runtime.cudaGetDeviceCount)
        if index >= count:
            raise BackendUnavailableError(f"GPU {index} is not here: CUDA finds {count}.")
        properties = _call(runtime.cudaGetDeviceProperties, index)
    except InferenceError as error:
        raise BackendUnavailableError(
            f"CUDA finds no GPU that works ({error}). Install its driver, so that `nvidia-smi` lists it."
        ) from error
    name = properties.name
    return Gpu(
        name=(name.decode() if isinstance(name, bytes) else str(name)).strip("\0 "),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver_cuda=show_version(_version(runtime.cudaDriverGetVersion)),
    )


def check_driver(driver: int, runtime: int) -> None:
    """Raises unless a driver may serve a CUDA runtime; both as CUDA numbers them, 12060 for 12.6.

    Any driver serves the runtimes of its major version and of older ones. Raises DriverError
    where there is no driver (0), or one that is too old.
    """
    if driver == 0:
        raise DriverError(
            "CUDA finds no driver of an NVIDIA GPU. Install it, so that `nvidia-smi` lists the GPU."
        )
    if driver // 1000 < runtime // 1000:
        major = driver // 1000
        raise DriverError(
            f"The NVIDIA driver is too old: it serves CUDA up to {show_version(driver)}, and cuda-python "
            f"here is for CUDA {show_version(runtime)}. Update the driver, or run: "
            f"pip install 'cuda-python>={major},<{major + 1}'   (and a TensorRT for CUDA {major})"
        )


def show_version(number: int) -> str:
    """12060 -> "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


@contextlib.contextmanager
def on_gpu(index: int) -> Iterator[None]:
    """This thread's current GPU is `index` until the block ends, then what it was before."""
    runtime = _runtime()
    before = int(_call(runtime.cudaGetDevice))
    if before != index:
        _call(runtime.cudaSetDevice, index)
    try:
        yield
    finally:
        if before != index:
            _call(runtime.cudaSetDevice, before)


# --- memory ---


def allocate(nbytes: int, what: str) -> int:
    """Allocate memory of the current GPU -> its address. what: what the memory is for, for the error.

    Raises DeviceMemoryError, which leaves everything as it was.
    """
    runtime = _runtime()
    status, results = _status(runtime.cudaMalloc, max(1, nbytes))
    if status == _OUT_OF_MEMORY:
        runtime.cudaGetLastError()  # else the next call of whoever asks for the last error would see it
        raise no_room(what, nbytes)
    _check(status)
    return int(results[0])


def free(address: int) -> None:
    """Give memory back, once the GPU has done all the work that is enqueued. Never raises."""
    with contextlib.suppress(Exception):  # the failure that broke the context was raised where it happened
        _runtime().cudaFree(address)


def no_room(what: str, needed: int | None) -> DeviceMemoryError:
    """The error for memory that the current GPU has not got. needed: bytes; None if unknown."""
    free_bytes, total = memory()
    amount = "more memory than there is" if needed is None else f"{-(-needed // MIB)} MiB"
    return DeviceMemoryError(
        f"The GPU has no room for {what}: it needs {amount}, and {free_bytes // MIB} of {total // MIB} MiB "
        "are free. Close other programs on the GPU, build plans for a smaller --grid or --batch, or use a "
        "half-precision set.",
        needed_bytes=needed,
        free_bytes=free_bytes,
        total_bytes=total,
    )


def memory() -> tuple[int, int]:
    """(free, total) bytes of the current GPU. Raises InferenceError."""
    status, results = _status(_runtime().cudaMemGetInfo)
    _check(status)
    return int(results[0]), int(results[1])


def gpu_of(address: int) -> int:
    """The index of the GPU that an address lies on. Raises InferenceError for an address on no GPU."""
    runtime = _runtime()
    attributes = _call(runtime.cudaPointerGetAttributes, address)
    kinds = runtime.cudaMemoryType
    if attributes.type not in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged):
        raise InferenceError("The array says that it lies on a GPU, and CUDA does not know its address.")
    return int(attributes.device)


@contextlib.contextmanager
def allocated(nbytes: int) -> Iterator[int]:
    """Memory of the GPU, as its address, until the block ends. Raises DeviceMemoryError."""
    address = allocate(nbytes, "a tensor")
    try:
        yield address
    finally:
        free(address)


class PinnedArray:
    """Host memory that the GPU copies from and to by itself, as a numpy array. Close it after use."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Raises InferenceError where the system does not pin as much memory."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        runtime = _runtime()
        status, results = _status(runtime.cudaHostAlloc, nbytes, 0)
        if status == _OUT_OF_MEMORY:
            runtime.cudaGetLastError()
            raise InferenceError(
                f"The system does not pin {-(-nbytes // MIB)} MiB of host memory for copies to the GPU. "
                "Close other programs, or raise the limit of locked memory (`ulimit -l`)."
            )
        _check(status)
        self.address = int(results[0])
        memory = (ctypes.c_uint8 * nbytes).from_address(self.address)
        self.values: Array = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def close(self) -> None:
        """`values` may not be read afterwards."""
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaFreeHost(self.address)


# --- streams, events, CUDA graphs ---


class Stream:
    """A stream of work on the current GPU that does not wait for the default stream. Close it after use."""

    def __init__(self) -> None:
        runtime = _runtime()
        self._stream = _call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        self.handle = _native_handle(self._stream)

    def synchronize(self) -> None:
        """Wait until the work is done. Raises InferenceError for what failed in it."""
        _call(_runtime().cudaStreamSynchronize, self._stream)

    def copy_h2d(self, address: int, values: Array) -> None:
        """A C-contiguous array -> memory of the GPU, which has room for it."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, values.ctypes.data, values.nbytes, kind)

    def copy_d2h(self, values: Array, address: int) -> None:
        """Memory of the GPU -> a C-contiguous array, which holds the values after `synchronize`."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(values.ctypes.data, address, values.nbytes, kind)

    def copy_d2d(self, to: int, from_: int, nbytes: int) -> None:
        """Memory of the GPU -> memory of the GPU."""
        self._copy(to, from_, nbytes, _runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def copy_rows_d2d(self, to: int, from_: int, *, row_nbytes: int, pitch: int, rows: int) -> None:
        """Rows of memory of the GPU, `pitch` bytes apart -> rows without gaps."""
        runtime = _runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        _call(runtime.cudaMemcpy2DAsync, to, row_nbytes, from_, pitch, row_nbytes, rows, kind, self._stream)

    @contextlib.contextmanager
    def capture(self) -> Iterator[list[CudaGraph]]:
        """What is enqueued in this stream in the block is not run, but becomes a CUDA graph.

        The graph is in the list when the block ends. Raises InferenceError where CUDA cannot capture what was
        enqueued; the stream is usable afterwards.
        """
        runtime = _runtime()
        captured: list[CudaGraph] = []
        # ThreadLocal: other threads of the process, such as torch's, may go on allocating meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(runtime.cudaStreamBeginCapture, self._stream, mode)
        try:
            yield captured
        except BaseException:
            status, results = _status(runtime.cudaStreamEndCapture, self._stream)
            if status == 0:
                runtime.cudaGraphDestroy(results[0])
            runtime.cudaGetLastError()  # a capture that was broken off leaves an error behind
            raise
        status, results = _status(runtime.cudaStreamEndCapture, self._stream)
        if status != 0:
            runtime.cudaGetLastError()
        _check(status)
        captured.append(CudaGraph(results[0]))

    def close(self) -> None:
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaStreamDestroy(self._stream)

    def _copy(self, to: int, from_: int, nbytes: int, kind: Any) -> None:
        _call(_runtime().cudaMemcpyAsync, to, from_, nbytes, kind, self._stream)


class Event:
    """A mark in a stream's work. Close it after use."""

    def __init__(self) -> None:
        runtime = _runtime()
        self._event = _call(runtime.cudaEventCreateWithFlags, runtime.cudaEventDisableTiming)

    def record(self, stream: int) -> None:
        """Put the mark behind all that is enqueued so far in the stream with this handle."""
        _call(_runtime().cudaEventRecord, self._event, stream)

    def synchronize(self) -> None:
        """Wait until the GPU has reached the mark. Raises InferenceError for what failed before it."""
        _call(_runtime().cudaEventSynchronize, self._event)

    def wait_in(self, stream: int) -> None:
        """What is enqueued from now on in the stream with this handle waits for the mark."""
        _call(_runtime().cudaStreamWaitEvent, stream, self._event, 0)

    def done(self) -> bool:
        """Whether the GPU has reached the mark."""
        status, _ = _status(_runtime().cudaEventQuery, self._event)
        return status == 0

    def close(self) -> None:
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaEventDestroy(self._event)


class CudaGraph:
    """Captured work, to be launched as one. Close it after use."""

    def __init__(self, graph: Any) -> None:
        """graph: CUDA's own, which is destroyed here, being needed no longer. Raises InferenceError."""
        runtime = _runtime()
        try:
            self._executable = _call(runtime.cudaGraphInstantiate, graph, 0)
        finally:
            runtime.cudaGraphDestroy(graph)

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it in this stream. Raises InferenceError."""
        _call(_runtime().cudaGraphLaunch, self._executable, stream.handle)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaGraphExecDestroy(self._executable)


# --- calls ---


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except Exception as error:  # a wheel without its libraries fails in its own ways
        raise BackendUnavailableError(f"cuda-python cannot be imported ({error}). Run: {INSTALL}") from error
    return runtime


def _status(function: Callable[..., Any], *arguments: Any) -> tuple[int, list[Any]]:
    """A function of cuda-python -> its status and results. Raises InferenceError where it is not there."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # the driver's library is not here, or lacks the function
        raise InferenceError(f"CUDA: {error}") from error
    return int(status), results


def _check(status: int) -> None:
    if status != 0:
        raise InferenceError(f"CUDA says {_runtime().cudaError_t(status).name}.")


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function of cuda-python -> its result. Raises InferenceError where its status is not success."""
    status, results = _status(function, *arguments)
    _check(status)
    return results[0] if results else None


def _version(function: Callable[..., Any]) -> int:
    """A version as CUDA numbers it; 0 where there is no driver to ask."""
    try:
        return int(_call(function))
    except InferenceError:
        return 0


def _native_handle(stream: Any) -> int:
    """cuda-python's stream -> the address that TensorRT takes; from 12.9 on, int() of it is deprecated."""
    try:
        from cuda.bindings.utils import get_cuda_native_handle
    except ImportError:
        return int(stream)
    return int(get_cuda_native_handle(stream))

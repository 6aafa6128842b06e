"""The little of CUDA that plans need, through cuda-python: a GPU, memory, a stream, an event, a graph.

All of it in the GPU's primary context, the one that torch, cupy and numba use too. Importing this file needs
no GPU and no cuda-python; the first call does, and raises BackendUnavailableError.

An address is an int. A stream is known to others by its handle, an int as well: 1 is CUDA's legacy default
stream, which torch, cupy and numba work in unless told otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import BackendUnavailableError, DeviceMemoryError, DriverError, InferenceError

INSTALL = "pip install 'cuda-python>=12.6.1,<14'"
DEFAULT_STREAM = 1
MIB = 2**20

# cudaError_t
_OUT_OF_MEMORY = 2
_INSUFFICIENT_DRIVER = 35

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, by what CUDA says: its name, its compute capability ("8.9"), the highest CUDA of its driver."""

    name: str
    compute_capability: str
    driver_cuda: str


def gpu(index: int = 0) -> Gpu:
    """The GPU with this index.

    Raises BackendUnavailableError where there is none, or no driver; DriverError where that is too old.
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

    Any driver serves the runtimes of its major version, and those of older ones. Raises
    BackendUnavailableError where there is no driver (0), DriverError where it is too old.
    """
    if driver == 0:
        raise BackendUnavailableError(
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
    """Memory of the current GPU, as its address. what: it is for, in the words of the error.

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
    """Give memory back, when the GPU has done all that was asked of it. Never raises."""
    with contextlib.suppress(Exception):  # the failure that broke the context was raised where it happened
        _runtime().cudaFree(address)


def no_room(what: str, needed: int | None) -> DeviceMemoryError:
    """The error for memory of the current GPU that is not there. needed: bytes, None if nobody knows."""
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
    """The index of the GPU that an address lies on. Raises InferenceError where it is no GPU's."""
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


class Pinned:
    """Host memory that the GPU copies from and to by itself. `array` is a view of it. Close it after use."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Raises InferenceError where the system does not pin as much."""
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
        self.array: Array = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def fill(self, part: Array) -> None:
        """Rows of an array -> the first rows of this memory."""
        self.array[: len(part)] = part
        _tell(Copy.FILL, part.nbytes)

    def drain(self, rows: int) -> Array:
        """The first rows, copied."""
        part: Array = self.array[:rows].copy()
        _tell(Copy.DRAIN, part.nbytes)
        return part

    def close(self) -> None:
        """No view of it may be read afterwards."""
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaFreeHost(self.address)


# --- copies ---


class Copy(enum.Enum):
    """The kinds of copies, in the order of a journey from host to host. Only ACROSS leaves the host out."""

    FILL = "host array -> pinned memory"
    UP = "pinned memory -> GPU"
    ACROSS = "GPU -> the same GPU"
    DOWN = "GPU -> pinned memory"
    DRAIN = "pinned memory -> host array"


_watchers: list[list[tuple[Copy, int]]] = []


@contextlib.contextmanager
def watched_copies() -> Iterator[list[tuple[Copy, int]]]:
    """Every copy made until the block ends, in all threads, as (kind, bytes); replayed ones too."""
    seen: list[tuple[Copy, int]] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers[:] = [watcher for watcher in _watchers if watcher is not seen]


def _tell(kind: Copy, nbytes: int) -> None:
    for watcher in _watchers:
        watcher.append((kind, nbytes))


# --- streams, events, graphs ---


class Stream:
    """A stream of work on the current GPU that does not wait for the default stream. Close it after use."""

    def __init__(self) -> None:
        runtime = _runtime()
        self._stream = _call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        self.handle = _native_handle(self._stream)
        self._captured: list[tuple[Copy, int]] | None = None

    def synchronize(self) -> None:
        """Wait until the work is done. Raises InferenceError for what failed in it."""
        _call(_runtime().cudaStreamSynchronize, self._stream)

    def copy_in(self, memory: int, value: Array) -> None:
        """A C-contiguous array -> memory of the GPU, which has room for it."""
        self._copy(Copy.UP, memory, value.ctypes.data, value.nbytes)

    def copy_out(self, value: Array, memory: int) -> None:
        """Memory of the GPU -> a C-contiguous array; its values are there after `synchronize`."""
        self._copy(Copy.DOWN, value.ctypes.data, memory, value.nbytes)

    def copy_across(self, to: int, from_: int, nbytes: int) -> None:
        """Memory of the GPU -> memory of the GPU."""
        self._copy(Copy.ACROSS, to, from_, nbytes)

    def copy_rows(self, to: int, from_: int, *, row_nbytes: int, pitch: int, rows: int) -> None:
        """Rows of memory of the GPU, `pitch` bytes apart -> rows without gaps."""
        runtime = _runtime()
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        _call(runtime.cudaMemcpy2DAsync, to, row_nbytes, from_, pitch, row_nbytes, rows, kind, self._stream)
        self._note(Copy.ACROSS, row_nbytes * rows)

    @contextlib.contextmanager
    def capture(self) -> Iterator[list[Graph]]:
        """What is asked of this stream in the block is not done, but becomes a graph, in the list at its end.

        Raises InferenceError where CUDA cannot capture it; the stream is usable afterwards.
        """
        runtime = _runtime()
        captured: list[Graph] = []
        # ThreadLocal: other threads of the process, such as torch's, may go on allocating meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(runtime.cudaStreamBeginCapture, self._stream, mode)
        self._captured = []
        try:
            yield captured
        except BaseException:
            status, results = _status(runtime.cudaStreamEndCapture, self._stream)
            if status == 0:
                runtime.cudaGraphDestroy(results[0])
            runtime.cudaGetLastError()  # a capture that was broken off leaves an error behind
            raise
        else:
            status, results = _status(runtime.cudaStreamEndCapture, self._stream)
            if status != 0:
                runtime.cudaGetLastError()
            _check(status)
            captured.append(Graph(results[0], tuple(self._captured)))
        finally:
            self._captured = None

    def close(self) -> None:
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaStreamDestroy(self._stream)

    def _copy(self, kind: Copy, to: int, from_: int, nbytes: int) -> None:
        runtime = _runtime()
        direction = {
            Copy.UP: runtime.cudaMemcpyKind.cudaMemcpyHostToDevice,
            Copy.DOWN: runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost,
            Copy.ACROSS: runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice,
        }[kind]
        _call(runtime.cudaMemcpyAsync, to, from_, nbytes, direction, self._stream)
        self._note(kind, nbytes)

    def _note(self, kind: Copy, nbytes: int) -> None:
        if self._captured is None:
            _tell(kind, nbytes)
        else:
            self._captured.append((kind, nbytes))


class Event:
    """A mark in a stream's work. Close it after use."""

    def __init__(self) -> None:
        runtime = _runtime()
        self._event = _call(runtime.cudaEventCreateWithFlags, runtime.cudaEventDisableTiming)

    def record(self, stream: int) -> None:
        """The mark is behind all that was asked of the stream with this handle so far."""
        _call(_runtime().cudaEventRecord, self._event, stream)

    def synchronize(self) -> None:
        """Wait for the mark. Raises InferenceError for what failed before it."""
        _call(_runtime().cudaEventSynchronize, self._event)

    def wait_in(self, stream: int) -> None:
        """What is asked of the stream with this handle from now on waits for the mark."""
        _call(_runtime().cudaStreamWaitEvent, stream, self._event, 0)

    def done(self) -> bool:
        """Whether the mark is reached."""
        status, _ = _status(_runtime().cudaEventQuery, self._event)
        return status == 0

    def close(self) -> None:
        with contextlib.suppress(Exception):  # as in `free`
            _runtime().cudaEventDestroy(self._event)


class Graph:
    """Captured work, to be launched as one. Close it after use."""

    def __init__(self, graph: Any, copies: tuple[tuple[Copy, int], ...]) -> None:
        """graph: CUDA's, which is not needed afterwards and destroyed. Raises InferenceError."""
        runtime = _runtime()
        try:
            self._executable = _call(runtime.cudaGraphInstantiate, graph, 0)
        finally:
            runtime.cudaGraphDestroy(graph)
        self._copies = copies

    def launch(self, stream: Stream) -> None:
        """Do all of it, in this stream. Raises InferenceError."""
        _call(_runtime().cudaGraphLaunch, self._executable, stream.handle)
        for kind, nbytes in self._copies:
            _tell(kind, nbytes)

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

"""CUDA's runtime in host memory, and arrays on its GPU, for tests. Strict where CUDA is not:

- Work is done when somebody waits for it, not before: a wait that is missing gives wrong values.
- Memory begins as garbage. A copy that leaves its allocation is an error, and so is the wrong current GPU.

It says nothing about speed. TensorRT on it: gpu_stand_in.py.
"""

# ruff: noqa: N802, N815 -- the names are CUDA's
from __future__ import annotations

import ctypes
import enum
import threading
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

OUT_OF_MEMORY, INVALID_CAPTURE = 2, 901
GARBAGE = 0xA5
ALIGNMENT = 256


class cudaError_t(enum.IntEnum):  # noqa: N801
    cudaSuccess = 0
    cudaErrorMemoryAllocation = OUT_OF_MEMORY
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureInvalidated = INVALID_CAPTURE


class _Token:
    """One recording of an event: reached when the stream gets there."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.reached = False


class Cuda:
    """cuda.bindings.runtime. gpus: (name, major, minor) of each. driver, runtime: CUDA's, such as 12060."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaError_t = cudaError_t
    cudaMemcpyKind = enum.Enum(
        "cudaMemcpyKind", "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost cudaMemcpyDeviceToDevice"
    )
    cudaStreamCaptureMode = enum.Enum("cudaStreamCaptureMode", "cudaStreamCaptureModeThreadLocal")
    cudaMemoryType = enum.Enum(
        "cudaMemoryType", "cudaMemoryTypeHost cudaMemoryTypeDevice cudaMemoryTypeManaged"
    )

    def __init__(self, *gpus: tuple[str, int, int], driver: int = 13000, runtime: int = 13000) -> None:
        self.gpus, self.driver, self.runtime = gpus, driver, runtime
        self.total = 64 * 2**20
        self.memory: dict[int, tuple[Any, int, int | None]] = {}  # address -> (memory, bytes, GPU or host)
        self.captures_fail = False
        self.engines_say: str | None = None  # in TensorRT's log, when they then refuse to run
        self.capturable = True  # what TensorRT for RTX says of every context
        self.compiled = 0  # plans whose kernels were compiled, and not taken from a runtime cache
        self.with_context: set[int] = set()  # GPUs that something was made on
        self.launches = 0
        self.work = threading.RLock()
        self._here = threading.local()
        self._streams: dict[int, deque[Callable[[], None]]] = {1: deque()}
        self._gpu_of_stream = {1: None}
        self._capturing: dict[int, list[Callable[[], None]]] = {}
        self._events: dict[int, _Token | None] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next = 100

    # --- devices ---

    @property
    def current(self) -> int:
        return getattr(self._here, "gpu", 0)

    def cudaGetDeviceCount(self) -> Any:
        return 0, len(self.gpus)

    def cudaDriverGetVersion(self) -> Any:
        return 0, self.driver

    def cudaRuntimeGetVersion(self) -> Any:
        return 0, self.runtime

    def cudaGetDeviceProperties(self, index: int) -> Any:
        name, major, minor = self.gpus[index]
        return 0, types.SimpleNamespace(name=name.encode(), major=major, minor=minor)

    def cudaGetDevice(self) -> Any:
        return 0, self.current

    def cudaSetDevice(self, index: int) -> Any:
        self._here.gpu = index
        return (0,)

    def cudaGetLastError(self) -> Any:
        return (0,)

    # --- memory ---

    def used(self) -> int:
        return sum(nbytes for _, nbytes, gpu in self.memory.values() if gpu is not None)

    def cudaMemGetInfo(self) -> Any:
        return 0, self.total - self.used(), self.total

    def cudaMalloc(self, nbytes: int) -> Any:
        if self.used() + nbytes > self.total:
            return OUT_OF_MEMORY, None
        return 0, self._allocate(nbytes, self.current)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> Any:
        return 0, self._allocate(nbytes, None)

    def _allocate(self, nbytes: int, gpu: int | None) -> int:
        self.with_context.add(self.current)
        memory = (ctypes.c_uint8 * (nbytes + ALIGNMENT))()
        address = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, GARBAGE, nbytes)
        self.memory[address] = (memory, nbytes, gpu)
        return address

    def cudaFree(self, address: int) -> Any:
        for stream in list(self._streams):
            self._run(stream)
        with self.work:
            del self.memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaPointerGetAttributes(self, address: int) -> Any:
        for start, (_, nbytes, gpu) in self.memory.items():
            if start <= address < start + nbytes and gpu is not None:
                return 0, types.SimpleNamespace(type=self.cudaMemoryType.cudaMemoryTypeDevice, device=gpu)
        return 0, types.SimpleNamespace(type=self.cudaMemoryType.cudaMemoryTypeHost, device=0)

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """Memory of one allocation, as bytes."""
        for start, (_, size, _) in self.memory.items():
            if start <= address and address + nbytes <= start + size:
                return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        raise AssertionError(f"{nbytes} bytes at {address} leave their allocation")

    def is_pinned(self, address: int) -> bool:
        """Whether an address of the host is memory that cudaHostAlloc gave."""
        return any(
            start <= address < start + nbytes and gpu is None
            for start, (_, nbytes, gpu) in self.memory.items()
        )

    def upload(self, array: np.ndarray) -> int:
        """An array -> memory of the current GPU, at once."""
        address = self._allocate(array.nbytes, self.current)
        self.bytes_at(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return address

    # --- work ---

    def enqueue(self, stream: int, work: Callable[[], None], *, checked: bool = True) -> None:
        """Put work behind what is enqueued in a stream, or into the CUDA graph that is being captured."""
        stream = int(stream) or 1
        with self.work:
            gpu = self._gpu_of_stream[stream]
            assert not checked or gpu in (None, self.current), f"stream of GPU {gpu} used on {self.current}"
            (self._capturing[stream] if stream in self._capturing else self._streams[stream]).append(work)

    def _run(self, stream: int, until: _Token | None = None) -> None:
        with self.work:
            queue = self._streams[stream]
            while queue and not (until and until.reached):
                queue.popleft()()

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        self._next += 1
        self.with_context.add(self.current)
        self._streams[self._next], self._gpu_of_stream[self._next] = deque(), self.current
        return 0, self._next

    def cudaStreamDestroy(self, stream: int) -> Any:
        assert not self._streams.pop(stream), "a stream was destroyed with work in it"
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        self._run(stream)
        return (0,)

    def cudaMemcpyAsync(self, to: int, from_: int, nbytes: int, kind: Any, stream: int) -> Any:
        return self.cudaMemcpy2DAsync(to, nbytes, from_, nbytes, nbytes, 1, kind, stream)

    def cudaMemcpy2DAsync(
        self, to: int, to_pitch: int, from_: int, pitch: int, width: int, rows: int, kind: Any, stream: int
    ) -> Any:
        def copy() -> None:
            for row in range(rows):
                ctypes.memmove(to + row * to_pitch, from_ + row * pitch, width)

        kinds = self.cudaMemcpyKind
        if kind is not kinds.cudaMemcpyHostToDevice:
            self.bytes_at(from_, (rows - 1) * pitch + width)
        if kind is not kinds.cudaMemcpyDeviceToHost:
            self.bytes_at(to, rows * to_pitch)
        self.enqueue(stream, copy)
        return (0,)

    # --- events ---

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        self._next += 1
        self._events[self._next] = None
        return 0, self._next

    def cudaEventDestroy(self, event: int) -> Any:
        del self._events[event]
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        token = self._events[event] = _Token(int(stream) or 1)
        self.enqueue(stream, lambda: setattr(token, "reached", True))
        return (0,)

    def cudaEventSynchronize(self, event: int) -> Any:
        self._reach(self._events[event])
        return (0,)

    def cudaEventQuery(self, event: int) -> Any:
        token = self._events[event]
        return (0 if token is None or token.reached else 600,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        token = self._events[event]
        self.enqueue(stream, lambda: self._reach(token), checked=False)
        return (0,)

    def _reach(self, token: _Token | None) -> None:
        if token is not None and not token.reached:
            self._run(token.stream, until=token)

    # --- graphs ---

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> Any:
        self._capturing[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        captured = self._capturing.pop(stream)
        if self.captures_fail:
            return INVALID_CAPTURE, None
        self._next += 1
        self._graphs[self._next] = captured
        return 0, self._next

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        self._next += 1
        self._graphs[self._next] = self._graphs[graph]
        return 0, self._next

    def cudaGraphDestroy(self, graph: int) -> Any:
        del self._graphs[graph]
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, executable: int, stream: int) -> Any:
        self.launches += 1
        for work in self._graphs[executable]:
            self.enqueue(stream, work)
        return (0,)

    def left_over(self) -> tuple[int, int, int, int]:
        """What nobody freed: allocations, streams, events, graphs."""
        return len(self.memory), len(self._streams) - 1, len(self._events), len(self._graphs)


# --- arrays ---


class OnGpu:
    """An array on the stand-in's GPU, as a library would hand it over: with one of the two protocols."""

    def __init__(
        self, cuda: Cuda, array: np.ndarray, *, stream: int | None = None, strides: Any = None
    ) -> None:
        self.cuda, self.array = cuda, array
        self.address = cuda.upload(array)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.address, False),
            "strides": strides,
            "version": 3,
            "stream": stream,
        }

    def values(self) -> np.ndarray:
        flat = self.cuda.bytes_at(self.address, self.array.nbytes)
        return flat.view(self.array.dtype).reshape(self.array.shape).copy()

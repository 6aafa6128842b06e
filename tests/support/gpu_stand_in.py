"""A GPU where there is none: CUDA's runtime in host memory, and TensorRT played by ONNX Runtime.

What stands between our code and the GPU is replaced, never our code. Strict where CUDA is not:

- Work is done when somebody waits for it, not before: a wait that is missing gives wrong values.
- Memory begins as garbage, and a stage scribbles over all that it was given to compute in: a tensor that lies
  there too is lost. A copy that leaves its allocation is an error, and so is the wrong current GPU.

A plan is a copy of the ONNX graph. It says nothing about speed.
"""

# ruff: noqa: N802, N815 -- the names are CUDA's
from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fiffdepth_rt.backends.tensorrt import log as trt_log
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT
from tests.support.plans import graph_in

OUT_OF_MEMORY, INVALID_CAPTURE = 2, 901
GARBAGE = 0xA5
ALIGNMENT = 256
ACTIVATION_NBYTES = {"image": 70_000, "latent": 50_000, "depth_latent": 90_000}  # by what a stage takes


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


# --- TensorRT ---


class _Engine:
    def __init__(self, cuda: Cuda, content: bytes, address: int) -> None:
        self.cuda, self._address = cuda, address  # of its weights, which go when it goes
        self.digest = hashlib.sha256(content).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options)
        self.inputs = [(one.name, one.type) for one in self.session.get_inputs()]
        self._tensors = self.inputs + [(one.name, one.type) for one in self.session.get_outputs()]
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index][0]

    def get_tensor_dtype(self, name: str) -> str:
        return dict(self._tensors)[name]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return ACTIVATION_NBYTES[self.inputs[0][0]] + profile

    def create_execution_context(self, strategy: str) -> _Context:
        assert strategy == "user managed"
        return _Context(self)

    def __del__(self) -> None:
        self.cuda.cudaFree(self._address)


class _RtxEngine(_Engine):
    """Of TensorRT for RTX: compiles its kernels when a context is created."""

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig(self.cuda)

    def create_execution_context(self, config: _RuntimeConfig) -> _RtxContext:
        assert (config.strategy, config.cuda_graph_strategy) == ("user managed", "disabled")
        if config.cache is None or self.digest not in config.cache.kernels:
            self.cuda.compiled += 1
        if config.cache is not None:
            config.cache.kernels.add(self.digest)
        return _RtxContext(self, config.cache)


class _RuntimeConfig:
    """trt.IRuntimeConfig."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.strategy, self.cuda_graph_strategy = "static", "whole graph"
        self.cache: _LibraryCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> _LibraryCache:
        return _LibraryCache(self._cuda)

    def set_runtime_cache(self, cache: _LibraryCache) -> bool:
        self.cache = cache
        return True


class _LibraryCache:
    """trt.IRuntimeCache. Its bytes are for one GPU model and one major version of the driver."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self.kernels = cuda, set[str]()
        self._for = [*cuda.gpus[cuda.current], cuda.driver // 1000]
        self.contexts = 0

    def serialize(self) -> bytes:
        return json.dumps([self._for, sorted(self.kernels)]).encode()

    def deserialize(self, blob: bytes) -> bool:
        assert self._cuda.current in self._cuda.with_context, "no CUDA context is current"
        made_for, kernels = json.loads(blob)  # damaged bytes would raise here
        if made_for == self._for:
            self.kernels |= set(kernels)
        return made_for == self._for

    def __del__(self) -> None:
        assert not self.contexts, "a runtime cache was freed before a context that uses it"


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine, self._addresses = engine, dict[str, int]()
        self._activations: tuple[int, int] | None = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        (self._input,) = self._engine.inputs
        self._shape = shape
        return name == self._input[0]

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        zeros = np.zeros(self._shape, self._dtype())
        return self._shape if name == self._input[0] else self._compute(zeros)[name].shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in dict(self._engine._tensors)

    def set_device_memory(self, address: int, nbytes: int) -> None:
        assert nbytes >= self._engine.get_device_memory_size_for_profile_v2(self._profile)
        assert address % ALIGNMENT == 0
        self._activations = (address, nbytes)

    def execute_async_v3(self, stream: int) -> bool:
        assert self._activations is not None
        if self._engine.cuda.engines_say is not None:
            logger = trt_log.logger(TENSORRT)
            logger.log(logger.Severity.ERROR, self._engine.cuda.engines_say)
            return False

        def run() -> None:
            cuda = self._engine.cuda
            value = np.zeros(self._shape, self._dtype())
            source = cuda.bytes_at(self._addresses[self._input[0]], value.nbytes)
            value.reshape(-1).view(np.uint8)[:] = source
            cuda.bytes_at(*self._activations)[:] = GARBAGE
            np.testing.assert_array_equal(value.reshape(-1).view(np.uint8), source)
            for name, output in self._compute(value).items():
                flat = np.ascontiguousarray(output).reshape(-1).view(np.uint8)
                cuda.bytes_at(self._addresses[name], flat.nbytes)[:] = flat

        self._engine.cuda.enqueue(stream, run)
        return True

    def _dtype(self) -> Any:
        return np.uint8 if self._input[1] == "tensor(uint8)" else np.float32

    def _compute(self, value: np.ndarray) -> dict[str, np.ndarray]:
        names = [one.name for one in self._engine.session.get_outputs()]
        outputs = self._engine.session.run(names, {self._input[0]: value})
        return dict(zip(names, outputs, strict=True))


class _RtxContext(_Context):
    def __init__(self, engine: _Engine, cache: _LibraryCache | None) -> None:
        super().__init__(engine)
        # Not the cache itself: whoever frees it too early shall be found out.
        self._cache = None if cache is None else weakref.ref(cache)
        if cache is not None:
            cache.contexts += 1

    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine.cuda.capturable

    def __del__(self) -> None:
        cache = None if self._cache is None else self._cache()
        if cache is not None:
            cache.contexts -= 1


def _tensorrt(cuda: Cuda, version: str, name: str = "tensorrt") -> types.ModuleType:
    module = types.ModuleType(name)
    module.__version__ = version

    class ILogger:
        Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> _Engine | None:
            status, address = cuda.cudaMalloc(len(content))
            if status:
                text = f"Error Code 2: OutOfMemory (Requested size was {len(content)} bytes.)"
                self._logger.log(ILogger.Severity.ERROR, text)
                return None
            try:
                graph = graph_in(content)
                return (_RtxEngine if name == "tensorrt_rtx" else _Engine)(cuda, graph, address)
            except Exception:
                self._logger.log(ILogger.Severity.ERROR, "Serialization assertion plan->header failed")
                return None

    module.ILogger, module.Runtime = ILogger, Runtime
    module.DataType = types.SimpleNamespace(
        FLOAT="tensor(float)", HALF="tensor(float16)", UINT8="tensor(uint8)"
    )
    if name == "tensorrt_rtx":
        module.CudaGraphStrategy = types.SimpleNamespace(DISABLED="disabled")
    module.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
    return module


def install(
    monkeypatch: pytest.MonkeyPatch, cuda: Cuda, *, tensorrt: str = "10.16.1.11", rtx: str | None = None
) -> None:
    """Until the test ends, `import tensorrt` and `from cuda.bindings import runtime` give the stand-ins.

    rtx: a version; None where there is no TensorRT for RTX.
    """
    package, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, cuda
    for name, module in (
        ("cuda", package),
        ("cuda.bindings", bindings),
        ("cuda.bindings.runtime", cuda),
        ("cuda.bindings.utils", None),
        ("tensorrt", _tensorrt(cuda, tensorrt)),
        ("tensorrt_rtx", None if rtx is None else _tensorrt(cuda, rtx, "tensorrt_rtx")),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    trt_log.logger.cache_clear()

"""A GPU where there is none: CUDA in host memory (cuda_stand_in.py), and TensorRT played by ONNX Runtime.

What stands between our code and the GPU is replaced, never our code. A plan is a copy of the ONNX graph. A
stage scribbles over all that it was given to compute in: a tensor that lies there too is lost. TensorRT for
RTX "compiles" a plan where no runtime cache has it, and dies of damaged bytes.
"""

from __future__ import annotations

import enum
import hashlib
import json
import sys
import types
import weakref
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fiffdepth_rt.backends.tensorrt import log as trt_log
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT
from tests.support.cuda_stand_in import ALIGNMENT, GARBAGE, Cuda
from tests.support.plans import graph_in

ACTIVATION_NBYTES = {"image": 70_000, "latent": 50_000, "depth_latent": 90_000}  # by what a stage takes


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

"""A plan file -> an engine that was checked against its graph, and runs on GPU memory that the caller gives.

GpuRunner: what opens plans on this machine's GPU to check them. OpenedEngine: one stage's plan. StageContext:
what runs an engine under one of its profiles, on addresses that are set once. OpenedPlan: a plan that runs on
numpy arrays, as the check of a plan against golden values needs.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends.tensorrt.flavour import Flavour, load
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, find_profile
from fiffdepth_rt.backends.tensorrt.log import kept_lines, logger, reason, requested_bytes, says_no_memory
from fiffdepth_rt.backends.tensorrt.plan_header import check_header
from fiffdepth_rt.backends.tensorrt.runtime_cache import RuntimeCache
from fiffdepth_rt.backends.tensorrt.versions import Release, release_of
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS
from fiffdepth_rt.errors import (
    BackendError,
    DeviceMemoryError,
    DriverError,
    FiffDepthError,
    InferenceError,
    PlanGpuError,
    PlanMismatchError,
    PlanVersionError,
    StageMismatchError,
)
from fiffdepth_rt.gpu import cuda

Array = npt.NDArray[Any]


class GpuRunner:
    """A `parity.Runner`: the first GPU of this machine, by name.

    kernels: where those that TensorRT for RTX compiles are kept; None to compile them for this run alone.
    """

    def __init__(self, device: str, kernels: RuntimeCache | None = None) -> None:
        self.device = device
        self._kernels = kernels

    def open(self, plan: Path, job: PlanJob) -> OpenedPlan:
        """A plan, ready to run. Raises what OpenedEngine raises."""
        return OpenedPlan(plan, job, self._kernels)


class OpenedEngine:
    """One stage's plan on the current GPU. Several contexts may share it. kernels: as in GpuRunner.

    Raises PlanMismatchError where TensorRT does not take the plan, StageMismatchError where its tensors are
    not those of the graph, DeviceMemoryError where its weights find no room.
    """

    def __init__(self, plan: Path, job: PlanJob, kernels: RuntimeCache | None = None) -> None:
        self.job = job
        self._kernels = kernels
        self._engine: Any = deserialize(plan, job)
        self.dtypes = _tensor_dtypes(self._engine, job)

    def activation_nbytes(self, profile: int) -> int:
        """Bytes of GPU memory that the stage computes in, under one of its profiles."""
        if hasattr(self._engine, "get_device_memory_size_for_profile_v2"):
            return int(self._engine.get_device_memory_size_for_profile_v2(profile))
        return int(self._engine.device_memory_size) if hasattr(self._engine, "device_memory_size") else 0

    def context(self, profile: int, shape: tuple[int, ...], stream: cuda.Stream) -> StageContext:
        """A context that runs the stage under a profile, for an input of this shape, in this stream.

        Raises DeviceMemoryError, InferenceError.
        """
        record = self.job.record
        flavour = release_of(record).flavour
        trt = load(flavour)
        with kept_lines(flavour) as lines:
            if self._kernels is not None:
                context = self._engine.create_execution_context(self._kernels.config(self._engine))
            elif hasattr(trt, "ExecutionContextAllocationStrategy"):
                strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
                context = self._engine.create_execution_context(strategy)
            elif hasattr(self._engine, "create_execution_context_without_device_memory"):
                context = self._engine.create_execution_context_without_device_memory()
            else:
                context = None
            if context is None:
                raise _failure(lines, f"a context of {record.file}", f"cannot run {record.file}")
        takes, _ = STAGE_TENSORS[record.stage]
        done = context.set_optimization_profile_async(profile, stream.handle)
        if not (done and context.set_input_shape(takes[0], shape) and not context.infer_shapes()):
            raise InferenceError(f"The plan {record.file} does not take {shape}. Run: fiffdepth doctor")
        return StageContext(context, record.file, flavour)

    def close(self) -> None:
        """Free the plan's memory. Its contexts must be closed before, and those that share its `kernels`."""
        if self._kernels is not None:
            self._kernels.let_go(self._engine)
        self._engine = None


class StageContext:
    """One stage under one profile. Not to be run by two threads at once."""

    def __init__(self, context: Any, file: str, flavour: Flavour) -> None:
        self._context = context
        self._flavour = flavour
        self._file = file

    def shape(self, tensor: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(tensor))

    def bind(self, tensors: Mapping[str, int], activations: int, activation_nbytes: int) -> None:
        """Set the addresses of the stage's tensors, by name, and of the memory it computes in.

        Raises InferenceError.
        """
        for name, address in tensors.items():
            if not self._context.set_tensor_address(name, address):
                raise InferenceError(f"The plan {self._file} has no tensor {name}. Run: fiffdepth doctor")
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(activations, activation_nbytes)
        else:
            self._context.device_memory = activations

    def is_capturable(self, stream: cuda.Stream) -> bool:
        """Whether the library says that the stage can be captured in this stream; True where it says none."""
        if hasattr(self._context, "is_stream_capturable"):
            return bool(self._context.is_stream_capturable(stream.handle))
        return True

    def enqueue(self, stream: cuda.Stream) -> None:
        """Enqueue the stage in this stream. Raises DeviceMemoryError, InferenceError."""
        with kept_lines(self._flavour) as lines:
            if not self._context.execute_async_v3(stream.handle):
                raise _failure(lines, f"running {self._file}", f"could not run {self._file}")

    def close(self) -> None:
        self._context = None


class OpenedPlan:
    """One stage's plan. input -> output; the decoder's before the clip. Raises what OpenedEngine raises."""

    def __init__(self, plan: Path, job: PlanJob, kernels: RuntimeCache | None = None) -> None:
        self._engine = OpenedEngine(plan, job, kernels)
        self._stream = cuda.Stream()
        self._contexts: dict[int, StageContext] = {}  # by profile: TensorRT for RTX compiles for each new one

    def __call__(self, value: Array) -> Array:
        """Raises InferenceError, DeviceMemoryError."""
        job = self._engine.job
        takes, gives = STAGE_TENSORS[job.record.stage]
        index = find_profile(job, value.shape)
        stream = self._stream
        if index not in self._contexts:
            self._contexts[index] = self._engine.context(index, tuple(value.shape), stream)
        context = self._contexts[index]
        arrays = {name: np.zeros(context.shape(name), dtype) for name, dtype in self._engine.dtypes.items()}
        arrays[takes[0]][...] = value
        with contextlib.ExitStack() as memory:
            addresses = {
                name: memory.enter_context(cuda.allocated(array.nbytes)) for name, array in arrays.items()
            }
            nbytes = self._engine.activation_nbytes(index)
            context.bind(addresses, memory.enter_context(cuda.allocated(nbytes)), nbytes)
            stream.copy_h2d(addresses[takes[0]], arrays[takes[0]])
            context.enqueue(stream)
            stream.copy_d2h(arrays[gives[-1]], addresses[gives[-1]])
            stream.synchronize()
        return arrays[gives[-1]]

    def close(self) -> None:
        """Free the plan and its memory."""
        for context in self._contexts.values():
            context.close()
        self._stream.close()
        self._engine.close()


def deserialize(plan: Path, job: PlanJob) -> Any:
    """Plan -> trt.ICudaEngine, refitted if it is stripped.

    Raises PlanMismatchError (PlanVersionError, PlanGpuError), DriverError, DeviceMemoryError.
    """
    release = release_of(job.record)
    content = plan.read_bytes()
    check_header(content, plan, job.record)
    trt = load(release.flavour)
    with kept_lines(release.flavour) as lines:
        runtime = trt.Runtime(logger(release.flavour))
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = False  # a plan is data: it may not run code on the host
        check_validity(trt, runtime, content, plan, release)
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            if says_no_memory(lines):
                raise cuda.no_room(f"the weights of {plan}", requested_bytes(lines) or len(content))
            raise refusal(lines, plan, release)
        if job.record.stripped:
            refitter = trt.Refitter(engine, logger(release.flavour))
            parser = trt.OnnxParserRefitter(refitter, logger(release.flavour))
            if not (parser.refit_from_file(str(job.graph)) and refitter.refit_cuda_engine()):
                raise PlanMismatchError(
                    f"The weights of {job.graph} do not fit {plan}: {reason(lines)}. "
                    "Run `fiffdepth build` without --strip-plan."
                )
    return engine


def check_validity(trt: Any, runtime: Any, content: bytes, plan: Path, release: Release) -> None:
    """What TensorRT for RTX says of a plan's first bytes -> the error, if it will not run here.

    Raises PlanVersionError, PlanGpuError, DriverError, DeviceMemoryError, PlanMismatchError. Where the
    library could not look at the GPU it gives no reason, and opening the plan will tell. TensorRT itself is
    not asked: it only opens a plan or does not.
    """
    if hasattr(trt, "EngineValidity"):
        validity, diagnostics = runtime.get_engine_validity(content[: runtime.engine_header_size])
        if validity != trt.EngineValidity.INVALID:
            return
        bits = trt.EngineInvalidityDiagnostics
        found = [name for name in _MEANINGS if int(diagnostics) & int(getattr(bits, name))]
        if found:
            error, words = _MEANINGS[found[0]]
            if error is DeviceMemoryError:
                raise cuda.no_room(f"the weights of {plan}", None)
            raise error(f"{release} does not take {plan}: {words}.")


_MEANINGS: dict[str, tuple[type[FiffDepthError], str]] = {
    "MALFORMED_ENGINE": (
        PlanMismatchError,
        "it is not a plan of this library, or not a whole one. Run `fiffdepth build` again",
    ),
    "VERSION_MISMATCH": (
        PlanVersionError,
        "it is of another version. Run `fiffdepth build --flavour rtx` again",
    ),
    "UNSUPPORTED_CC": (
        PlanGpuError,
        "it is not for this GPU's compute capability, or no plan is. See docs/deploy.md for which GPUs are",
    ),
    "OLD_CUDA_DRIVER": (DriverError, "the NVIDIA driver is too old. Update it (580 or newer for CUDA 13)"),
    "OLD_CUDA_RUNTIME": (DriverError, "CUDA's runtime is too old. Install the extra tensorrt-rtx again"),
    "INSUFFICIENT_GPU_MEMORY": (DeviceMemoryError, "the GPU has no room for it"),
}


def refusal(lines: deque[str], plan: Path, release: Release) -> FiffDepthError:
    """What the library said when it did not open a plan -> the error."""
    said = " ".join(lines)
    # What is wrong with the plan comes first: without a driver, the library complains of the GPU as well.
    if "magicTag" in said:
        why = "it is not a plan of this library"
    elif "blobSize" in said:
        why = "it was cut short"
    elif "cudaError 35" in said:
        return DriverError(
            f"{release} finds no NVIDIA driver that it can use, so {plan} cannot be opened. Install a "
            "driver, or a newer one, so that `nvidia-smi` lists the GPU; or use backend='onnxruntime'."
        )
    else:
        why = reason(lines)
    return PlanMismatchError(f"{release} does not take {plan}: {why}. Run `fiffdepth build` again.")


def _failure(lines: deque[str], needing: str, failed: str) -> BackendError:
    """What TensorRT said when it gave up -> the error: GPU memory that ran out, or another failure."""
    if says_no_memory(lines):
        return cuda.no_room(needing, requested_bytes(lines))
    return InferenceError(f"TensorRT {failed}: {reason(lines)}. Run: fiffdepth doctor")


def _tensor_dtypes(engine: Any, job: PlanJob) -> dict[str, Any]:
    """The plan's tensors, by name, as numpy types. trt.nptype is left alone: it breaks with some numpys."""
    trt = load(release_of(job.record).flavour)
    known = {
        trt.DataType.FLOAT: np.float32,
        trt.DataType.HALF: np.float16,
        trt.DataType.UINT8: np.uint8,
    }
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    dtypes = {name: known.get(engine.get_tensor_dtype(name)) for name in names}
    listed = {spec.name: spec.dtype for spec in (*job.stage.inputs, *job.stage.outputs)}
    found = {name: None if dtype is None else np.dtype(dtype).name for name, dtype in dtypes.items()}
    if found != listed:
        shown = ", ".join(f"{name} {engine.get_tensor_dtype(name)}" for name in names)
        raise StageMismatchError(
            f"The plan {job.record.file} has {shown}; the stage has "
            f"{', '.join(f'{name} {dtype}' for name, dtype in listed.items())}. Export the directory again."
        )
    return dtypes

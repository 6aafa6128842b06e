"""A plan, run on numpy arrays: what the parity check of a fresh plan needs, and no more."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt import cuda
from fiffdepth_rt.engine_dir import JOURNEY
from fiffdepth_rt.errors import InferenceError, PlanMismatchError, StageMismatchError
from fiffdepth_rt.plan_rules import PlanJob, find_profile
from fiffdepth_rt.trt_log import kept_lines, logger, reason

Array = npt.NDArray[Any]


class OpenedPlan:
    """One stage's plan. input -> output; the decoder's before the clip.

    Raises PlanMismatchError where TensorRT does not take the plan, StageMismatchError where its tensors are
    not those of the graph.
    """

    def __init__(self, plan: Path, job: PlanJob) -> None:
        self._job = job
        self._engine = deserialize(plan, job)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise InferenceError(f"TensorRT has no memory to run {plan}. Close other programs on the GPU.")
        self._stream = cuda.Stream()
        self._dtypes = _tensor_dtypes(self._engine, job)

    def __call__(self, value: Array) -> Array:
        """Raises InferenceError."""
        takes, gives = JOURNEY[self._job.record.stage]
        context, stream = self._context, self._stream
        index = find_profile(self._job, value.shape)
        done = context.set_optimization_profile_async(index, stream.handle)
        if not (done and context.set_input_shape(takes[0], tuple(value.shape))):
            raise self._failed(f"does not take {value.dtype} {value.shape}")
        arrays = {
            name: np.zeros(tuple(context.get_tensor_shape(name)), dtype)
            for name, dtype in self._dtypes.items()
        }
        arrays[takes[0]][...] = value
        with contextlib.ExitStack() as memory:
            addresses = {
                name: memory.enter_context(cuda.allocated(array.nbytes)) for name, array in arrays.items()
            }
            for name, address in addresses.items():
                if not context.set_tensor_address(name, address):
                    raise self._failed(f"has no tensor {name}")
            stream.copy_in(addresses[takes[0]], arrays[takes[0]])
            with kept_lines() as lines:
                if not context.execute_async_v3(stream.handle):
                    raise self._failed(f"failed: {reason(lines)}")
            stream.copy_out(arrays[gives[-1]], addresses[gives[-1]])
            stream.synchronize()
        return arrays[gives[-1]]

    def close(self) -> None:
        """Free the plan and its memory."""
        self._stream.close()
        self._context = None
        self._engine = None

    def _failed(self, what: str) -> InferenceError:
        return InferenceError(f"The plan {self._job.record.file} {what}. Run: fiffdepth doctor")


def deserialize(plan: Path, job: PlanJob) -> Any:
    """Plan -> trt.ICudaEngine, refitted if it is stripped. Raises PlanMismatchError."""
    import tensorrt as trt

    with kept_lines() as lines:
        runtime = trt.Runtime(logger())
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = False  # a plan is data; ours hold no programs
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise PlanMismatchError(
                f"TensorRT {job.record.tensorrt_version} does not take {plan}: {reason(lines)}. "
                "Run `fiffdepth build` again."
            )
        if job.record.stripped:
            refitter = trt.Refitter(engine, logger())
            parser = trt.OnnxParserRefitter(refitter, logger())
            if not (parser.refit_from_file(str(job.graph)) and refitter.refit_cuda_engine()):
                raise PlanMismatchError(
                    f"The weights of {job.graph} do not fit {plan}: {reason(lines)}. "
                    "Run `fiffdepth build` without --strip-plan."
                )
    return engine


def _tensor_dtypes(engine: Any, job: PlanJob) -> dict[str, Any]:
    """The plan's tensors, by name, as numpy types. trt.nptype is left alone: it breaks with some numpys."""
    import tensorrt as trt

    known = {
        trt.DataType.FLOAT: np.float32,
        trt.DataType.HALF: np.float16,
        trt.DataType.UINT8: np.uint8,
    }
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    takes, gives = JOURNEY[job.record.stage]
    dtypes = {name: known.get(engine.get_tensor_dtype(name)) for name in names}
    if sorted(names) != sorted((*takes, *gives)) or None in dtypes.values():
        found = ", ".join(f"{name} {engine.get_tensor_dtype(name)}" for name in names)
        raise StageMismatchError(
            f"The plan {job.record.file} has {found}; the stage has {', '.join((*takes, *gives))}. "
            "Export the directory again."
        )
    return dtypes

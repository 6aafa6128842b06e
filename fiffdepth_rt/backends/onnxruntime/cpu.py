"""ONNX Runtime on the CPU: a session per stage, run one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fiffdepth_rt.backends import Array
from fiffdepth_rt.backends.host import HostEngine, OpenedSet
from fiffdepth_rt.engine_dir.checking import CheckedGraph
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS, Stage, TensorSpec
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    GraphError,
    InferenceError,
    StageMismatchError,
    shortened,
)
from fiffdepth_rt.machine import default_threads
from fiffdepth_rt.telemetry import import_onnxruntime

NAME = "onnxruntime"

_PROVIDER = "CPUExecutionProvider"
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
# What turns fp16 weights into fp32 ones at load: folding of constants, and a transformer made for just that.
_WIDENING = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
_FATAL = 4  # ONNX Runtime's log level; what goes wrong is raised, so nothing needs to be printed as well


class CpuEngine(HostEngine[Any]):
    """ONNX Runtime's CPU kernels. threads: None for the physical cores available."""

    name = NAME
    device = "cpu"

    def __init__(self, *, threads: int | None) -> None:
        self._threads = default_threads() if threads is None else threads

    def open_set(self, graphs: Mapping[str, CheckedGraph]) -> OpenedSet[Any]:
        large = any(graph.stage.external_data for graph in graphs.values())
        opened = {stage: self._open(graph, large=large) for stage, graph in graphs.items()}
        return OpenedSet(self, opened, graphs)

    def open_stage(self, graph: CheckedGraph) -> Any:
        return self._open(graph, large=bool(graph.stage.external_data))

    def _open(self, graph: CheckedGraph, *, large: bool) -> Any:
        """large: of a model whose activations are not laid out anew in a second block, after the first frame.

        The second block takes 2.2 GB for Stable Diffusion's size at 512×512, and gains 2 % of nano's time.
        """
        options = session_options(threads=self._threads)
        options.enable_mem_pattern = not large
        if not keeps_half(graph):
            return open_session(graph, options, (_PROVIDER, {}))
        # Each weight becomes fp32 right before its use. In the default order all of them would do so first.
        options.execution_order = import_onnxruntime().ExecutionOrder.PRIORITY_BASED
        return open_session(graph, options, (_PROVIDER, {}), left_out=_WIDENING)

    def run_stage(self, opened: Any, stage: str, value: Array, output: str) -> Array:
        try:
            return run_session(opened, stage, value, output)
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise failure(error, stage, value) from error

    def describe(self, opened: Sequence[OpenedSet[Any]]) -> dict[str, Any]:
        onnxruntime = import_onnxruntime()

        return {"onnxruntime": onnxruntime.__version__, "provider": _PROVIDER, "threads": self._threads}


def keeps_half(graph: CheckedGraph) -> bool:
    """Whether an fp16 graph's weights stay fp16 in memory, mapped from their file.

    The CPU computes in fp32. ONNX Runtime would make fp32 copies of all weights when it opens the graph, and
    beside them, for a while, the fp16 ones: 5.8 GB for Stable Diffusion's size, instead of 0.9 and a mapped
    file of 1.6 (docs/high-resolution.md). Weights that are small enough to lie in the graph itself may be
    copied: that is faster, and costs little memory.
    """
    return graph.precision == "fp16" and bool(graph.stage.external_data)


def open_session(
    graph: CheckedGraph,
    options: Any,
    provider: tuple[str, dict[str, Any]],
    *,
    left_out: Sequence[str] = (),
) -> Any:
    """A graph -> session on an execution provider, (name, options).

    options: of the session. left_out: names of ONNX Runtime's graph transformers.
    Raises GraphError, StageMismatchError, BackendUnavailableError.
    """
    onnxruntime = import_onnxruntime()

    try:
        session = onnxruntime.InferenceSession(
            str(graph.path), options, providers=[provider], disabled_optimizers=list(left_out)
        )
    except Exception as error:  # as in run_stage
        raise GraphError(
            f"ONNX Runtime {onnxruntime.__version__} cannot read {graph.path}: "
            f"{shortened(error)}. {graph.cure}"
        ) from error
    if session.get_providers()[0] != provider[0]:  # ONNX Runtime falls back to the CPU without an error
        raise BackendUnavailableError(f"ONNX Runtime could not start {provider[0]}. Run: fiffdepth doctor")
    try:
        _check_tensors(graph.name, graph.stage, session)
    except UnicodeDecodeError as error:  # of a name in the graph, which ONNX Runtime does not look at
        raise GraphError(f"{graph.path} holds a name that is no text: {error}. {graph.cure}") from error
    return session


def run_session(session: Any, stage: str, value: Array, output: str, options: Any = None) -> Array:
    """One stage. Only `output` is asked for, so the graph's other outputs are not copied out.

    Raises what ONNX Runtime raises.
    """
    result: Array = session.run([output], {STAGE_TENSORS[stage][0][0]: value}, options)[0]
    return result


def failure(error: Exception, stage: str, value: Array) -> InferenceError:
    """What ONNX Runtime raised in a stage -> the error that names both."""
    return InferenceError(
        f"ONNX Runtime failed in the {stage} on {value.dtype} {value.shape}: {shortened(error)}"
    )


def session_options(*, threads: int) -> Any:
    """How ONNX Runtime computes a graph. threads: on the CPU."""
    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL
    # Threads that wait by spinning take cores from the next stage, from neighbouring frames of a stream, and
    # from other programs. On an idle machine sleeping costs an eighth; beside one busy process it saves a
    # quarter (benchmarks/cpu_settings.py, nano on two cores).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_tensors(where: str, spec: Stage, session: Any) -> None:
    """Raises StageMismatchError unless the graph's own tensors are those that the manifest lists."""
    for verb, listed, found in (
        ("takes", spec.inputs, session.get_inputs()),
        ("gives", spec.outputs, session.get_outputs()),
    ):
        by_name = {tensor.name: tensor for tensor in found}
        if by_name.keys() != {tensor.name for tensor in listed}:
            raise _mismatch(where, f"{verb} {', '.join(by_name)}", ", ".join(t.name for t in listed))
        for tensor in listed:
            own = by_name[tensor.name]
            if not _agrees(tensor, own):
                it_does = f"{verb} {own.name} as {own.type} {own.shape}"
                raise _mismatch(where, it_does, f"{tensor.dtype} {[*tensor.shape]}")


def _agrees(listed: TensorSpec, actual: Any) -> bool:
    """A free dim has whatever name the exporter gave it, so only that it is free is compared."""
    return (
        _DTYPES.get(actual.type) == listed.dtype
        and len(actual.shape) == len(listed.shape)
        and all(
            dim == found if isinstance(dim, int) else not isinstance(found, int)
            for dim, found in zip(listed.shape, actual.shape, strict=True)
        )
    )


def _mismatch(where: str, found: str, listed: str) -> StageMismatchError:
    return StageMismatchError(
        f"The graph {where} {shortened(found)}; the manifest lists {shortened(listed)}. "
        "Export the directory again."
    )

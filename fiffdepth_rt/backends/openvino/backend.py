"""OpenVINO on the CPU: an Intel CPU with bfloat16 units runs a bf16 set on them; fp32 sets stay fp32.

A compiled model per stage. Grids are free as with ONNX Runtime; each new one is shaped on its first use. What
was compiled is kept for the next time, see cache.py.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from fiffdepth_rt.backends import Array, Backend, Usability
from fiffdepth_rt.backends.host import HostBackend, HostEngine, OpenedSet
from fiffdepth_rt.backends.openvino.cache import Cache
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.checking import CheckedGraph, EngineDir
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS, GraphSet, TensorSpec
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    GraphError,
    InferenceError,
    StageMismatchError,
    shortened,
)
from fiffdepth_rt.machine import default_threads, installed
from fiffdepth_rt.processes import keep_forever
from fiffdepth_rt.telemetry import import_openvino

_log = logging.getLogger(__name__)

NAME = "openvino"
PRECISIONS = ("fp32", "bf16", "fp16")  # in order of preference: what was asked for is what is computed


def usable() -> Usability:
    """Whether `import openvino` works here, and whether this CPU computes bf16. Never raises."""
    versions = installed([NAME])
    try:
        openvino = import_openvino()

        units = "computes bf16" if computes_bf16() else "has no bfloat16 units"
        why = f"openvino {openvino.__version__.partition('-')[0]}; this CPU {units}"
    except Exception as error:  # a broken wheel fails in its own ways
        return Usability.not_imported(NAME, error, versions=versions, extra="openvino")
    return Usability(name=NAME, usable=True, why=why, fix="", versions=versions)


def takes(graph_set: GraphSet) -> bool:
    """Every graph set: one of bf16 is computed in fp32 where the CPU has no bfloat16 units."""
    return True


def computes_bf16() -> bool:
    """Whether OpenVINO is here and this CPU has bfloat16 units. Never raises."""
    try:
        return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception:  # a broken wheel fails in its own ways
        return False


@functools.cache
def _core() -> Any:
    """One for the whole process, never given up; a forked child has its own.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signals, and frees that stack when its
    Core goes. Where two Cores go in the order of their coming, or one goes in another thread, a pointer into
    nothing is left, and the next signal (Ctrl-C, the end of a child process) ends the process.
    """
    openvino = import_openvino()

    return openvino.Core()


def open_backend(
    engine_dir: EngineDir,
    *,
    precision: str,
    device: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
) -> Backend:
    """EngineDir -> compiled models.

    device: "cpu" (also None). threads: None for the physical cores available. cuda_graph: not for a CPU.
    Raises BackendUnavailableError, GraphError, StageMismatchError.
    """
    if device not in (None, "cpu"):
        raise BackendUnavailableError(f"openvino runs on device='cpu' here, not on {device!r}.")
    computes_in = "bf16" if precision.startswith("bf16") else "f32"  # CPUs compute fp16 graphs in fp32
    if computes_in == "bf16" and not computes_bf16():
        _log.warning(
            "This CPU has no bfloat16 units: the %s set is computed in fp32, no faster than an fp32 set.",
            precision,
        )
    engine = OpenVinoEngine(computes_in=computes_in, threads=threads)
    return HostBackend(engine_dir, engine, precision=precision)


def _name(port: Any, listed: Sequence[TensorSpec]) -> str:
    """What the manifest calls a tensor: it has several names where OpenVINO has removed a cast."""
    return next((tensor.name for tensor in listed if tensor.name in port.names), str(port.any_name))


def _dtype(port: Any) -> str:
    """As numpy calls it; OpenVINO's own word for what numpy has not."""
    try:
        return str(port.element_type.to_dtype())
    except IndexError:
        return str(port.element_type.type_name)


def _agrees(listed: Sequence[int | str], found: Any) -> bool:
    """A dim that the manifest leaves free is free, and a number is that number where OpenVINO knows it.

    OpenVINO computes on shapes that do not fit together, beyond its buffers, and the process ends later, in
    another graph: so what it finds out about shapes beforehand has to be right.
    """
    if found.rank.is_dynamic:
        return True
    return len(found) == len(listed) and all(
        dim.is_dynamic or (isinstance(said, int) and dim.get_length() == said)
        for said, dim in zip(listed, found, strict=True)
    )


class OpenVinoEngine(HostEngine[Any]):
    """OpenVINO's CPU plugin. computes_in: what is asked of it, "f32" or "bf16"."""

    name = NAME
    device = "cpu"

    def __init__(self, *, computes_in: str, threads: int | None) -> None:
        openvino = import_openvino()

        self._version = openvino.__version__
        self._threads = default_threads() if threads is None else threads
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": computes_in,
        }
        folder = cache_folder()
        self._cache = None if folder is None else Cache(folder, version=self._version)

    def open_stage(self, graph: CheckedGraph) -> Any:
        try:
            if self._cache is None:
                model = _core().compile_model(str(graph.path), "CPU", self._config)
            else:
                model = self._cache.compile(_core(), graph.path, self._config, graph.files)
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise GraphError(
                f"OpenVINO cannot read {graph.path}: {shortened(error)}. {graph.cure}"
            ) from error
        for verb, listed, ports in (
            ("takes", graph.stage.inputs, model.inputs),
            ("gives", graph.stage.outputs, model.outputs),
        ):
            found = {(_name(port, listed), _dtype(port)) for port in ports}
            if found != {(tensor.name, tensor.dtype) for tensor in listed}:
                raise StageMismatchError(
                    f"The graph {graph.name} {verb} {shortened(found)}; the manifest lists "
                    f"{[(tensor.name, tensor.dtype) for tensor in listed]}. Export the directory again."
                )
            shapes = {_name(port, listed): port.partial_shape for port in ports}
            for tensor in listed:
                if not _agrees(tensor.shape, shapes[tensor.name]):
                    raise StageMismatchError(
                        f"The graph {graph.name} {verb} {tensor.name} as {shapes[tensor.name]}; the manifest "
                        f"lists {[*tensor.shape]}. Export the directory again."
                    )
        return model

    def run_stage(self, opened: Any, stage: str, value: Array, output: str) -> Array:
        """In a request of its own, so that threads may run at once; the result is copied out of it."""
        try:
            request = opened.create_infer_request()
            request.infer({STAGE_TENSORS[stage][0][0]: value}, share_inputs=True)
            result: Array = request.get_tensor(output).data.copy()
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise InferenceError(
                f"OpenVINO failed in the {stage} on {value.dtype} {value.shape}: {shortened(error)}"
            ) from error
        return result

    def after_fork(self) -> None:
        if _core.cache_info().currsize:
            keep_forever(_core())
            _core.cache_clear()

    def describe(self, opened: Sequence[OpenedSet[Any]]) -> dict[str, Any]:
        models = [model for one in opened for model in one.stages.values()]
        computes_in = {str(model.get_property("INFERENCE_PRECISION_HINT").to_string()) for model in models}
        return {
            "openvino": self._version.partition("-")[0],
            "computes_in": ", ".join(sorted(computes_in)) or self._config["INFERENCE_PRECISION_HINT"],
            "threads": self._threads,
            "cache": "off" if self._cache is None else str(self._cache.folder),
        }

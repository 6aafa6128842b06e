"""ONNX Runtime: the default engine, on the CPU everywhere, on an NVIDIA GPU with the [gpu] extra.

A session per stage. Grids are free, any multiple of the manifest's, unless the graphs were exported for some.
On a GPU values stay there between the stages (`ort_cuda`), and graphs of one grid are replayed from CUDA
graphs. That part is written, API-checked, never run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array, Usability
from fiffdepth_rt.backends.grids import Grids, Size, families, own_grid, split
from fiffdepth_rt.backends.host import OpenedSets
from fiffdepth_rt.backends.onnxruntime.cuda import (
    BoundJourney,
    is_out_of_memory,
    memory_error,
    run_options,
    why_no_graph,
)
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import JOURNEY, GraphSet, Stage, TensorSpec
from fiffdepth_rt.errors import (
    BackendError,
    BackendUnavailableError,
    GraphError,
    InferenceError,
    StageMismatchError,
)
from fiffdepth_rt.machine import default_threads, installed

NAME = "onnxruntime"
# In order of preference. A CPU computes fp16 graphs in fp32, with casts around.
PRECISIONS = ("fp32", "fp16")
GPU_PRECISIONS = ("fp16", "fp32")

_WHEELS = ("onnxruntime", "onnxruntime-gpu")  # both own the package `onnxruntime`
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_FATAL = 4  # ONNX Runtime's log level; what goes wrong is raised, so nothing needs to be printed as well

Sessions = Mapping[str, Any]  # by stage


def usable() -> Usability:
    """Whether `import onnxruntime` works here, and which wheels it may come from. Never raises."""
    versions = installed(_WHEELS)
    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        why = f"onnxruntime {onnxruntime.__version__} with {providers}"
    except Exception as error:  # a broken wheel fails in its own ways
        why = f"onnxruntime cannot be imported ({error})" if versions else "onnxruntime is not installed"
        fix = f"pip install {'--force-reinstall ' if versions else ''}'fiffdepth-rt[cpu]'"
        return Usability(name=NAME, usable=False, why=why, fix=fix, versions=versions)
    fix = ""
    if len(versions) > 1:
        why += "; its CPU and its GPU wheel are both installed and have overwritten each other"
        fix = f"pip uninstall -y {' '.join(_WHEELS)} && pip install 'fiffdepth-rt[cpu]'  # or [gpu]"
    return Usability(name=NAME, usable=True, why=why, fix=fix, versions=versions)


def takes(graph_set: GraphSet) -> bool:
    """Whether ONNX Runtime can run such graphs: its kernels know no bfloat16 convolution."""
    return graph_set.precision != "bf16"


def open_backend(
    engine_dir: EngineDir,
    *,
    precision: str,
    device: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
) -> OnnxRuntimeBackend:
    """EngineDir -> opened sessions.

    device: "cpu" (also None), "cuda" or "cuda:N". threads: on the CPU; None for the physical cores available.
    cuda_graph: on a GPU, replay frames from CUDA graphs where the graphs are for one grid.
    Raises BackendUnavailableError, GraphError, StageMismatchError, DeviceMemoryError.
    """
    return OnnxRuntimeBackend(
        engine_dir, precision=precision, device=device or "cpu", threads=threads, cuda_graph=cuda_graph
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OpenedSet:
    """The sessions of one graph set. journey: on a GPU. cuda_graph: "on", or why there is none."""

    sessions: Sessions
    journey: BoundJourney | None
    cuda_graph: str


class OnnxRuntimeBackend:
    """Three sessions per graph set. `Backend` says what the methods promise."""

    name = NAME

    def __init__(
        self,
        engine_dir: EngineDir,
        *,
        precision: str,
        device: str,
        threads: int | None,
        cuda_graph: bool,
    ) -> None:
        import onnxruntime

        self.precision = precision
        self._gpu = gpu_index(device)
        self.device = "cpu" if self._gpu is None else f"cuda:{self._gpu}"
        _check_provider(self.device, onnxruntime.get_available_providers())
        onnxruntime.disable_telemetry_events()
        self._engine_dir = engine_dir
        self._threads = default_threads() if threads is None else threads
        self._cuda_graph = cuda_graph
        keys = families(engine_dir.manifest)[precision]
        fixed = tuple(grid for grid in keys if grid is not None)
        self._grids = Grids(limits=engine_dir.manifest.size, fixed=fixed)
        self._sets = OpenedSets(keys, self._open_set)

    def grid_for(self, photo_hw: tuple[int, int], size: Size) -> tuple[int, int]:
        return self._grids.choose(photo_hw, size)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        opened = self._sets.at("encoder", image_BHW3)
        parts = [self._run_part(opened, part) for part in split(image_BHW3, self._grids.limits)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_stage(self, stage: str, value: Array) -> Array:
        return self._run(self._sets.at(stage, value), stage, value, _main_output(stage))

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return self._run(self._sets.at("decoder", depth_latent), "decoder", depth_latent, "depth_unclipped")

    def describe(self) -> dict[str, Any]:
        import onnxruntime

        said = {
            "onnxruntime": onnxruntime.__version__,
            "provider": _provider(self._gpu, graph=False)[0],
            "threads": self._threads,
            "grids": self._grids.describe(),
        }
        if self._gpu is not None:
            said["cuda_graph"] = "; ".join(dict.fromkeys(s.cuda_graph for s in self._sets.opened()))
        return said

    def close(self) -> None:
        self._sets.close()

    def _open_set(self, key: str) -> _OpenedSet:
        grid = own_grid(self._engine_dir.manifest.graph_sets[key])
        why_not = why_no_graph(self._gpu, wanted=self._cuda_graph, own_grid=grid)
        if why_not is None and grid is not None:
            opened = None
            try:
                opened = self._open_with(key, graph=True, cuda_graph="on")
                self._run_part(opened, np.zeros((1, *grid, 3), np.uint8))  # captures
                return opened
            except (GraphError, InferenceError) as error:
                why_not = f"off: ONNX Runtime cannot capture these graphs ({error.__cause__})"
            del opened  # its memory, before the other sessions take theirs
        return self._open_with(key, graph=False, cuda_graph=str(why_not))

    def _open_with(self, key: str, *, graph: bool, cuda_graph: str) -> _OpenedSet:
        sessions, journey = self._sessions(key, graph=graph), None
        if self._gpu is not None:
            stages = self._engine_dir.manifest.graph_sets[key].stages
            journey = BoundJourney(sessions, stages, device_type="cuda", device_id=self._gpu, graph=graph)
        return _OpenedSet(sessions=sessions, journey=journey, cuda_graph=cuda_graph)

    def _sessions(self, key: str, *, graph: bool) -> Sessions:
        options = _session_options(self._threads)
        provider = _provider(self._gpu, graph=graph)
        return {stage: self._open_session(key, stage, options, provider) for stage in JOURNEY}

    def _open_session(self, key: str, stage: str, options: Any, provider: tuple[str, dict[str, Any]]) -> Any:
        import onnxruntime

        path = self._engine_dir.graph(key, stage).path
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # as in _run
            self._raise_if_out_of_memory(error, f"the weights of the {stage}")
            raise GraphError(
                f"ONNX Runtime {onnxruntime.__version__} cannot read {path}: {error}. "
                "Copy the directory again, or export it again."
            ) from error
        if session.get_providers()[0] != provider[0]:  # ONNX Runtime falls back to the CPU without an error
            raise BackendUnavailableError(
                f"ONNX Runtime could not start {provider[0]}. Run: fiffdepth doctor"
            )
        _check_tensors(f"{key}/{stage}", self._engine_dir.manifest.graph_sets[key].stages[stage], session)
        return session

    def _run_part(self, opened: _OpenedSet, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if opened.journey is not None:
            try:
                return opened.journey.run(image)
            except Exception as error:  # as in _run
                raise self._failure(error, f"on an image of {image.shape}") from error
        value: Array = image
        for stage in JOURNEY:
            value = self._run(opened, stage, value, _main_output(stage))
        return value

    def _run(self, opened: _OpenedSet, stage: str, value: Array, output: str) -> Array:
        """One stage. Only `output` is asked for, so the graph's other outputs are not copied out."""
        options = None if self._gpu is None else run_options(graph=False)
        try:
            result: Array = opened.sessions[stage].run([output], {JOURNEY[stage][0][0]: value}, options)[0]
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise self._failure(error, f"in the {stage} on {value.dtype} {value.shape}") from error
        return result

    def _failure(self, error: Exception, where: str) -> BackendError:
        self._raise_if_out_of_memory(error, "what it computes")
        return InferenceError(f"ONNX Runtime failed {where}: {error}")

    def _raise_if_out_of_memory(self, error: Exception, what: str) -> None:
        if self._gpu is not None and is_out_of_memory(str(error)):
            raise memory_error(self._gpu, what, str(error)) from error


def gpu_index(device: str) -> int | None:
    """ "cpu" -> None, "cuda" -> 0, "cuda:1" -> 1. Raises BackendUnavailableError."""
    kind, colon, index = device.partition(":")
    if device == "cpu":
        return None
    if kind != "cuda" or not (index.isdecimal() if colon else True):
        raise BackendUnavailableError(f"device={device!r} is not known: say 'cpu', 'cuda' or 'cuda:1'.")
    return int(index or 0)


def _main_output(stage: str) -> str:
    return JOURNEY[stage][1][0]


def _check_provider(device: str, available: list[str]) -> None:
    if device != "cpu" and "CUDAExecutionProvider" not in available:
        raise BackendUnavailableError(
            f"device={device!r} needs ONNX Runtime's GPU wheel, and this is the CPU one. "
            "Run: pip uninstall -y onnxruntime && pip install 'fiffdepth-rt[gpu]'"
        )


def _provider(gpu: int | None, *, graph: bool) -> tuple[str, dict[str, Any]]:
    """ONNX Runtime's name for what computes, and its options."""
    if gpu is None:
        return "CPUExecutionProvider", {}
    # TF32 would round the inputs of fp32 products to 10 bits.
    return "CUDAExecutionProvider", {"device_id": gpu, "use_tf32": 0, "enable_cuda_graph": int(graph)}


def _session_options(threads: int) -> Any:
    import onnxruntime

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
        f"The graph {where} {found}; the manifest lists {listed}. Export the directory again."
    )

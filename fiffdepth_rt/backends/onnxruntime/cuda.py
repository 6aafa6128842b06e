"""ONNX Runtime on an NVIDIA GPU: values stay there (IO binding), CUDA graphs, and memory that runs out.

    host ─► image ─► encoder ─► latent ─► UNet ─► depth latent ─► decoder ─► depth ─► host
            └──────────────────────── on the device ────────────────────────────┘

Buffers are made once per shape, and each stage is bound to them: nothing is copied between stages. On the
CPU, where buffers are host memory, the journey computes the same bits, and is tested there; on a GPU it is
written, API-checked, never run.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array
from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.backends.host import HostEngine, OpenedSet
from fiffdepth_rt.backends.onnxruntime.cpu import NAME, failure, open_session, run_session, session_options
from fiffdepth_rt.engine_dir.checking import CheckedGraph
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS, Stage
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    GraphError,
    InferenceError,
    shortened,
)
from fiffdepth_rt.machine import MIB, default_threads, gpu_memory
from fiffdepth_rt.processes import CUDA_IN_CHILD
from fiffdepth_rt.telemetry import import_onnxruntime

_PROVIDER = "CUDAExecutionProvider"
_CUDA_GRAPH_ID = "1"
_NO_CUDA_GRAPH = "-1"
_SHAPES_KEPT = 4  # as many sets of buffers are kept; the one used longest ago goes first


class CudaEngine(HostEngine[Any]):
    """ONNX Runtime on the NVIDIA GPU with this index.

    threads: of kernels that only a CPU has; None for the physical cores available. cuda_graph: capture CUDA
    graphs and replay them where possible.
    """

    name = NAME

    def __init__(self, gpu: int, *, threads: int | None, cuda_graph: bool) -> None:
        """Raises BackendUnavailableError where ONNX Runtime is the CPU's wheel."""
        onnxruntime = import_onnxruntime()

        self.device = f"cuda:{gpu}"
        self._gpu = gpu
        self._threads = default_threads() if threads is None else threads
        self._cuda_graph = cuda_graph
        self._forked = False
        if _PROVIDER not in onnxruntime.get_available_providers():
            raise BackendUnavailableError(
                f"device={self.device!r} needs ONNX Runtime's GPU wheel, and this is the CPU one. "
                "Run: pip uninstall -y onnxruntime && pip install 'fiffdepth-rt[gpu]'"
            )

    def open_stage(self, graph: CheckedGraph) -> Any:
        return self._open_session(graph, cuda_graph=False)

    def run_stage(self, opened: Any, stage: str, value: Array, output: str) -> Array:
        try:
            return run_session(opened, stage, value, output, run_options(cuda_graph=False))
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            self.raise_if_out_of_memory(error, "what it computes")
            raise failure(error, stage, value) from error

    def open_set(self, graphs: Mapping[str, CheckedGraph]) -> BoundSet:
        """As in `HostEngine`, and bound to buffers. Raises DeviceMemoryError, InferenceError too."""
        if self._forked:
            raise InferenceError(CUDA_IN_CHILD)
        _, height, width, _ = graphs["encoder"].stage.inputs[0].shape
        grid = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        why_not = why_no_cuda_graph(wanted=self._cuda_graph, own_grid=grid)
        if why_not is None and grid is not None:
            opened = None
            try:
                opened = self._open_bound(graphs, cuda_graph="on")
                opened.run(np.zeros((1, *grid, 3), np.uint8))  # captures
                return opened
            except (GraphError, InferenceError) as error:
                why_not = f"off: ONNX Runtime cannot capture these graphs ({error.__cause__})"
            del opened  # its memory, before the other sessions take theirs
        return self._open_bound(graphs, cuda_graph=str(why_not))

    def after_fork(self) -> None:
        self._forked = True

    def describe(self, opened: Sequence[OpenedSet[Any]]) -> dict[str, Any]:
        onnxruntime = import_onnxruntime()

        states = [one.cuda_graph for one in opened if isinstance(one, BoundSet)]
        return {
            "onnxruntime": onnxruntime.__version__,
            "provider": _PROVIDER,
            "threads": self._threads,
            "cuda_graph": "; ".join(dict.fromkeys(states)),
        }

    def raise_if_out_of_memory(self, error: Exception, what: str) -> None:
        """Raises DeviceMemoryError if the GPU had no room for `what`."""
        if is_out_of_memory(str(error)):
            raise memory_error(self._gpu, what, str(error)) from error

    def _open_bound(self, graphs: Mapping[str, CheckedGraph], *, cuda_graph: str) -> BoundSet:
        captures = cuda_graph == "on"
        sessions = {stage: self._open_session(graph, cuda_graph=captures) for stage, graph in graphs.items()}
        listed = {stage: graph.stage for stage, graph in graphs.items()}
        bound = IoBoundStages(sessions, listed, device_type="cuda", device_id=self._gpu, cuda_graph=captures)
        return BoundSet(self, sessions, graphs, bound, cuda_graph=cuda_graph)

    def _open_session(self, graph: CheckedGraph, *, cuda_graph: bool) -> Any:
        provider = _provider(self._gpu, cuda_graph=cuda_graph)
        try:
            return open_session(graph, session_options(threads=self._threads), provider)
        except GraphError as error:
            self.raise_if_out_of_memory(error, f"the weights of {graph.name}")
            raise


class BoundSet(OpenedSet[Any]):
    """A graph set whose values stay on the GPU between the stages. cuda_graph: "on", or why there is none."""

    def __init__(
        self,
        engine: CudaEngine,
        sessions: Mapping[str, Any],
        graphs: Mapping[str, CheckedGraph],
        bound: IoBoundStages,
        *,
        cuda_graph: str,
    ) -> None:
        super().__init__(engine, sessions, graphs)
        self._cuda_engine = engine
        self._bound = bound
        self.cuda_graph = cuda_graph

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            return self._bound.run(image_BHW3)
        except Exception as error:  # as in run_stage
            self._cuda_engine.raise_if_out_of_memory(error, "what it computes")
            raise InferenceError(
                f"ONNX Runtime failed on an image of {image_BHW3.shape}: {shortened(error)}"
            ) from error


def _provider(gpu: int, *, cuda_graph: bool) -> tuple[str, dict[str, Any]]:
    """ONNX Runtime's name for what computes, and its options."""
    # TF32 would round the inputs of fp32 products to 10 bits.
    return _PROVIDER, {"device_id": gpu, "use_tf32": 0, "enable_cuda_graph": int(cuda_graph)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bound:
    """Buffers of one shape, and the stages bound to them in order."""

    image: Any
    depth: Any
    bindings: tuple[tuple[str, Any], ...]


class IoBoundStages:
    """Three sessions bound to buffers on one device (IO binding). Calls take turns, since they share buffers.

    device_type, device_id: "cuda", 0. stages: their tensors, by name.
    cuda_graph: whether the sessions capture CUDA graphs. One is captured, for one image at a time; larger
    batches run without, since each shape would need a graph of its own.
    """

    def __init__(
        self,
        sessions: Mapping[str, Any],
        stages: Mapping[str, Stage],
        *,
        device_type: str,
        device_id: int,
        cuda_graph: bool,
    ) -> None:
        self._sessions = sessions
        self._stages = stages
        self._device = (device_type, device_id)
        self._cuda_graph = cuda_graph
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """image -> depth map. Raises what ONNX Runtime raises."""
        with self._lock:
            bound = self._bound_to(image_BHW3.shape)
            bound.image.update_inplace(np.ascontiguousarray(image_BHW3))
            options = run_options(cuda_graph=self._cuda_graph and len(image_BHW3) == 1)
            for stage, binding in bound.bindings:
                binding.synchronize_inputs()
                self._sessions[stage].run_with_iobinding(binding, options)
                binding.synchronize_outputs()
            # On a CPU numpy() is the buffer itself, which the next frame will fill.
            depth: npt.NDArray[np.float32] = np.array(bound.depth.numpy())
            return depth

    def _bound_to(self, shape: tuple[int, ...]) -> _Bound:
        if shape not in self._bound:
            self._bound[shape] = self._bind(shape)
            while len(self._bound) > _SHAPES_KEPT:
                # A graph was captured on these addresses; its buffers must outlive it.
                old = next(s for s in self._bound if not (self._cuda_graph and s[0] == 1))
                del self._bound[old]
        self._bound.move_to_end(shape)
        return self._bound[shape]

    def _bind(self, shape: tuple[int, ...]) -> _Bound:
        onnxruntime = import_onnxruntime()

        batch, height, width, _ = shape
        values: dict[str, Any] = {}
        bindings = []
        for name, (takes, gives) in STAGE_TENSORS.items():
            stage, binding = self._stages[name], self._sessions[name].io_binding()
            for spec in (*stage.inputs, *stage.outputs):
                if spec.name not in (takes[0], gives[0]):
                    continue  # depth_unclipped: what nobody asks for is not computed
                if spec.name not in values:
                    values[spec.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                        list(tensor_shape(spec, (height, width), batch)),
                        np.dtype(spec.dtype).type,
                        *self._device,
                    )
                bind = binding.bind_ortvalue_input if spec in stage.inputs else binding.bind_ortvalue_output
                bind(spec.name, values[spec.name])
            bindings.append((name, binding))
        return _Bound(image=values["image"], depth=values["depth"], bindings=tuple(bindings))


def run_options(*, cuda_graph: bool) -> Any:
    """How to run a session that may capture: into its one graph, or without."""
    onnxruntime = import_onnxruntime()

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.add_run_config_entry("gpu_graph_id", _CUDA_GRAPH_ID if cuda_graph else _NO_CUDA_GRAPH)
    return options


def why_no_cuda_graph(*, wanted: bool, own_grid: tuple[int, int] | None) -> str | None:
    """Why frames are not replayed from a CUDA graph; None where they can be: it holds one fixed shape."""
    if not wanted:
        return "off: cuda_graph=False"
    if own_grid is None:
        return "off: the grids of these graphs are free; export some with --static"
    return None


def is_out_of_memory(message: str) -> bool:
    """Whether ONNX Runtime's error says that the GPU has no room: its arena's words, and CUDA's own."""
    return bool(re.search(r"failed to allocate memory|out of memory|CUDA failure 2\b", message, re.I))


def needed_bytes(message: str) -> int | None:
    """The size of the buffer that found no room, where the message says it."""
    match = re.search(r"requested buffer of size (\d+)", message)
    return None if match is None else int(match[1])


def memory_error(gpu: int, what: str, message: str) -> DeviceMemoryError:
    """ONNX Runtime's message, and what the driver says is free -> the error that names both."""
    needed = needed_bytes(message)
    memory = gpu_memory(gpu)
    amount = "more" if needed is None else f"a buffer of {needed / MIB:.0f} MiB"
    left = "unknown" if memory is None else f"{memory.free_bytes // MIB} of {memory.total_bytes // MIB} MiB"
    return DeviceMemoryError(
        f"GPU {gpu} has no room for {what}: ONNX Runtime needs {amount}; free: {left}. Close other programs "
        "on the GPU, take a smaller size, or an fp16 set.",
        needed_bytes=needed,
        free_bytes=None if memory is None else memory.free_bytes,
        total_bytes=None if memory is None else memory.total_bytes,
    )

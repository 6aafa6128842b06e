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
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.engine_dir.manifest import JOURNEY, Stage
from fiffdepth_rt.errors import DeviceMemoryError
from fiffdepth_rt.machine import MIB, gpu_memory

GRAPH_ID = "1"
NO_GRAPH = "-1"
_SHAPES_KEPT = 4  # as many sets of buffers are kept; the one used longest ago goes first


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bound:
    """Buffers of one shape, and the stages bound to them in order."""

    image: Any
    depth: Any
    bindings: tuple[tuple[str, Any], ...]


class BoundJourney:
    """Three sessions on one device. Calls take turns, since they share buffers.

    device_type, device_id: "cuda", 0. stages: their tensors, by name.
    graph: whether the sessions capture CUDA graphs. One is captured, for one image at a time; larger batches
    run without, since each shape would need a graph of its own.
    """

    def __init__(
        self,
        sessions: Mapping[str, Any],
        stages: Mapping[str, Stage],
        *,
        device_type: str,
        device_id: int,
        graph: bool,
    ) -> None:
        self._sessions = sessions
        self._stages = stages
        self._device = (device_type, device_id)
        self._graph = graph
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """image -> depth map. Raises what ONNX Runtime raises."""
        with self._lock:
            bound = self._bound_to(image_BHW3.shape)
            bound.image.update_inplace(np.ascontiguousarray(image_BHW3))
            options = run_options(graph=self._graph and len(image_BHW3) == 1)
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
                old = next(s for s in self._bound if not (self._graph and s[0] == 1))
                del self._bound[old]
        self._bound.move_to_end(shape)
        return self._bound[shape]

    def _bind(self, shape: tuple[int, ...]) -> _Bound:
        import onnxruntime

        batch, height, width, _ = shape
        values: dict[str, Any] = {}
        bindings = []
        for name, (takes, gives) in JOURNEY.items():
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


def run_options(*, graph: bool) -> Any:
    """How to run a session that may capture: into its one graph, or without."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.add_run_config_entry("gpu_graph_id", GRAPH_ID if graph else NO_GRAPH)
    return options


def why_no_graph(gpu: int | None, *, wanted: bool, own_grid: tuple[int, int] | None) -> str | None:
    """Why frames are not replayed from a CUDA graph; None where they can be: it holds one fixed shape."""
    if gpu is None:
        return "off: no GPU is used"
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

"""One shape's way through the three plans: contexts and buffers that are made once, and CUDA graphs of it.

Everything is asked of one stream, so encoder, UNet and decoder follow each other without the host waiting in
between, and lanes and frames may share one block of GPU memory. What is asked twice becomes a CUDA graph.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Collection, Mapping

from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.backends.tensorrt.buffers import (
    GraphKey,
    Placement,
    activations_of,
    graph_key,
    journey_buffers,
    place,
    tensor_nbytes,
)
from fiffdepth_rt.backends.tensorrt.fit import Lane
from fiffdepth_rt.backends.tensorrt.opened import OpenedEngine, StageContext
from fiffdepth_rt.engine_dir.manifest import STAGES, Stage
from fiffdepth_rt.errors import BackendError, DeviceMemoryError, InferenceError
from fiffdepth_rt.gpu import cuda
from fiffdepth_rt.gpu.cuda import Copy

SLOTS = 2  # frames at once: while the GPU computes one, the host fills or drains the other

log = logging.getLogger("fiffdepth_rt.tensorrt")


class Slot:
    """Pinned memory of one frame (or batch), and the mark that it is through. Close it after use."""

    def __init__(self, index: int, image_shape: tuple[int, ...]) -> None:
        """Raises InferenceError."""
        self.index = index
        with contextlib.ExitStack() as undo:
            self.image = undo.enter_context(contextlib.closing(cuda.Pinned(image_shape, "uint8")))
            self.depth = undo.enter_context(contextlib.closing(cuda.Pinned(image_shape[:3], "float32")))
            self.done = undo.enter_context(contextlib.closing(cuda.Event()))
            self.close = undo.pop_all().close


class Graphs:
    """Whether frames are replayed from CUDA graphs, and if not, why. Shared by all lanes of an engine."""

    def __init__(self, *, wanted: bool) -> None:
        self.why_not = "" if wanted else "off: cuda_graph=False"
        self.captured = 0

    def describe(self) -> str:
        return self.why_not or f"on: {self.captured} captured so far"

    def fail(self, error: BackendError) -> None:
        self.why_not = f"off: the capture failed, work is enqueued plainly ({error})"
        log.warning("CUDA graph %s", self.why_not)


class OpenLane:
    """A lane, ready to run. All methods that ask for work: one thread at a time, on the engine's GPU."""

    def __init__(
        self, lane: Lane, stages: Mapping[str, Stage], engines: Mapping[str, OpenedEngine], graphs: Graphs
    ) -> None:
        """engines: by the file of their plan. It still needs `bind`."""
        self.lane = lane
        self.profile = lane.profile
        self.stages = stages
        self._engines = {stage: engines[plan.file] for stage, plan in lane.plans.items()}
        self._indices = {stage: plan.profiles.index(lane.profile) for stage, plan in lane.plans.items()}
        self._activations = {
            stage: self._engines[stage].activation_nbytes(self._indices[stage]) for stage in STAGES
        }
        self.placement: Placement = place(journey_buffers(stages, lane.profile, self._activations))
        self.nbytes = tensor_nbytes(stages, lane.profile)
        self.image_shape = tensor_shape(stages["encoder"].inputs[0], lane.profile.grid, lane.profile.batch)
        self._graphs = graphs
        self._captured: dict[GraphKey, cuda.Graph] = {}

    def bind(self, block: int, stream: cuda.Stream, undo: contextlib.ExitStack) -> None:
        """Contexts and pinned memory, over a block of GPU memory of at least `placement.nbytes`.

        undo: gets what frees them. Raises DeviceMemoryError, InferenceError.
        """
        self._stream = stream
        self.addresses = {name: block + offset for name, offset in self.placement.offsets.items()}
        self._contexts: dict[str, StageContext] = {}
        for stage, spec in self.stages.items():
            shape = tensor_shape(spec.inputs[0], self.profile.grid, self.profile.batch)
            context = self._engines[stage].context(self._indices[stage], shape, stream)
            self._contexts[stage] = undo.enter_context(contextlib.closing(context))
            tensors = {one.name: self.addresses[one.name] for one in (*spec.inputs, *spec.outputs)}
            context.bind(tensors, self.addresses[activations_of(stage)], self._activations[stage])
        self.slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for index in range(SLOTS):
            self.slots.put(undo.enter_context(contextlib.closing(Slot(index, self.image_shape))))
        undo.callback(self._close_graphs)

    def ask(self, made: Collection[Copy], slot: Slot | None) -> None:
        """The three stages, with the copies up and down that are in `made`; from a graph, the second time on.

        slot: where those copies begin and end. Raises DeviceMemoryError, InferenceError.
        """
        key = graph_key(self.profile, made, None if slot is None else slot.index)
        if key in self._captured:
            self._captured[key].launch(self._stream)
            return
        self._enqueue(key, slot)  # not captured: TensorRT may finish its preparations in a first run
        if not self._graphs.why_not:
            self._capture(key, slot)

    def ask_stage(self, stage: str) -> None:
        """One stage, on what lies at the address of its input. Raises as `ask`."""
        self._contexts[stage].enqueue(self._stream)

    def _enqueue(self, key: GraphKey, slot: Slot | None) -> None:
        if key.up:
            assert slot is not None
            self._stream.copy_in(self.addresses["image"], slot.image.array)
        for stage in STAGES:
            self.ask_stage(stage)
        if key.down:
            assert slot is not None
            self._stream.copy_out(slot.depth.array, self.addresses["depth"])

    def _capture(self, key: GraphKey, slot: Slot | None) -> None:
        try:
            with self._stream.capture() as captured:
                self._enqueue(key, slot)
        except (InferenceError, DeviceMemoryError) as error:  # the frame itself was enqueued before
            self._graphs.fail(error)
        else:
            self._captured[key] = captured[0]
            self._graphs.captured += 1

    def _close_graphs(self) -> None:
        for graph in self._captured.values():
            graph.close()
        self._captured = {}

"""A lane: the way of one image shape through the three plans, with memory and CUDA graphs made once for it.

Copies and stages of a frame are enqueued in one CUDA stream, so encoder, UNet and decoder follow each other
without the host waiting in between, and all lanes and frames can share one block of GPU memory. From the
second frame on, the same work is launched as a CUDA graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
from collections.abc import Collection, Mapping

from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.backends.tensorrt.buffers import (
    Placement,
    activations_of,
    journey_buffers,
    place,
)
from fiffdepth_rt.backends.tensorrt.fit import Lane
from fiffdepth_rt.backends.tensorrt.opened import OpenedEngine, StageContext
from fiffdepth_rt.engine_dir.manifest import STAGES, PlanProfile, Stage
from fiffdepth_rt.errors import BackendError, DeviceMemoryError, InferenceError
from fiffdepth_rt.gpu import cuda

STAGING_BUFFERS = 2  # frames at once: while the GPU computes one, the host fills or reads the other's buffer

log = logging.getLogger("fiffdepth_rt.tensorrt")


class StagingBuffer:
    """Pinned host memory for the image and the depth map of one frame (or batch). Close it after use.

    done: an event that the GPU reaches when it has done the frame's work.
    """

    def __init__(self, index: int, image_shape: tuple[int, ...]) -> None:
        """Raises InferenceError where the system does not pin as much memory."""
        self.index = index
        with contextlib.ExitStack() as stack:
            self.image = stack.enter_context(contextlib.closing(cuda.PinnedArray(image_shape, "uint8")))
            self.depth = stack.enter_context(contextlib.closing(cuda.PinnedArray(image_shape[:3], "float32")))
            self.done = stack.enter_context(contextlib.closing(cuda.Event()))
            self.close = stack.pop_all().close


def pinned_bytes(profile: PlanProfile) -> int:
    """The pinned host memory of one lane: uint8 images and float32 depth maps of every staging buffer."""
    height, width = profile.grid
    return STAGING_BUFFERS * profile.batch * height * width * (3 + 4)


class CudaGraphs:
    """Whether frames are run as CUDA graphs, and if not, why. All lanes of an engine share one of these."""

    def __init__(self, *, wanted: bool) -> None:
        self.why_not = "" if wanted else "off: cuda_graph=False"
        self.captured = 0

    def describe(self) -> str:
        return self.why_not or f"on: {self.captured} captured so far"

    def fail(self, error: BackendError) -> None:
        self._give_up(f"the capture failed, work is enqueued plainly ({error})")

    def refuse(self, stages: Collection[str]) -> None:
        """No frame is captured: the library says that these stages cannot be."""
        self._give_up(f"the library cannot have {', '.join(stages)} captured, work is enqueued plainly")

    def _give_up(self, why: str) -> None:
        self.why_not = f"off: {why}"
        log.warning("CUDA graph %s", self.why_not)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CudaGraphKey:
    """What tells one CUDA graph of a lane from another: the host addresses that it copies from and to.

    h2d_from, d2h_to: index of the staging buffer; None for a graph without that copy.
    """

    h2d_from: int | None
    d2h_to: int | None


class OpenLane:
    """A lane that is ready to run. Methods that enqueue: one thread at a time, on the engine's GPU."""

    def __init__(
        self,
        lane: Lane,
        stages: Mapping[str, Stage],
        engines: Mapping[str, OpenedEngine],
        cuda_graphs: CudaGraphs,
    ) -> None:
        """engines: by the file of their plan. The lane can run once `bind` was called."""
        self.lane = lane
        self.profile = lane.profile
        self.stages = stages
        self._engines = {stage: engines[plan.file] for stage, plan in lane.plans.items()}
        self._indices = {stage: plan.profiles.index(lane.profile) for stage, plan in lane.plans.items()}
        self._activations = {
            stage: self._engines[stage].activation_nbytes(self._indices[stage]) for stage in STAGES
        }
        self.placement: Placement = place(journey_buffers(stages, lane.profile, self._activations))
        self.image_shape = tensor_shape(stages["encoder"].inputs[0], lane.profile.grid, lane.profile.batch)
        self._cuda_graphs = cuda_graphs
        self.has_run = False  # a whole frame
        self._captured: dict[CudaGraphKey, cuda.CudaGraph] = {}

    def bind(self, block: int, stream: cuda.Stream, stack: contextlib.ExitStack) -> None:
        """Make contexts that compute in `block`, and staging buffers; `stack` closes them.

        block: the address of GPU memory, of `placement.nbytes` at least. Raises DeviceMemoryError,
        InferenceError.
        """
        self._stream = stream
        self.addresses = {name: block + offset for name, offset in self.placement.offsets.items()}
        self._contexts: dict[str, StageContext] = {}
        for stage, spec in self.stages.items():
            shape = tensor_shape(spec.inputs[0], self.profile.grid, self.profile.batch)
            context = self._engines[stage].context(self._indices[stage], shape, stream)
            self._contexts[stage] = stack.enter_context(contextlib.closing(context))
            tensors = {one.name: self.addresses[one.name] for one in (*spec.inputs, *spec.outputs)}
            context.bind(tensors, self.addresses[activations_of(stage)], self._activations[stage])
        self.staging: queue.SimpleQueue[StagingBuffer] = queue.SimpleQueue()
        for index in range(STAGING_BUFFERS):
            self.staging.put(stack.enter_context(contextlib.closing(StagingBuffer(index, self.image_shape))))
        stack.callback(self._close_cuda_graphs)

    def enqueue(self, *, h2d_from: StagingBuffer | None, d2h_to: StagingBuffer | None) -> None:
        """Enqueue the three stages, and the copies from and to the host around them.

        h2d_from: the staging buffer whose image is copied to the GPU first; None where the image is there.
        d2h_to: the staging buffer that gets the depth map; None to leave the depth map on the GPU.
        Raises DeviceMemoryError, InferenceError.
        """
        key = CudaGraphKey(
            h2d_from=None if h2d_from is None else h2d_from.index,
            d2h_to=None if d2h_to is None else d2h_to.index,
        )
        if key in self._captured:
            self._captured[key].launch(self._stream)
            return
        # The first time without capture: TensorRT may finish its preparations in a first run.
        self._enqueue_plainly(h2d_from, d2h_to)
        if not self._cuda_graphs.why_not and self._is_capturable():
            self._capture(key, h2d_from, d2h_to)

    def enqueue_stage(self, stage: str) -> None:
        """Enqueue one stage, on what lies at the address of its input. Raises as `enqueue`."""
        self._contexts[stage].enqueue(self._stream)

    def _enqueue_plainly(self, h2d_from: StagingBuffer | None, d2h_to: StagingBuffer | None) -> None:
        if h2d_from is not None:
            self._stream.copy_h2d(self.addresses["image"], h2d_from.image.values)
        for stage in STAGES:
            self.enqueue_stage(stage)
        if d2h_to is not None:
            self._stream.copy_d2h(d2h_to.depth.values, self.addresses["depth"])

    def _is_capturable(self) -> bool:
        no = [stage for stage in STAGES if not self._contexts[stage].is_capturable(self._stream)]
        if no:
            self._cuda_graphs.refuse(no)
        return not no

    def _capture(
        self, key: CudaGraphKey, h2d_from: StagingBuffer | None, d2h_to: StagingBuffer | None
    ) -> None:
        try:
            with self._stream.capture() as captured:
                self._enqueue_plainly(h2d_from, d2h_to)
        except (InferenceError, DeviceMemoryError) as error:  # the frame itself was enqueued before
            self._cuda_graphs.fail(error)
        else:
            self._captured[key] = captured[0]
            self._cuda_graphs.captured += 1

    def _close_cuda_graphs(self) -> None:
        for cuda_graph in self._captured.values():
            cuda_graph.close()
        self._captured = {}

"""START HERE of running: an engine directory's plans on an NVIDIA GPU. Written, API-checked, never run.

    host array ─► staging ─┐                                              ┌─► staging ─► host array
                           ├─► image ─► encoder ─► UNet ─► decoder ─► depth
    GPU array ─────────────┘                                              └─► GPU array

Staging buffers are pinned host memory, which the GPU copies from and to. One stream and one block of GPU
memory serve all shapes (lane.py). A lock is held while a frame's work is enqueued, not while the GPU does it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array
from fiffdepth_rt.backends.grids import Grids, Size, families, tensor_shape
from fiffdepth_rt.backends.tensorrt.buffers import batch_parts
from fiffdepth_rt.backends.tensorrt.first_check import check_first_opening
from fiffdepth_rt.backends.tensorrt.fit import Lane, lanes, ready_sets
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, Flavour
from fiffdepth_rt.backends.tensorrt.here import cuda_device_index, require
from fiffdepth_rt.backends.tensorrt.jobs import NUMBER_FORMATS, PlanJob
from fiffdepth_rt.backends.tensorrt.lane import CudaGraphs, OpenLane, StagingBuffer
from fiffdepth_rt.backends.tensorrt.opened import OpenedEngine
from fiffdepth_rt.backends.tensorrt.runtime_cache import RuntimeCache
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS
from fiffdepth_rt.errors import BackendUnavailableError, ImageError, InferenceError
from fiffdepth_rt.gpu import arrays, cuda
from fiffdepth_rt.gpu.arrays import DeviceDepth, DeviceView
from fiffdepth_rt.processes import CUDA_IN_CHILD, keep_forever, tell_of_fork

PRECISIONS = NUMBER_FORMATS


def ready(engine_dir: EngineDir, device: str | None, *, flavour: Flavour) -> tuple[str, ...]:
    """The graph sets whose plans run on this device, here and now, by every name they can be asked for."""
    try:
        target, _ = require(cuda_device_index(device), flavour)
    except BackendUnavailableError:
        return ()
    sets = ready_sets(engine_dir.manifest, target, engine_dir.path)
    names = families(engine_dir.manifest)
    return tuple(name for name, keys in names.items() if any(key in sets for key in keys.values()))


def open_backend(
    engine_dir: EngineDir,
    *,
    precision: str,
    device: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
    flavour: Flavour = TENSORRT,
) -> TensorRtBackend:
    """EngineDir -> opened plans of a flavour, checked on this GPU.

    device: "cuda" (also None) or "cuda:N". threads: not for a GPU. cuda_graph: run frames as CUDA graphs.
    Raises PlanVersionError, PlanGpuError, PlanMismatchError, StageMismatchError, BackendUnavailableError,
    DriverError, DeviceMemoryError, and ParityError (first_check.py).
    """
    return TensorRtBackend(
        engine_dir, precision=precision, device=device, cuda_graph=cuda_graph, flavour=flavour
    )


class TensorRtBackend:
    """Plans, their contexts and their memory. `Backend` and `DeviceBackend` say what the methods promise."""

    def __init__(
        self,
        engine_dir: EngineDir,
        *,
        precision: str,
        device: str | None,
        cuda_graph: bool,
        flavour: Flavour,
    ) -> None:
        self.name = flavour.name
        self.precision = precision
        self._gpu_index = cuda_device_index(device)
        self.device = f"cuda:{self._gpu_index}"
        self._target, self._gpu = require(self._gpu_index, flavour)
        manifest = engine_dir.manifest
        sets = tuple(families(manifest)[precision].values())
        chosen = lanes(manifest, sets, self._target, engine_dir.path)
        self._cuda_graphs = CudaGraphs(wanted=cuda_graph)
        self._lock = threading.Lock()
        self._running = 0
        self._idle = threading.Condition()
        self._closed = ""  # why nothing runs any more
        with contextlib.ExitStack() as stack, cuda.on_gpu(self._gpu_index):
            require_room(chosen)
            self._kernels = RuntimeCache.of(engine_dir, self._target, self._gpu) if flavour.portable else None
            check_first_opening(engine_dir, chosen, self._target, self._gpu, self._kernels)
            self._stream = stack.enter_context(contextlib.closing(cuda.Stream()))
            # Makes one stream wait for the other: the caller's and ours.
            self._order = stack.enter_context(contextlib.closing(cuda.Event()))
            engines = _open_engines(engine_dir, chosen, self._kernels, stack)
            self._lanes = [
                OpenLane(lane, manifest.graph_sets[lane.precision].stages, engines, self._cuda_graphs)
                for lane in chosen
            ]
            self._block_nbytes = max(lane.placement.nbytes for lane in self._lanes)
            block = cuda.allocate(self._block_nbytes, "what the plans compute in")
            stack.callback(cuda.free, block)
            for opened in self._lanes:
                opened.bind(block, self._stream, stack)
            self._stream.synchronize()
            self._stack = stack.pop_all()
        hws = dict.fromkeys((shape[1], shape[2]) for shape in (lane.image_shape for lane in self._lanes))
        self.grids = Grids(limits=manifest.size, fixed=tuple(hws))
        tell_of_fork(self)

    def grid_for(self, photo_hw: tuple[int, int], size: Size) -> tuple[int, int]:
        return self.grids.choose(photo_hw, size)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self._opened():
            by_batch = self._lanes_at((image_BHW3.shape[1], image_BHW3.shape[2]))
            parts, start = [], 0
            for images, batch in batch_parts(len(image_BHW3), by_batch):
                parts.append(self._run_host(by_batch[batch], image_BHW3[start : start + images]))
                start += images
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_on_gpu(
        self, image: Any, *, color: str = "rgb", out: Any = "device", cuda_stream: Any = None
    ) -> Any:
        with self._opened():
            caller_stream = arrays.stream_handle(cuda_stream) or cuda.DEFAULT_STREAM
            with cuda.on_gpu(self._gpu_index):
                return self._run_on_gpu(image, color, out, caller_stream)

    def run_stage(self, stage: str, value: Array) -> Array:
        return self._run_stage(stage, value, STAGE_TENSORS[stage][1][0])

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return self._run_stage("decoder", depth_latent, "depth_unclipped")

    def describe(self) -> dict[str, Any]:
        return {
            self.name: self._target.tensorrt_version,
            "gpu": self._gpu.name,
            "compute_capability": self._gpu.compute_capability,
            "driver_cuda": self._gpu.driver_cuda,
            "cuda_graph": self._cuda_graphs.describe(),
            **({} if self._kernels is None else {"kernels": self._kernels.origin}),
            "plans": sorted({plan.file for lane in self._lanes for plan in lane.lane.plans.values()}),
            "shapes": ["{}x{}x{}x{}".format(*lane.image_shape) for lane in self._lanes],
            "gpu_block_bytes": self._block_nbytes,
        }

    def warm_up(self) -> None:
        """Run a black image through every lane, so that the kernels of all are compiled and kept.

        Raises InferenceError, DeviceMemoryError.
        """
        for lane in self._lanes:
            with self._opened():
                self._run_host(lane, np.zeros(lane.image_shape, np.uint8))

    def forget_kernels(self) -> bool:
        return self._kernels is not None and self._kernels.forget()

    def close(self) -> None:
        with self._idle:
            if self._closed:
                return
            self._closed = "This engine is closed. Open a new Depth."  # from here on nothing new begins
            self._idle.wait_for(lambda: self._running == 0)
        with cuda.on_gpu(self._gpu_index):
            with contextlib.suppress(InferenceError):  # it was raised to whoever caused it
                self._stream.synchronize()
            self._stack.close()

    def after_fork(self) -> None:
        keep_forever(self)
        self._closed, self._idle, self._running = CUDA_IN_CHILD, threading.Condition(), 0

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """While a call runs. Raises InferenceError where the engine is closed, or of the parent process."""
        with self._idle:
            if self._closed:
                raise InferenceError(self._closed)
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _lanes_at(self, grid_hw: tuple[int, int]) -> dict[int, OpenLane]:
        """The lanes of a grid, by batch. Raises SizeError."""
        self.grids.choose(grid_hw, grid_hw)
        return {
            lane.profile.batch: lane for lane in reversed(self._lanes) if lane.image_shape[1:3] == grid_hw
        }

    def _run_host(self, lane: OpenLane, images: npt.NDArray[np.uint8]) -> Array:
        with _staging_buffer(lane) as staging:
            staging.image.values[: len(images)] = images
            with self._lock, cuda.on_gpu(self._gpu_index):
                lane.enqueue(h2d_from=staging, d2h_to=staging)
                staging.done.record(self._stream.handle)
                self._keep_kernels(lane)
            staging.done.synchronize()
            depth: Array = staging.depth.values[: len(images)].copy()
            return depth

    def _run_on_gpu(self, image: Any, color: str, out: Any, caller_stream: int) -> Any:
        photo = arrays.view(image, stream=caller_stream) if arrays.is_on_gpu(image) else None
        if photo is None:
            grid_hw = (image.shape[0], image.shape[1])
        else:
            self._check_gpu(photo)
            grid_hw = arrays.check_photo(photo, self.grids.fixed, color)
        by_batch = self._lanes_at(grid_hw)
        lane = by_batch[min(by_batch)]
        result = self._result(out, grid_hw, caller_stream)
        touches_host = photo is None or result is None
        with _staging_buffer(lane) if touches_host else contextlib.nullcontext() as staging:
            if staging is not None and photo is None:
                staging.image.values[0] = image
            with self._lock:
                self._wait_for(caller_stream)
                if photo is not None:
                    self._copy_photo(photo, grid_hw, lane)
                lane.enqueue(
                    h2d_from=staging if photo is None else None, d2h_to=staging if result is None else None
                )
                if result is not None:
                    self._stream.copy_d2d(result.address, lane.addresses["depth"], _nbytes(grid_hw))
                if isinstance(result, DeviceDepth):
                    result.written.record(self._stream.handle)
                self._order.record(self._stream.handle)
                self._order.wait_in(caller_stream)
                if staging is not None:
                    staging.done.record(self._stream.handle)
                self._keep_kernels(lane)
            if staging is not None:  # the next frame gets the buffer as soon as it is given back
                staging.done.synchronize()
                if result is None:
                    return staging.depth.values[0].copy()
        return out if isinstance(result, DeviceView) else result

    def _keep_kernels(self, lane: OpenLane) -> None:
        """Once for each lane, when its first frame is enqueued: what was compiled for it by then."""
        if self._kernels is not None and not lane.has_run:
            self._kernels.keep()
        lane.has_run = True

    def _copy_photo(self, photo: DeviceView, grid_hw: tuple[int, int], lane: OpenLane) -> None:
        """Enqueue the copy of a photo on the GPU to where the encoder reads it, once its values are there."""
        if photo.stream is not None:
            self._wait_for(photo.stream)
        rows, row_nbytes = grid_hw[0], 3 * grid_hw[1]
        self._stream.copy_rows_d2d(
            lane.addresses["image"], photo.address, row_nbytes=row_nbytes, pitch=photo.pitch, rows=rows
        )

    def _result(
        self, out: Any, grid_hw: tuple[int, int], caller_stream: int
    ) -> DeviceDepth | DeviceView | None:
        """Where the depth map goes; None for the host."""
        if isinstance(out, str):
            if out == "host":
                return None
            return DeviceDepth(grid_hw, gpu=self._gpu_index, stream=self._stream.handle)
        written = arrays.view(out, stream=caller_stream)
        self._check_gpu(written)
        arrays.check_result(written, grid_hw)
        return written

    def _check_gpu(self, array: DeviceView) -> None:
        if (index := cuda.gpu_of(array.address)) != self._gpu_index:
            raise ImageError(
                f"The array lies on cuda:{index}, and this engine is on {self.device}. Move the array, or "
                f"open a Depth with device='cuda:{index}'."
            )

    def _wait_for(self, stream: int) -> None:
        """Our stream waits for the work that is enqueued so far in the stream with this handle."""
        self._order.record(stream)
        self._order.wait_in(self._stream.handle)

    def _run_stage(self, stage: str, value: Array, output: str) -> Array:
        with self._opened():
            name = STAGE_TENSORS[stage][0][0]
            by_batch = {}
            for lane in reversed(self._lanes):
                spec = lane.stages[stage].inputs[0]
                if (
                    tensor_shape(spec, lane.profile.grid, lane.profile.batch)[1:] == value.shape[1:]
                    and spec.dtype == value.dtype.name
                ):
                    by_batch[lane.profile.batch] = lane
            if not by_batch:
                raise InferenceError(
                    f"TensorRT failed in the {stage} on {value.dtype} {value.shape}: no plan takes that."
                )
            parts, start = [], 0
            for images, batch in batch_parts(len(value), by_batch):
                part = value[start : start + images]
                parts.append(self._run_stage_once(by_batch[batch], stage, name, part, output))
                start += images
        return np.concatenate(parts)

    def _run_stage_once(self, lane: OpenLane, stage: str, name: str, part: Array, output: str) -> Array:
        spec = next(spec for spec in lane.stages[stage].outputs if spec.name == output)
        result = np.empty(tensor_shape(spec, lane.profile.grid, lane.profile.batch), dtype=spec.dtype)
        with self._lock, cuda.on_gpu(self._gpu_index):
            self._stream.copy_h2d(lane.addresses[name], np.ascontiguousarray(part))
            lane.enqueue_stage(stage)
            self._stream.copy_d2h(result, lane.addresses[output])
            self._stream.synchronize()
        return result[: len(part)]


def require_room(chosen: tuple[Lane, ...]) -> None:
    """Raises DeviceMemoryError unless the current GPU has the memory that the builder predicted, free."""
    plans = {plan.file: plan for lane in chosen for plan in lane.plans.values()}
    memories = [plan.memory for plan in plans.values() if plan.memory is not None]
    needed = sum(memory.weight_bytes for memory in memories)
    needed += max((nbytes for memory in memories for nbytes in memory.activation_bytes), default=0)
    if needed > cuda.memory()[0]:
        raise cuda.no_room("the plans", needed)


def _open_engines(
    engine_dir: EngineDir,
    chosen: tuple[Lane, ...],
    kernels: RuntimeCache | None,
    stack: contextlib.ExitStack,
) -> Mapping[str, OpenedEngine]:
    """The plans of the lanes, each opened once, by their file; `stack` closes them."""
    engines: dict[str, OpenedEngine] = {}
    for plan in {plan.file: plan for lane in chosen for plan in lane.plans.values()}.values():
        stage = engine_dir.manifest.graph_sets[plan.precision].stages[plan.stage]
        graph = engine_dir.path / stage.file
        if plan.stripped:  # its weights come from the graph
            graph = engine_dir.graph(plan.precision, plan.stage).path
        job = PlanJob(record=plan, graph=graph, stage=stage)
        opened = OpenedEngine(engine_dir.file(plan.file), job, kernels)
        engines[plan.file] = stack.enter_context(contextlib.closing(opened))
    return engines


@contextlib.contextmanager
def _staging_buffer(lane: OpenLane) -> Iterator[StagingBuffer]:
    """A staging buffer of the lane for one frame; waits while all of them are in use."""
    staging = lane.staging.get()
    try:
        yield staging
    finally:
        lane.staging.put(staging)


def _nbytes(grid_hw: tuple[int, int]) -> int:
    return grid_hw[0] * grid_hw[1] * np.dtype(np.float32).itemsize

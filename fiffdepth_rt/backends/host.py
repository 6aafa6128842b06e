"""The journey on arrays in host memory: image -> latent -> depth latent -> depth map.

What engines that take and give numpy arrays have in common: which graph set a photo goes through, batches in
parts, opening when first needed, closing. An engine brings the rest (`HostEngine`): how it opens one graph,
and how it runs it.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array
from fiffdepth_rt.backends.grids import Grids, Size, families, split, tensor_shape
from fiffdepth_rt.engine_dir.checking import CheckedGraph, EngineDir
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS, STAGES
from fiffdepth_rt.errors import InferenceError, SizeError
from fiffdepth_rt.processes import keep_forever, tell_of_fork

T = TypeVar("T")  # one graph, as an engine opened it: a session, a compiled model


class HostEngine(abc.ABC, Generic[T]):
    """What an inference engine does for `HostBackend`. name, device: as in `Backend`."""

    name: str
    device: str

    @abc.abstractmethod
    def open_stage(self, graph: CheckedGraph) -> T:
        """A graph -> ready to run. Raises GraphError, StageMismatchError, and what the engine's file says."""

    @abc.abstractmethod
    def run_stage(self, opened: T, stage: str, value: Array, output: str) -> Array:
        """One stage's input -> its output of this name. Several threads may call at once.

        Raises InferenceError, or DeviceMemoryError where a GPU has no room.
        """

    @abc.abstractmethod
    def describe(self, opened: Sequence[OpenedSet[T]]) -> dict[str, Any]:
        """Versions, threads, provider. opened: the graph sets that are open by now."""

    def open_set(self, graphs: Mapping[str, CheckedGraph]) -> OpenedSet[T]:
        """The three graphs of a set, by stage -> opened. Raises as `open_stage`."""
        return OpenedSet(self, {stage: self.open_stage(graph) for stage, graph in graphs.items()}, graphs)

    def after_fork(self) -> None:
        """In a forked child, before a set is opened again there: forget what else is the parent's."""


class OpenedSet(Generic[T]):
    """The three graphs of one set, opened. stages: by name, in the order of the journey. graphs: of each."""

    def __init__(
        self, engine: HostEngine[T], stages: Mapping[str, T], graphs: Mapping[str, CheckedGraph]
    ) -> None:
        self._engine = engine
        self.stages = stages
        self._gives = {stage: graph.stage.outputs[0] for stage, graph in graphs.items()}

    def run_stage(self, stage: str, value: Array, output: str) -> Array:
        """One stage's input -> its output of this name."""
        return self._engine.run_stage(self.stages[stage], stage, value, output)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """image -> depth map, stage by stage. Raises InferenceError where a graph gives another shape."""
        value: Array = image_BHW3
        batch, height, width, _ = image_BHW3.shape
        for stage in STAGE_TENSORS:
            value = self.run_stage(stage, value, main_output(stage))
            expected = tensor_shape(self._gives[stage], (height, width), batch)
            if value.shape != expected:
                raise InferenceError(
                    f"The {stage} gave {value.dtype} {value.shape} for an image of {image_BHW3.shape}, and "
                    f"the manifest says {expected}. Export the directory again."
                )
        return value


class HostBackend(Generic[T]):
    """A directory's graph sets of one name on one engine. `Backend` says what the methods promise.

    The first set is opened at once; another one, for another grid, when a photo first needs it. A forked
    child opens its own, when it first needs one.
    """

    def __init__(self, engine_dir: EngineDir, engine: HostEngine[T], *, precision: str) -> None:
        """Raises what opening the first set raises."""
        self.name, self.device, self.precision = engine.name, engine.device, precision
        self._engine_dir = engine_dir
        self._engine = engine
        grids = families(engine_dir.manifest)[precision]
        self._keys = tuple(grids.values())
        self._grids = Grids(
            limits=engine_dir.manifest.size, fixed=tuple(grid for grid in grids if grid is not None)
        )
        self._lock = threading.Lock()
        self._closed = False
        self._opened = {self._keys[0]: self._open_set(self._keys[0])}
        tell_of_fork(self)

    def grid_for(self, photo_hw: tuple[int, int], size: Size) -> tuple[int, int]:
        return self._grids.choose(photo_hw, size)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        opened = self._set_for("encoder", image_BHW3)
        parts = [opened.run(part) for part in split(image_BHW3, self._grids.limits)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_stage(self, stage: str, value: Array) -> Array:
        return self._set_for(stage, value).run_stage(stage, value, main_output(stage))

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return self._set_for("decoder", depth_latent).run_stage("decoder", depth_latent, "depth_unclipped")

    def describe(self) -> dict[str, Any]:
        return {**self._engine.describe(self.opened()), "grids": self._grids.describe()}

    def opened(self) -> tuple[OpenedSet[T], ...]:
        """The graph sets that are open by now."""
        with self._lock:
            return tuple(self._opened.values())

    def close(self) -> None:
        """A call that is running holds its set until it ends."""
        with self._lock:
            self._closed = True
            self._opened.clear()

    def after_fork(self) -> None:
        keep_forever(self._opened)
        self._opened, self._lock = {}, threading.Lock()
        self._engine.after_fork()

    def _set_for(self, stage: str, value: Array) -> OpenedSet[T]:
        """The set that takes this value in this stage. Raises InferenceError where closed, SizeError."""
        with self._lock:
            if self._closed:
                raise InferenceError("This engine is closed. Open a new Depth.")
            key = self._keys[0] if len(self._keys) == 1 else self._key_for(stage, value)
            if key not in self._opened:
                self._opened[key] = self._open_set(key)
            return self._opened[key]

    def _key_for(self, stage: str, value: Array) -> str:
        for key in self._keys:
            listed = self._engine_dir.manifest.graph_sets[key].stages[stage].inputs[0].shape
            if len(listed) == value.ndim and all(
                isinstance(dim, str) or dim == side for dim, side in zip(listed, value.shape, strict=True)
            ):
                return key
        there = ", ".join("{}x{}".format(*grid) for grid in self._grids.fixed)
        raise SizeError(f"The {stage} was given {value.shape}; its graphs are for the grids {there}.")

    def _open_set(self, key: str) -> OpenedSet[T]:
        return self._engine.open_set({stage: self._engine_dir.graph(key, stage) for stage in STAGES})


def main_output(stage: str) -> str:
    """The output that the next stage takes; of the decoder the depth map, clipped."""
    return STAGE_TENSORS[stage][1][0]

"""Graph sets that an engine opened, one per grid: the first at once, another when a photo first needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from fiffdepth_rt.backends import Array
from fiffdepth_rt.backends.grids import GridHW
from fiffdepth_rt.errors import InferenceError, SizeError

T = TypeVar("T")


class OpenedSets(Generic[T]):
    """Safe to use from several threads at once.

    keys: of the graph sets, by the grid each is for; None alone where grids are free.
    open_set: opens one by its key. What it raises comes out of here for the first set, else out of `at`.
    """

    def __init__(self, keys: Mapping[GridHW | None, str], open_set: Callable[[str], T]) -> None:
        self._keys = dict(keys)
        self._open = open_set
        self._lock = threading.Lock()
        self._closed = False
        first = next(iter(self._keys))
        self._sets: dict[GridHW | None, T] = {first: open_set(self._keys[first])}

    def at(self, stage: str, value: Array) -> T:
        """The set that takes this value in this stage. Raises InferenceError where closed, SizeError."""
        with self._lock:
            if self._closed:
                raise InferenceError("This engine is closed. Open a new Depth.")
            grid = next(iter(self._keys)) if len(self._keys) == 1 else _grid_of(stage, value)
            if grid not in self._keys:
                there = ", ".join("{}x{}".format(*key) for key in self._keys if key is not None)
                raise SizeError(f"The {stage} was given {value.shape}; its graphs are for the grids {there}.")
            if grid not in self._sets:
                self._sets[grid] = self._open(self._keys[grid])
            return self._sets[grid]

    def opened(self) -> tuple[T, ...]:
        """Those that are open by now."""
        with self._lock:
            return tuple(self._sets.values())

    def close(self) -> None:
        """A call that is running holds its set until it ends."""
        with self._lock:
            self._closed = True
            self._sets.clear()


def _grid_of(stage: str, value: Array) -> GridHW | None:
    """The grid that a stage's input lies on: images are as large as it, latents an eighth."""
    if value.ndim != 4:
        return None
    if stage == "encoder":
        return (value.shape[1], value.shape[2])
    return (value.shape[2] * 8, value.shape[3] * 8)

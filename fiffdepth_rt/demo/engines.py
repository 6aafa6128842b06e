"""The models that a visitor of the page may choose."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import SizeError

SIZES = (256, 384, 512, 768, 1024, 1536, 2048)
"""Longer sides, in px, that are offered besides a model's own."""


class Engines:
    """Engine directories by the names of their models; one of them is open at a time, for one visitor.

    directories: None is the bundled model. open_engine: opens one. The first is opened here, so that what is
    wrong with it is said before there is a page. Raises what opening raises.
    """

    def __init__(
        self, directories: Sequence[Path | None], open_engine: Callable[[Path | None], Depth]
    ) -> None:
        self._open_engine = open_engine
        self._lock = threading.Lock()
        self._directories: dict[str, Path | None] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._opened: tuple[str, Depth] | None = None
        for directory in reversed(directories):
            depth = self._replace(directory)
            name = depth.manifest.name
            if name in self._directories:
                name = f"{name} ({directory or 'bundled'})"
            self._directories[name] = directory
            self._sizes[name] = _sizes(depth)
            self._opened = (name, depth)

    @property
    def names(self) -> tuple[str, ...]:
        """As they are offered; the first is open."""
        return tuple(reversed(self._directories))

    def sizes(self, name: str) -> tuple[int, ...]:
        """Longer sides, in px, that this model takes; its own first."""
        return self._sizes[name]

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Depth]:
        """The model of this name, to oneself until the block ends. Raises what opening raises."""
        with self._lock:
            if self._opened is None or self._opened[0] != name:
                self._opened = (name, self._replace(self._directories[name]))
            yield self._opened[1]

    def close(self) -> None:
        """Free the engine that is open."""
        with self._lock:
            if self._opened is not None:
                self._opened[1].close()
                self._opened = None

    def _replace(self, directory: Path | None) -> Depth:
        """Two full-size models at once would not fit many machines: the one goes before the other comes."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None
        return self._open_engine(directory)


def _sizes(depth: Depth) -> tuple[int, ...]:
    return (depth.size, *(size for size in SIZES if size != depth.size and _takes(depth, size)))


def _takes(depth: Depth, size: int) -> bool:
    """Whether photos can be processed at this size and not merely near it, as fixed grids would be."""
    try:
        return max(depth.grid_for((1000, 1000), size)) == size
    except SizeError:
        return False

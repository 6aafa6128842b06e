"""How far a build is: the nested phases that TensorRT reports, step by step -> one fraction."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far the build of one plan is.

    phase: the outermost phase, in TensorRT's words. fraction: how much of this phase is done, 0 to 1.
    """

    stage: str
    phase: str
    fraction: float


OnProgress = Callable[[BuildProgress], None]


@dataclasses.dataclass(kw_only=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0
    best: float = 0.0


class Phases:
    """The phases under way. Safe to call from several threads; a phase's fraction never falls."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = _Phase(parent=parent, steps=max(1, steps))

    def step(self, name: str, step: int) -> tuple[str, float]:
        """A step, counted from 0, is complete -> the outermost phase around it, and this phase's fraction."""
        with self._lock:
            if name not in self._phases:
                return name, 0.0
            self._phases[name].done = step + 1
            root = name
            while (parent := self._phases[root].parent) in self._phases:
                root = str(parent)
            return root, self._fraction(root)

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)

    def _fraction(self, name: str) -> float:
        """Steps that are done, plus the furthest fraction of the phases inside the step under way."""
        phase = self._phases[name]
        inside = [self._fraction(child) for child, other in self._phases.items() if other.parent == name]
        reached = min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)
        phase.best = max(phase.best, reached)
        return phase.best

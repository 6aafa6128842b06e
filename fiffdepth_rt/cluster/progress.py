"""How far, how fast, how long still: a line that moves on a terminal, and now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

EVERY_S = 30.0
"""Between two lines where stderr is no terminal, such as the log of a job."""


class Progress:
    """A context around the work; `update` after each piece of it.

    what: the work in a word, before the colon. unit: a piece of it. total: how many pieces there are.
    line: writes a line where stderr is no terminal.
    each: what the pieces hold, where that is what counts, such as "photo" of shards; else None.
    """

    def __init__(
        self, what: str, *, unit: str, total: int, line: Callable[[str], None], each: str | None = None
    ) -> None:
        self._what, self._unit, self._total, self._each = what, unit, total, each
        self._line = line
        self._done = self._counted = 0
        self._start = self._said = time.monotonic()
        self._bar: Any = None

    def update(self, pieces: int = 1, *, counted: int = 0) -> None:
        """So many pieces more, which held `counted` of `each`."""
        self._done += pieces
        self._counted += counted
        if self._bar is not None:
            if self._each is not None:
                self._bar.set_postfix_str(self._throughput(), refresh=False)
            self._bar.update(pieces)
        elif (now := time.monotonic()) - self._said >= EVERY_S:
            self._said = now
            self._line(self.sentence())

    def sentence(self) -> str:
        """ "labels: 120 of 5000 images, 3.4 images/s, 0:23:55 left" """
        said = f"{self._what}: {self._done} of {self._total} {self._unit}s"
        if not self._done:
            return f"{said}, {self._throughput()}" if self._counted else said
        left = round(self._seconds() / self._done * (self._total - self._done))
        return f"{said}, {self._throughput()}, {_clock(left)} left"

    def _throughput(self) -> str:
        count, of = (self._done, self._unit) if self._each is None else (self._counted, self._each)
        return f"{count / self._seconds():.2f} {of}s/s"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self._start = self._said = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total,
                desc=self._what,
                unit=self._unit,
                smoothing=0.05,
                dynamic_ncols=True,
                leave=False,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: int) -> str:
    """5025 -> "1:23:45" """
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

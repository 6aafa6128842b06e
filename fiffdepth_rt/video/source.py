"""Source: frames with their times, whatever they come from."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from fiffdepth_rt.image import Pixels
from fiffdepth_rt.stream import Frame


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The tag of a source's Frame: which one it is, and when it is shown.

    number: in the source, from 0. time_s: since the source's start, exact; of a live source, when it arrived.
    """

    number: int
    time_s: Fraction


class Source(ABC):
    """An opened video: iterate over it once for its Frames, uint8 H×W×3 RGB, each tagged with its Moment.

    name: for messages. live: a camera or a broadcast, which has no end and does not wait.
    rate: frames per second, None where the source does not say, or has no steady one.
    time_base: the step of its times, in s. frames: about how many there are, or None.
    paths: the files, and the folders of pictures, that it is read from.
    sound: the file whose sound belongs to it, or None. start_s: where time 0 is in that file.
    notes: sentences on what was done to the frames, each once. stopped: whether `stop` was called.

    Raises, behind the last good frame, SourceLostError (live), or DamagedVideoError where frames were left
    out or the file breaks off.
    """

    name: str
    live: bool = False
    rate: Fraction | None = None
    time_base: Fraction = Fraction(1, 90_000)
    frames: int | None = None
    paths: tuple[Path, ...] = ()
    sound: Path | None = None
    start_s: Fraction = Fraction(0)
    stopped: bool = False

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._lock = threading.Lock()  # closing FFmpeg's or OpenCV's handle during a read would crash

    def __iter__(self) -> Iterator[Frame]:
        frames = self._frames()
        number = 0
        while True:
            with self._lock:
                if self.stopped:
                    return
                timed = next(frames, None)
            if timed is None:
                break
            yield Frame(photo=timed[1], tag=Moment(number=number, time_s=timed[0]))
            number += 1
        if not self.stopped:
            self._judge_end(number)

    def stop(self) -> None:
        """Make the frame that is just being read the last one. Takes no lock, so a signal handler may."""
        self.stopped = True

    def close(self) -> None:
        """Let go of the file or camera. Waits for a frame that is just being read."""
        self.stopped = True
        with self._lock:
            self._release()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _frames(self) -> Iterator[tuple[Fraction, Pixels]]:
        """(seconds since the start, RGB) for each frame, until there are no more."""

    @abstractmethod
    def _judge_end(self, given: int) -> None:
        """Raises if the source, which gave this many frames, should have given more."""

    @abstractmethod
    def _release(self) -> None: ...

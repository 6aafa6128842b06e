"""frames -> stream items, overlapped: while one frame is computed, the next is read, and the last finished.

Four threads, each with one piece of work, in a row:

    read      source -> photo           as RGB, a copy of our own: a source may reuse its buffer
    fit       photo -> image            onto the grid
    compute   image -> depth map        one frame at a time
    finish    depth map -> item         smoothed if asked for, back to the photo's size

A frame holds a permit from when it is asked for until its depth map is handed over; there are `inflight`
permits, so memory does not grow however long the video is. With drop="oldest" the source is never made to
wait: the newest frame stands before `fit`, one that still stands there is replaced, and it takes its permit
when it goes in.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal

import numpy as np

from fiffdepth_rt import files
from fiffdepth_rt.depth_map import DepthMap, Values
from fiffdepth_rt.errors import (
    CorruptFrameError,
    FrameSizeError,
    ImageError,
    SourceLostError,
    StreamError,
)
from fiffdepth_rt.image import Color, Fit, Pixels, to_grid, to_photo
from fiffdepth_rt.processes import tell_of_exit, tell_of_fork
from fiffdepth_rt.smoothing import Smoother

Drop = Literal["never", "oldest"]

PATIENCE_S = 1.0
"""How long closing waits for a source that does not give its next frame; Python cannot interrupt one."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """What a source of frames may give instead of a photo: a photo, and what shall ride along with it.

    photo: as in `Depth.infer`. tag: anything, such as a time stamp or a message's header; the item has it.
    """

    photo: Any
    tag: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StreamItem:
    """What a stream gives for a frame.

    index: the frame's number in the source, from 0. With drop="oldest", a jump by more than 1 from one item
        to the next says how many frames were dropped.
    photo: the frame, uint8 H×W×3 RGB; a copy of the stream's own.
    depth_map: of that photo.
    tag: of its `Frame`, the same object; None where the source gave a photo alone.
    """

    index: int
    photo: Pixels
    depth_map: DepthMap
    tag: Any = None


@dataclasses.dataclass(kw_only=True)
class _Frame:
    """A frame on its way; `value` is what the last stage made of it."""

    index: int
    photo: Pixels
    tag: Any
    value: Any = None
    fitted: Fit | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _End:
    """Behind the last frame: the source is exhausted, or what went wrong."""

    error: BaseException | None = None


class _ClosedError(Exception):
    """The stream is closed; a stage that hears it goes home."""


class _Line:
    """What the threads share: permits and the queues between stages, behind one lock."""

    def __init__(self, inflight: int) -> None:
        self._changed = threading.Condition()
        self._permits = inflight
        self._closed = False

    def take_permit(self) -> None:
        with self._changed:
            self._wait_for(lambda: self._permits > 0)
            self._permits -= 1

    def give_permit(self) -> None:
        with self._changed:
            self._permits += 1
            self._changed.notify_all()

    def put(self, queue: deque[_Frame | _End], item: _Frame | _End, *, replacing: bool = False) -> None:
        """`replacing` throws away the frame that still waits there."""
        with self._changed:
            if self._closed:
                raise _ClosedError
            if replacing:
                queue.clear()
            queue.append(item)
            self._changed.notify_all()

    def get(self, queue: deque[_Frame | _End], *, with_permit: bool = False) -> _Frame | _End:
        with self._changed:
            self._wait_for(lambda: bool(queue) and (not with_permit or self._permits > 0))
            self._permits -= with_permit
            return queue.popleft()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._closed or ready())
        if self._closed:
            raise _ClosedError


class Stream:
    """An iterator over StreamItems, in the order of the frames; made by `Depth.stream`, which says more.

    Threads start with the first `next`. They end with the last item, with an error, with `close`, at the
    end of a `with` block, when the stream is garbage, so leaving a loop early ends them too, and when the
    program ends. A forked child may close a stream of its parent, and go on with one that had not begun.
    """

    def __init__(
        self,
        frames: Iterable[Any],
        *,
        fit: Callable[[Pixels], Fit],
        run: Callable[[Pixels], Values],
        as_depth_map: Callable[[Values], DepthMap],
        color: Color,
        inflight: int,
        drop: Drop,
        smooth: float | None,
    ) -> None:
        if isinstance(frames, (str, os.PathLike)):
            raise StreamError(
                f"A stream takes photos, and {str(frames)!r} is one path. For a video, pass what "
                "fiffdepth_rt.video.open_source gives; for photos, a list of their paths."
            )
        if isinstance(inflight, bool) or not isinstance(inflight, (int, np.integer)) or inflight < 1:
            raise StreamError(f"inflight={inflight!r} is not possible: say how many frames, at least 1.")
        if drop not in ("never", "oldest"):
            raise StreamError(
                f"drop={drop!r} is not known: say 'never' (files), or 'oldest' (cameras: latest frame wins)."
            )
        if color not in ("rgb", "bgr"):
            raise ImageError(f"color={color!r} is not known: say 'rgb', or 'bgr' for pixels from OpenCV.")
        smoother = None if smooth is None else Smoother(smooth)
        self._line = line = _Line(int(inflight))
        self._finished: deque[_Frame | _End] = deque()
        self._over = False
        self._parents = False
        tell_of_fork(self)
        tell_of_exit(self)

        # The threads must not know this object: it ends them when it is garbage.
        photos, images, maps = deque[_Frame | _End](), deque[_Frame | _End](), deque[_Frame | _End]()
        latest = drop == "oldest"

        def to_image(frame: _Frame) -> None:
            frame.fitted = fit(frame.photo)
            frame.value = to_grid(frame.photo, frame.fitted)

        def to_depth(frame: _Frame) -> None:
            frame.value = run(frame.value[np.newaxis])[0]

        def to_result(frame: _Frame) -> None:
            values = frame.value if smoother is None else smoother(frame.value)
            assert frame.fitted is not None
            frame.value = as_depth_map(to_photo(values, frame.fitted))

        self._threads: list[threading.Thread] = []
        # A Thread object of before a fork does not start in the child (Python 3.13), so there is none yet.
        self._to_start: tuple[tuple[str, Callable[..., None], tuple[Any, ...]], ...] = (
            ("read", _read, (line, frames, photos, color, latest)),
            ("fit", _work, (line, to_image, photos, images, latest)),
            ("compute", _work, (line, to_depth, images, maps, False)),
            ("finish", _work, (line, to_result, maps, self._finished, False)),
        )

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> StreamItem:
        if self._parents:
            raise StreamError(
                "This stream began before this process was forked, and its threads are the parent's. Start a "
                "stream in the child."
            )
        if self._over:
            raise StopIteration
        if not self._threads:
            self._start()
        try:
            item = self._line.get(self._finished)
        except _ClosedError:  # by another thread
            raise StopIteration from None
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if isinstance(item, _End):
            self.close()
            if item.error is None:
                raise StopIteration
            raise item.error
        self._line.give_permit()
        return StreamItem(index=item.index, photo=item.photo, depth_map=item.value, tag=item.tag)

    def _start(self) -> None:
        self._threads = [
            threading.Thread(target=work, args=arguments, name=f"fiffdepth-{name}", daemon=True)
            for name, work, arguments in self._to_start
        ]
        self._to_start = ()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End all threads. Frames still in flight are forgotten; closing again does nothing."""
        self._over, self._to_start = True, ()
        self._line.close()
        self._finished.clear()
        for thread in self._threads:
            thread.join(PATIENCE_S if thread is self._threads[0] else None)
        if self._threads and self._threads[0].is_alive():
            _log.warning("The source of a closed stream is busy; its thread ends with its next frame.")

    def after_fork(self) -> None:
        if self._threads:
            self._parents, self._threads, self._line = True, [], _Line(1)

    def at_exit(self) -> None:
        self.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not hasattr(self, "_threads"):  # __init__ raised
            return
        if sys.is_finalizing() or threading.current_thread() in self._threads:  # neither can wait for threads
            self._line.close()
        else:
            self.close()


def _read(
    line: _Line, frames: Iterable[Any], photos: deque[_Frame | _End], color: Color, latest: bool
) -> None:
    """The source -> photos, each checked and copied before the next one is asked for."""
    try:
        try:
            index, first_hw, source = 0, None, iter(frames)
            while True:
                if not latest:
                    line.take_permit()
                try:
                    raw = next(source)
                except StopIteration:
                    break
                given = raw if isinstance(raw, Frame) else Frame(photo=raw)
                photo = _as_photo(given.photo, index, color)
                first_hw = first_hw or photo.shape[:2]
                _check_size(photo.shape[:2], first_hw, index)
                line.put(photos, _Frame(index=index, photo=photo, tag=given.tag), replacing=latest)
                index += 1
            line.put(photos, _End())
        except _ClosedError:
            raise
        except BaseException as error:  # whatever the source raised belongs to the consumer
            line.put(photos, _End(error=error))
    except _ClosedError:
        pass


def _work(
    line: _Line,
    stage: Callable[[_Frame], None],
    inbox: deque[_Frame | _End],
    outbox: deque[_Frame | _End],
    with_permit: bool,
) -> None:
    """One stage: frames in, frames out, in order, until the end or an error."""
    try:
        item: _Frame | _End | None = None
        while not isinstance(item, _End):
            item = line.get(inbox, with_permit=with_permit)
            if isinstance(item, _Frame):
                try:
                    stage(item)
                except BaseException as error:
                    item = _End(error=error)
            line.put(outbox, item)
    except _ClosedError:
        pass


def _as_photo(raw: Any, index: int, color: Color) -> Pixels:
    if raw is None:
        raise SourceLostError(
            f"The source gave None for frame {index}. So does OpenCV when a camera or a network stream is "
            "gone: plug it in again, and start a new stream; or end the source at the last frame."
        )
    try:
        photo = files.to_pixels(raw, color=color)
    except ImageError as error:
        raise CorruptFrameError(
            f"Frame {index} of the stream cannot be used. {error} To go on without such frames, leave them "
            "out in the source."
        ) from error
    return photo.copy() if isinstance(raw, np.ndarray) and np.may_share_memory(photo, raw) else photo


def _check_size(hw: tuple[int, ...], first_hw: tuple[int, ...], index: int) -> None:
    if hw != first_hw:
        raise FrameSizeError(
            f"Frame {index} has {hw[0]}×{hw[1]} px, and the stream began with {first_hw[0]}×{first_hw[1]}: "
            "resize it in the source, or start a new stream from this frame on."
        )

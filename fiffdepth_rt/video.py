"""video or camera -> video or pictures. START HERE: `convert`, the whole journey in a few lines.

    Source     a file, a camera or an address -> uint8 H×W×3 BGR frames
    Result     depth maps -> .mp4 in colour, .mkv with 16 bits, or a folder of 16-bit PNG

OpenCV reads and writes, not PyAV: it is here already, opens cameras by number on every system, turns phone
videos upright, and gives up on a silent network after a time limit. What that costs: .mp4 is MPEG-4 part 2
(OpenCV's wheels bring no H.264 encoder), frames are written at a constant rate, both sides are even, and of
damage FFmpeg says no more than that frames are missing; picture errors that it could paint over stay unseen.

Convention: a 16-bit video holds round(65535 × depth map), like a 16-bit picture (`DepthMap.save`).
"""

from __future__ import annotations

import math
import os
import re
import secrets
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import DamagedVideoError, OutputError, SourceError, SourceLostError
from fiffdepth_rt.files import refuse_existing, to_16_bits
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.stream import StreamItem

TIMEOUT_MS = 10_000
"""How long an address may stay silent, at the start and between frames."""

_FALLBACK_FPS = 30.0  # of a source that does not say
_COUNTED = (".mp4", ".m4v", ".mov", ".avi")  # their headers count frames; of others OpenCV gives an estimate


class Source:
    """An opened video: iterate over it once for its frames, uint8 H×W×3 BGR. Made by `open_source`.

    name: for messages. live: a camera or a broadcast, which has no end and does not wait.
    fps: frames per second, 30 where the source does not say. frames: how many there should be, or None.
    stopped: whether `stop` was called.

    Raises, behind the last good frame, SourceLostError (live) or DamagedVideoError (a file with frames
    missing).
    """

    def __init__(self, capture: cv2.VideoCapture, name: str, *, live: bool, exact: bool = False) -> None:
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = math.isfinite(count) and 0 < count < 2**31
        self.name = name
        self.live = live
        self.fps = fps if math.isfinite(fps) and 0.1 <= fps <= 480 else _FALLBACK_FPS
        self.frames = round(count) if known and not live else None
        self.stopped = False
        self._exact = exact
        self._capture = capture
        self._lock = threading.Lock()  # releasing a capture while another thread reads from it would crash

    def __iter__(self) -> Iterator[Pixels]:
        given = 0
        while (frame := self._next()) is not None:
            given += 1
            yield frame
        if self._capture.isOpened() and not self.stopped:
            self._judge_end(given)

    def stop(self) -> None:
        """Make the frame that is just being read the last one. Takes no lock, so a signal handler may."""
        self.stopped = True

    def close(self) -> None:
        """Let go of the file or camera. Waits for a frame that is just being read."""
        with self._lock:
            self._capture.release()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _next(self) -> Pixels | None:
        with self._lock:
            if self.stopped:
                return None
            try:
                there, frame = self._capture.read()
            except cv2.error:
                return None
        return np.asarray(frame, dtype=np.uint8) if there else None

    def _judge_end(self, given: int) -> None:
        if self.live:
            raise SourceLostError(
                f"{self.name} gives no more frames after {given}: it was unplugged or switched off, another "
                "program took it, or the network broke. Plug it in again, and start again."
            )
        if given and not self._breaks_off(given):
            return
        promised = self.frames or "an unknown number"
        raise DamagedVideoError(
            f"Only {given} of {promised} frames of {self.name} can be decoded: it is damaged or cut off. "
            "Copy it again, or repair it: ffmpeg -i IN -c:v ffv1 repaired.mkv"
        )

    def _breaks_off(self, given: int) -> bool:
        if self.frames is None or given >= self.frames:
            return False
        if self._exact:
            return True
        # An estimate from the duration: believed where the last frame's time, too, is well before the end.
        reached_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return reached_s < self.frames / self.fps - max(1.0, 2 / self.fps)


def open_source(name: str) -> Source:
    """ "clip.mp4", "0" (the first camera) or "rtsp://…" -> Source. Raises SourceError."""
    if name.isascii() and name.isdigit():
        capture = cv2.VideoCapture(int(name))
        if not capture.isOpened():
            raise SourceError(
                f"Camera {name} cannot be opened: plug it in, end other programs that use it, and check that "
                "you may read it (on Linux /dev/video*, group video). 0 is the first camera."
            )
        return Source(capture, f"Camera {name}", live=True)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)
        shown = re.sub(r"//[^/@]*@", "//", name)  # without user and password
        if not capture.isOpened():
            raise SourceError(
                f"{shown} gives no video within {TIMEOUT_MS // 1000} s: check the address, user and "
                "password, and that this machine reaches it."
            )
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return Source(capture, shown, live=not count > 0)
    path = Path(name)
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises on names that are too long
        what = "is not a file" if os.path.lexists(path) else "does not exist"
        raise SourceError(f"{name} {what}: name a video file, a camera such as 0, or an address rtsp://…")
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)  # noqa: PTH100 - no ":" may come first
    if not capture.isOpened():
        raise SourceError(
            f"{name} cannot be read as a video: it is damaged, cut off, without permission, or in a format "
            "that FFmpeg does not know. Copy it again, or convert it: ffmpeg -i IN out.mp4"
        )
    return Source(capture, name, live=False, exact=path.suffix.lower() in _COUNTED)


class Result(Protocol):
    """Where depth maps go. Closing keeps what was written, ready to use."""

    @property
    def frames(self) -> int:
        """How many were written."""

    def write(self, item: StreamItem) -> None:
        """What a stream gave for a frame of the source. Raises OutputError."""

    def close(self) -> None:
        """Finish the file. Raises OutputError if it cannot be played."""


def open_result(out: Path, *, fps: float, side_by_side: bool = False, overwrite: bool = False) -> Result:
    """By its name: x.mp4 in colour, x.mkv with 16-bit values, a name without ending a folder of PNG.

    Nothing is written before the first frame. Raises OutputError: exists already, another ending,
    side_by_side where there is no colour.
    """
    suffix = out.suffix.lower()
    if side_by_side and suffix != ".mp4":
        raise OutputError(f"Side by side is for eyes, and {out} holds values: name a file that ends in .mp4.")
    if suffix == ".mp4":
        return ColorVideo(out, fps=fps, side_by_side=side_by_side, overwrite=overwrite)
    if suffix == ".mkv":
        return DepthVideo(out, fps=fps, overwrite=overwrite)
    if suffix and not out.is_dir():
        raise OutputError(
            f"{out} has an unknown ending: name a file .mp4 (colours) or .mkv (16-bit values), or a folder."
        )
    return DepthPictures(out, overwrite=overwrite)


def convert(
    depth: Depth, source: Source, result: Result, *, smooth: float | None = None
) -> Generator[int, None, None]:
    """Every frame of `source` through `depth` into `result`; yields how many are done after each.

    A live source is not made to wait: the latest frame wins. However this ends, `result` is closed and holds
    the frames so far. Raises what Depth.stream, the source and the result raise.
    """
    drop = "oldest" if source.live else "never"
    try:
        with depth.stream(source, color="bgr", drop=drop, smooth=smooth) as stream:  # type: ignore[arg-type]
            for item in stream:
                result.write(item)
                yield result.frames
    finally:
        result.close()


class _VideoFile:
    """Pictures -> a file at a constant rate, under a temporary name until it is closed.

    A frame that follows dropped ones stands in for them, so that the video runs at the speed of life.
    """

    def __init__(self, path: Path, *, fps: float, fourcc: str, grey16: bool, overwrite: bool) -> None:
        if not overwrite:
            refuse_existing(path)
        self.frames = 0
        self._path = path
        self._temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
        # MPEG-4 part 2 counts time in at most 65535 steps per second: 119.88 needs to be 11988 / 100.
        self._fps = round(fps, 3 if fps < 65 else 2)
        self._fourcc = cv2.VideoWriter.fourcc(*fourcc)
        self._grey16 = grey16
        self._writer: cv2.VideoWriter | None = None
        self._next_index = 0
        self._written = 0

    def add(self, index: int, picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
        height, width = picture.shape[:2]
        if height % 2 or width % 2:  # OpenCV would cut the last row or column off
            picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        if self._writer is None:
            self._writer = self._open(picture.shape[0], picture.shape[1])
            self._next_index = index
        for _ in range(index - self._next_index + 1):
            self._writer.write(picture)
            self._written += 1
        self._next_index = index + 1
        self.frames += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            self._check()
            self._temporary.replace(self._path)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            raise OutputError(
                f"Cannot write {self._path} ({error.strerror or error}): make room on its disk, or choose "
                "another folder."
            ) from error

    def _open(self, height: int, width: int) -> cv2.VideoWriter:
        if self._grey16:
            options = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
        else:
            options = [cv2.VIDEOWRITER_PROP_IS_COLOR, 1]
        writer = cv2.VideoWriter(
            str(self._temporary.absolute()), cv2.CAP_FFMPEG, self._fourcc, self._fps, (width, height), options
        )
        if not writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise OutputError(
                f"Cannot write {self._path}: name a folder that is there and that you may write to. If it "
                "is, this OpenCV lacks its FFmpeg part: pip install --force-reinstall opencv-python-headless"
            )
        return writer

    def _check(self) -> None:
        """OpenCV's writer does not say that the disk is full; what it left behind does."""
        reader = cv2.VideoCapture(str(self._temporary.absolute()), cv2.CAP_FFMPEG)
        count = reader.get(cv2.CAP_PROP_FRAME_COUNT) if reader.isOpened() else 0
        complete = abs(count - self._written) <= max(1, self._written / 1000)  # .mkv gives an estimate
        if complete:  # the header says so; it may have been written into a file that could not grow
            reader.set(cv2.CAP_PROP_POS_FRAMES, count - 1)
            complete = reader.grab()
        reader.release()
        if not complete:
            raise OSError(f"its {self._written} frames did not all arrive there, the disk may be full")


class ColorVideo:
    """Colours for eyes, near is warm: .mp4; side by side, the photo is on the left."""

    def __init__(self, path: Path, *, fps: float, side_by_side: bool, overwrite: bool) -> None:
        self._file = _VideoFile(path, fps=fps, fourcc="mp4v", grey16=False, overwrite=overwrite)
        self._side_by_side = side_by_side

    @property
    def frames(self) -> int:
        return self._file.frames

    def write(self, item: StreamItem) -> None:
        picture = item.depth_map.colors()
        if self._side_by_side:
            picture = np.hstack([item.photo, picture])
        self._file.add(item.index, np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), dtype=np.uint8))

    def close(self) -> None:
        self._file.close()


class DepthVideo:
    """16-bit values without loss: FFV1 in .mkv. An odd side gets its last row or column twice."""

    def __init__(self, path: Path, *, fps: float, overwrite: bool) -> None:
        self._file = _VideoFile(path, fps=fps, fourcc="FFV1", grey16=True, overwrite=overwrite)

    @property
    def frames(self) -> int:
        return self._file.frames

    def write(self, item: StreamItem) -> None:
        self._file.add(item.index, to_16_bits(item.depth_map.values))

    def close(self) -> None:
        self._file.close()


class DepthPictures:
    """16-bit PNG, 000000_depth.png and on, by the frame's number in the source; made if it is not there."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.frames = 0
        self._folder = folder
        self._overwrite = overwrite

    def write(self, item: StreamItem) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The folder {self._folder} cannot be made ({error.strerror}): name another one."
            ) from error
        path = self._folder / f"{item.index:06d}_depth.png"
        item.depth_map.save(path, overwrite=self._overwrite)
        self.frames += 1

    def close(self) -> None:
        """Every picture is complete already."""

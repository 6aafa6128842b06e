"""file or address -> Source, through PyAV."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container.input import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from fiffdepth_rt.errors import DamagedVideoError, SourceError, SourceLostError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.video.source import Source
from fiffdepth_rt.video.upright import Upright

TIMEOUT_S = 10
"""How long an address may stay silent, at the start and between frames."""

_LISTS = frozenset({"concat", "dash", "hls", "image2", "imf", "rtsp", "sdp", "vobsub", "webm_dash_manifest"})
"""Formats of FFmpeg whose files name other files or addresses, which FFmpeg opens."""

_ENDS = frozenset({"matroska", "nut"})
"""Formats of FFmpeg whose headers may say when a file ends, not how long it is."""

_GIVE_UP = 100  # reads in a row that fail: there is nothing more to come
_SLACK_S = Fraction(1, 2)  # by which a sound file's last frame, or a last frame's length, may miss the end


class _Reader(Source):
    """What files and addresses have in common."""

    def __init__(self, shown: str, container: InputContainer) -> None:
        super().__init__()
        self.name = shown
        self._container = container
        self._stream = stream = _best(container, shown)
        self._upright = Upright(stream)
        self.notes = self._upright.notes
        self.time_base = stream.time_base or self.time_base
        self.rate = _rate(container, stream)
        self.start_s = Fraction(container.start_time or 0, av.time_base)
        self.frames = self._estimate()
        self._failed = 0
        self._failed_behind_s: Fraction | None = None  # the last good frame before the first that failed
        self._last_s: Fraction | None = None
        self._recent_s = deque[Fraction](maxlen=64)  # when the latest packets are shown
        self._longest_s = Fraction(0)  # from one frame to the next
        self._reached_s = Fraction(0)  # how far what was read goes, sound included

    def _frames(self) -> Iterator[tuple[Fraction, Pixels]]:
        for packet in self._packets():
            try:
                decoded = self._stream.decode(packet)
            except av.FFmpegError:
                if packet is not None:
                    self._fail()
                continue
            for frame in decoded:
                if frame.is_corrupt:
                    self._fail()
                    continue
                if frame.time_base is None:  # one that the decoder held back to the end
                    frame.time_base = self.time_base
                if frame.pts is None:  # a stream without a container has no times
                    frame.pts = round(self._next_s() / frame.time_base)
                frame_s = Fraction(frame.pts * frame.time_base)
                if self._last_s is not None:
                    self._longest_s = max(self._longest_s, frame_s - self._last_s)
                self._last_s = frame_s
                yield from self._timed(self._upright.push(frame))
        yield from self._timed(self._upright.flush())
        if lost := self._lost_at_the_end():
            self._fail(lost)

    def _timed(self, pictures: Iterator[tuple[Fraction, Pixels]]) -> Iterator[tuple[Fraction, Pixels]]:
        return ((time_s - self.start_s, pixels) for time_s, pixels in pictures)

    def _packets(self) -> Iterator[Packet | None]:
        """Those of the video, then None, which makes the decoder give what it holds back.

        All streams are read: a file that holds its sound to the end breaks off nowhere.
        """
        in_a_row = 0
        while in_a_row < _GIVE_UP:
            try:
                for packet in self._container.demux():
                    if packet.size == 0 and packet.dts is None:  # PyAV's own flush
                        continue
                    in_a_row = 0
                    self._note_reached(packet)
                    if packet.stream_index == self._stream.index:
                        if packet.pts is not None and not packet.is_discard:
                            self._recent_s.append(Fraction(packet.pts * packet.time_base))
                        yield packet
                break
            except av.error.ExitError:  # the time limit
                break
            except av.FFmpegError:
                in_a_row += 1
                if in_a_row == 1:
                    self._fail()
        yield None

    def _note_reached(self, packet: Packet) -> None:
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is not None and packet.time_base is not None:
            end_s = Fraction((ticks + (packet.duration or 0)) * packet.time_base)
            self._reached_s = max(self._reached_s, end_s - self.start_s)

    def _lost_at_the_end(self) -> int:
        """How many packets lie behind the last frame: PyAV does not tell what its decoder could not flush."""
        if self._last_s is None:
            return 0
        slack_s = Fraction(3, 5) / self.rate if self.rate else 0  # the second field of a frame is none
        return sum(time_s > self._last_s + slack_s for time_s in self._recent_s)

    def _fail(self, count: int = 1) -> None:
        """Frames are missing behind the last one; a decoder with threads says so some packets later."""
        if self._last_s is None and "mpegts" in self._container.format.name:
            return  # a recording of a broadcast begins in the middle
        if not self._failed:
            self._failed_behind_s = self._last_s
        self._failed += count

    def _next_s(self) -> Fraction:
        return self.start_s if self._last_s is None else self._last_s + 1 / (self.rate or Fraction(30))

    def _estimate(self) -> int | None:
        if (promised_s := self._promised_s()) and self.rate:
            return max(1, round(promised_s * self.rate))
        return self._stream.frames or None

    def _promised_s(self) -> Fraction:
        """How long the header says that the file is; 0 where it does not say.

        Of some formats it may be when the file ends, counted from 0 though the first frame comes later, as
        FFmpeg writes them: a file is not called broken for that.
        """
        promised_s = Fraction(self._container.duration or 0, av.time_base)
        to_the_end = not _ENDS.isdisjoint(self._container.format.name.split(","))
        later_s = max(self.start_s, Fraction(0)) if to_the_end else Fraction(0)
        return max(promised_s - later_s, Fraction(0))

    def _judge_end(self, given: int) -> None:
        if not given:
            raise DamagedVideoError(
                f"No frame of {self.name} can be decoded: it is damaged or cut off. Copy it again."
            )
        told: list[str] = []
        if self._failed:
            frames, were = ("1 frame", "was") if self._failed == 1 else (f"{self._failed} frames", "were")
            behind_s = self._failed_behind_s
            where = "at the start" if behind_s is None else f"behind {float(behind_s - self.start_s):.2f} s"
            told.append(
                f"{frames} of {self.name} could not be decoded and {were} left out, the first {where}"
            )
        promised = self._promised_s()
        if self._reached_s < promised - max(_SLACK_S, 2 * self._longest_s):
            told.append(f"{self.name} breaks off at {float(self._reached_s):.2f} of {float(promised):.2f} s")
        if told:
            raise DamagedVideoError(f"{'; '.join(told)}: the file is damaged. Copy it again if you can.")

    def _release(self) -> None:
        self._container.close()


class File(_Reader):
    """A video file. Lists of other files are refused: a stranger's list would name files of this machine."""

    def __init__(self, name: str) -> None:
        path = Path(name)
        try:  # absolute: "at 12:30.mp4" is no address
            container = av.open(
                os.path.abspath(path),  # noqa: PTH100 - keep links
                options={"format_whitelist": ",".join(sorted(av.formats_available - _LISTS))},
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError) as error:
            if _is_list(path):
                raise SourceError(
                    f"{name} is a list of other files, and not a video: name one of them, or make one of "
                    "them first, such as with ffmpeg."
                ) from error
            raise SourceError(
                f"{name} cannot be read as a video ({_reason(error)}): it is damaged, cut off, without "
                "permission, or in a format that FFmpeg does not know. Copy it again, or convert it."
            ) from error
        super().__init__(name, container)
        self.paths = (path,)
        self.sound = path
        self._stream.thread_type = "AUTO"


class Address(_Reader):
    """A camera or a file in the network."""

    def __init__(self, url: str) -> None:
        shown = re.sub(r"//[^/@]*@", "//", url)  # without user and password
        options = {"rtsp_flags": "prefer_tcp"} if url.lower().startswith("rtsp") else {}
        try:
            container = av.open(
                url, timeout=(TIMEOUT_S, TIMEOUT_S), options=options, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, av.error.ExitError):
                reason = f"nothing came within {TIMEOUT_S} s"
            else:
                reason = _reason(error)
            raise SourceError(
                f"{shown} gives no video ({reason}): check the address, user and password, and that this "
                "machine reaches it."
            ) from error
        super().__init__(shown, container)
        self.live = not container.duration
        if self.live:
            self.frames = None
        # Frame threads would hold a live frame back.
        self._stream.thread_type = "SLICE" if self.live else "AUTO"

    def _frames(self) -> Iterator[tuple[Fraction, Pixels]]:
        if not self.live:
            yield from super()._frames()
            return
        began = time.monotonic_ns()
        for _, pixels in super()._frames():  # a broadcast's own times jump, or are made up by FFmpeg
            yield Fraction(time.monotonic_ns() - began, 10**9), pixels

    def _judge_end(self, given: int) -> None:
        if not self.live:
            super()._judge_end(given)
            return
        raise SourceLostError(
            f"{self.name} gives no more frames after {given}: it was switched off, or the network broke. "
            "Start again."
        )


def _is_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    return head.startswith((b"#EXTM3U", b"ffconcat", b"v=0")) or b"<MPD" in head


def _best(container: InputContainer, shown: str) -> VideoStream:
    """The video that FFmpeg would take; a picture on the cover of a song is none."""
    best: Any = container.streams.best("video")
    if best is None:
        container.close()
        raise SourceError(f"{shown} holds no video: name another file.")
    if best.codec_context is None:
        container.close()
        raise SourceError(
            f"{shown} holds a video in a format that this FFmpeg has no decoder for: convert it."
        )
    assert isinstance(best, VideoStream)
    return best


def _rate(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Frames per second as the file says; the tick of Matroska's clock, 1000, is none."""
    rate = stream.average_rate
    if not rate or (rate == 1000 and "matroska" in container.format.name):
        return None
    return Fraction(rate)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)

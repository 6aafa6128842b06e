"""pictures with times -> a video file, through PyAV. Whole or not there (atomic.py)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.container.output import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from fiffdepth_rt.atomic import remove_leftovers, replacing
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.files import refuse_existing
from fiffdepth_rt.video.sound import Sound, open_sound
from fiffdepth_rt.video.source import Source

_BT709 = 1  # as FFmpeg numbers matrix, primaries and transfer function
_LIMITED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """container: FFmpeg's name. codecs: encoders with their options; the first that this PyAV has is taken.
    pixels: the format of the pictures, and encoded the one that is encoded. longest: side, in px."""

    container: str
    codecs: Mapping[str, Mapping[str, str]]
    pixels: str
    encoded: str
    longest: int


_H264 = {
    # No B frames: .mp4 counts its length in decoding order, which would cut the end off at a variable rate.
    # "ultrafast": depth's colours are smooth, so its files are no larger than those of "superfast", which
    # takes half as long again. crf 22: at 640×480, 41.7 dB from the colours (8-bit RGB) in 3.6 kB a frame; 18
    # makes it 42.5 dB in 5.5 kB, and a tenth fewer frames a second with a small model.
    "libx264": {"preset": "ultrafast", "crf": "22", "bf": "0"},
    "libopenh264": {"b": "8000000"},
}
_VP9 = {
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "row-mt": "1", "crf": "24", "b": "0"},
}
COLOR = {
    ".mp4": Encoding(container="mp4", codecs=_H264, pixels="rgb24", encoded="yuv420p", longest=16_384),
    ".mov": Encoding(container="mov", codecs=_H264, pixels="rgb24", encoded="yuv420p", longest=16_384),
    ".webm": Encoding(container="webm", codecs=_VP9, pixels="rgb24", encoded="yuv420p", longest=65_535),
}
"""Videos for eyes, by ending."""

VALUES = {
    ".mkv": Encoding(
        container="matroska",
        codecs={"ffv1": {"level": "3", "slices": "4", "slicecrc": "1"}},
        pixels="gray16le",
        encoded="gray16le",
        longest=2**31,
    )
}
"""Videos of 16-bit values, without loss, by ending."""


class VideoFile:
    """Pictures at their times -> the file `path`, opened with the first picture.

    frames: how many were written. Pictures may have odd sides; where the encoding halves the colours'
    resolution, the last row or column is then there twice.
    """

    def __init__(
        self, path: Path, *, encoding: Encoding, source: Source, sound: bool, overwrite: bool
    ) -> None:
        if not overwrite:
            refuse_existing(path)
        self.frames = 0
        self._path = path
        self._encoding = encoding
        self._source = source
        self._wants_sound = sound
        self._time_base = source.time_base if source.time_base >= Fraction(1, 10**6) else Fraction(1, 90_000)
        self._reformatter = VideoReformatter()  # keeps FFmpeg's context, which a frame's own would make anew
        self._waiting: VideoFrame | None = None  # until the next one tells how long it is shown
        self._gap = max(1, round(1 / ((source.rate or 30) * self._time_base)))
        self._gaps: dict[int, int] = {}  # by pts, of what the encoder holds
        self._closing = contextlib.ExitStack()
        self._written: _Written | None = None
        self._output: OutputContainer | None = None
        self._stream: VideoStream
        self._sound: Sound | None = None

    def add(
        self,
        time_s: Fraction,
        picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
        *,
        metadata: Mapping[str, str],
    ) -> None:
        """A picture, and when it is shown. metadata: of the file; the first picture's counts."""
        height, width = picture.shape[:2]
        if self._encoding.encoded == "yuv420p" and (height % 2 or width % 2):
            edges = ((0, height % 2), (0, width % 2), (0, 0))
            picture = np.asarray(np.pad(picture, edges, mode="edge"), dtype=np.uint8)
        with self._or_nothing():
            if self._output is None:
                self._output = self._open(picture.shape[0], picture.shape[1], metadata)
            pixels = np.ascontiguousarray(picture)
            if self._encoding.encoded == self._encoding.pixels:
                frame = VideoFrame.from_ndarray(pixels, format=self._encoding.pixels)
            else:
                frame = self._reformatter.reformat(
                    VideoFrame.from_numpy_buffer(pixels, format=self._encoding.pixels),
                    format=self._encoding.encoded,
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
            frame.pts, frame.time_base = round(time_s / self._time_base), self._time_base
            if self._waiting is not None:
                frame.pts = max(frame.pts, self._waiting.pts + 1)  # time never stands still
                self._gap = frame.pts - self._waiting.pts
                self._encode(self._output, self._waiting)
            self._waiting = frame
            if self._sound is not None:
                self._sound.write_until(time_s)
        self.frames += 1

    def close(self, *, whole: bool) -> None:
        """Finish the file. whole: the source ended, so the rest of its sound belongs to it."""
        if self._output is None:
            return
        output, self._output = self._output, None
        with self._or_nothing():
            self._encode(output, self._waiting)  # as long as the one before it
            self._encode(output, None)
            if self._sound is not None:
                if whole:
                    self._sound.write_until(None)
                self._sound.finish()
                if self._sound.failed:
                    self._source.notes.append("The sound is damaged: pieces of it were left out.")
            output.close()
            assert self._written is not None
            self._written.check()  # before the file gets its name
            self._closing.close()

    def _encode(self, output: OutputContainer, frame: VideoFrame | None) -> None:
        """A frame, which is shown for `_gap` ticks; or None: what the encoder still holds."""
        if frame is not None:
            self._gaps[frame.pts] = self._gap
        for packet in self._stream.encode(frame):
            packet.duration = self._gaps.pop(packet.pts, self._gap)
            try:
                output.mux(packet)
            except av.FFmpegError:
                if self._sound is None:
                    raise
                self._sound.failed += 1  # a packet of sound that waited to be written

    def _open(self, height: int, width: int, metadata: Mapping[str, str]) -> OutputContainer:
        if max(height, width) > self._encoding.longest:
            raise OutputError(
                f"Cannot write {self._path}: a picture of {height}×{width} px has a side longer than the "
                f"{self._encoding.longest} px of its format. Name a file that ends in .webm, or leave "
                "--side-by-side out."
            )
        remove_leftovers(self._path.parent)
        self._written = _Written(self._closing.enter_context(replacing(self._path)))
        output = self._closing.enter_context(
            contextlib.closing(av.open(self._written, "w", format=self._encoding.container))
        )
        output.metadata.update(metadata)
        self._stream = stream = self._add_stream(output)
        stream.width, stream.height = width, height
        stream.pix_fmt = self._encoding.encoded
        context: Any = stream.codec_context
        context.time_base = self._time_base
        if self._encoding.encoded == "yuv420p":
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
        if self._wants_sound and self._source.sound is not None:
            self._sound = open_sound(self._source.sound, start_s=self._source.start_s)
            if self._sound is not None:
                self._closing.callback(self._sound.close)
                self._sound.add_to(output)
        output.start_encoding()  # what encoder or container refuse comes out here
        return output

    def _add_stream(self, output: OutputContainer) -> VideoStream:
        for name, options in self._encoding.codecs.items():
            if name in av.codecs_available:
                stream = output.add_stream(name, rate=self._source.rate or 30, options=dict(options))
                assert isinstance(stream, VideoStream)
                return stream
        names = ", ".join(self._encoding.codecs)
        raise OutputError(
            f"Cannot write {self._path}: this PyAV has none of the encoders {names}. Install PyAV's "
            "own wheel (pip install --force-reinstall av), or name another ending."
        )

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Where writing fails, no file is left behind. Raises OutputError."""
        try:
            yield
            if self._written is not None:
                self._written.check()
        except (OSError, av.FFmpegError) as error:
            self._output = None
            self.frames = 0
            with contextlib.suppress(OSError, av.FFmpegError):  # of what fails in its turn
                self._closing.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OutputError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise OutputError(
                f"Cannot write {self._path} ({reason}): no file was written. Make room on its disk, or name "
                "another place or ending."
            ) from error


class _Written:
    """The file that PyAV writes to. What the disk refuses is kept for `check`.

    PyAV prints a traceback for the second exception of a file, and its closing makes a second.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def write(self, data: bytes) -> int:
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def check(self) -> None:
        """Raises OSError if the file has not got all that was written."""
        if self._error is not None:
            raise self._error

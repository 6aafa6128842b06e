"""decoded frame -> picture as a person sees it, by FFmpeg's filters:

    bwdif        interlaced frames are made whole (`bwdif`, one frame for each)
    scale        pixels become square, the matrix and the range of the colours are undone
    haldclut     HDR becomes SDR (hdr.py)
    turn         the display matrix: the four rotations, and their mirror images

Every picture has the size of the first one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fiffdepth_rt.image import Pixels, check_extent
from fiffdepth_rt.video import hdr

_TURNS: dict[tuple[int, ...], tuple[tuple[str, str], ...]] = {
    (1, 0, 0, 1): (),
    (-1, 0, 0, 1): (("hflip", ""),),
    (1, 0, 0, -1): (("vflip", ""),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
"""By the signs of the display matrix's a, b, c, d: x′ = a x + c y, y′ = b x + d y."""

_TRANSFERS = {hdr.PQ: "PQ", hdr.HLG: "HLG"}
_WIDEST = 8  # a pixel's sides differ by less; more is a damaged header


class _Kind(NamedTuple):
    """What a chain of filters is built for."""

    height: int
    width: int
    format: str
    time_base: Fraction
    interlaced: bool
    turn: tuple[int, ...]
    transfer: int


class Upright:
    """decoded frames -> (time in s, uint8 H×W×3 RGB), as many and in the same order.

    notes: sentences on what was done, each once.
    """

    def __init__(self, stream: VideoStream) -> None:
        self.notes: list[str] = []
        self._stream = stream
        self._kind: _Kind | None = None
        self._chain: _Chain | None = None
        self._hw: tuple[int, int] | None = None

    def push(self, frame: VideoFrame) -> Iterator[tuple[Fraction, Pixels]]:
        """A frame, with its pts and time base -> the pictures that are ready. Raises ImageError (size)."""
        kind = self._kind_of(frame)
        if self._chain is None or kind != self._kind:
            yield from self.flush()
            self._note(kind)
            self._kind, self._chain = kind, self._build(kind)
        yield from self._chain.push(frame)

    def flush(self) -> Iterator[tuple[Fraction, Pixels]]:
        """The pictures that wait for a next frame."""
        if self._chain is not None:
            yield from self._chain.push(None)
            self._chain = None

    def _kind_of(self, frame: VideoFrame) -> _Kind:
        transfer = int(self._stream.codec_context.color_trc or 0)
        assert frame.time_base is not None
        return _Kind(
            height=frame.height,
            width=frame.width,
            format=frame.format.name,
            time_base=frame.time_base,
            interlaced=bool(frame.interlaced_frame) or (self._kind is not None and self._kind.interlaced),
            turn=_turn(frame),
            transfer=transfer if transfer in _TRANSFERS else 0,
        )

    def _note(self, kind: _Kind) -> None:
        if kind.interlaced and not (self._kind and self._kind.interlaced):
            self.notes.append("The video is interlaced: whole frames are made of it (FFmpeg's bwdif).")
        if kind.transfer and not (self._kind and self._kind.transfer):
            self.notes.append(f"The video is HDR ({_TRANSFERS[kind.transfer]}): its colours become sRGB.")

    def _build(self, kind: _Kind) -> _Chain:
        hw = _square(kind.height, kind.width, self._stream.sample_aspect_ratio)
        across = bool(kind.turn[1])  # height and width change places
        if self._hw is None:
            self._hw = hw[::-1] if across else hw
            check_extent(*self._hw)
        height, width = self._hw[::-1] if across else self._hw
        return _Chain(kind, height, width)


class _Chain:
    """FFmpeg's filters in a row, for frames of one kind."""

    def __init__(self, kind: _Kind, height: int, width: int) -> None:
        graph = Graph()
        self._graph = graph  # its filters live as long
        self._source = last = graph.add_buffer(
            width=kind.width, height=kind.height, format=kind.format, time_base=kind.time_base
        )
        filters = [("bwdif", "mode=send_frame:deint=interlaced")] if kind.interlaced else []
        filters += [("scale", f"{width}:{height}")]
        if kind.transfer:
            filters += [("format", "rgb48le"), ("haldclut", "clut=first")]
        filters += [*_TURNS[kind.turn], ("format", "rgb24"), ("buffersink", "")]
        for name, arguments in filters:
            following = graph.add(name, arguments or None)
            last.link_to(following)
            if name == "haldclut":
                clut = self._table(kind)
                clut.link_to(following, 0, 1)
            last = following
        self._sink = last
        graph.configure()
        if kind.transfer:
            colors = VideoFrame.from_ndarray(hdr.table(kind.transfer), format="rgb48le")
            colors.pts, colors.time_base = 0, kind.time_base
            clut.push(colors)
            clut.push(None)

    def push(self, frame: VideoFrame | None) -> Iterator[tuple[Fraction, Pixels]]:
        """None: there are no more."""
        self._source.push(frame)
        while True:
            try:
                picture = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(picture, VideoFrame)
            assert picture.pts is not None and picture.time_base is not None
            pixels = np.asarray(picture.to_ndarray(), dtype=np.uint8)
            yield Fraction(picture.pts * picture.time_base), pixels

    def _table(self, kind: _Kind) -> FilterContext:
        return self._graph.add_buffer(width=512, height=512, format="rgb48le", time_base=kind.time_base)


def _turn(frame: VideoFrame) -> tuple[int, ...]:
    """frame -> a key of _TURNS: its display matrix, to the nearest right angle."""
    try:
        beside = list(frame.side_data)
    except ValueError:  # PyAV 18 has no name for the kind of a photo's EXIF, and gives none; mirrors are lost
        angle = math.radians(frame.rotation)
        cos, sin = round(math.cos(angle)), round(math.sin(angle))
        return (cos, -sin, sin, cos) if abs(cos) != abs(sin) else (1, 0, 0, 1)
    for data in beside:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (int(number) for number in np.frombuffer(bytes(data), dtype=np.int32)[:5])
            turn = tuple(
                (value > 0) - (value < 0) if abs(value) > 0.7 * 2**16 else 0 for value in (a, b, c, d)
            )
            return turn if turn in _TURNS else (1, 0, 0, 1)
    return 1, 0, 0, 1


def _square(height: int, width: int, aspect: Fraction | None) -> tuple[int, int]:
    """Size in pixels that are `aspect` times as wide as high -> size in square ones; no side gets shorter."""
    if not aspect or not Fraction(1, _WIDEST) < aspect < _WIDEST:
        return height, width
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)

"""TIFF, which holds numbers of every type and layout: who reads which, and what the numbers mean."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.photos.formats import PHOTOS_EXTRA
from fiffdepth_rt.photos.notes import Note

Array = npt.NDArray[Any]
Reader = Literal["pillow", "pillow's values", "opencv", "tifffile"]

_UNSIGNED, _FLOAT = 1, 3  # SampleFormat
_OLD_JPEG, _JPEG = 6, 7  # Compression
_YCBCR = 6  # PhotometricInterpretation
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # PhotometricInterpretation
_COLOURS = {
    3: "a palette",
    4: "a mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
    9: "ICCLAB",
    32803: "a raw sensor's",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file's tags say of its first page.

    hw: (height, width) as stored. bits: of each sample. bands: samples of a pixel. kind: SampleFormat, 1 is
    unsigned, 2 signed, 3 float. planar: each band by itself. meaning: PhotometricInterpretation.
    orientation: as EXIF's. jpegs: how many JPEGs hold the pixels; 0 where another compression does.
    compression: the tag's number. alpha: whether the first band beyond the colours is transparency.
    """

    hw: tuple[int, int]
    bits: int
    bands: int
    kind: int
    planar: bool
    meaning: int
    orientation: int
    compression: int
    alpha: bool
    jpegs: int = 0

    @property
    def reader(self) -> Reader:
        """Pillow takes the common layouts, and alone makes RGB of other colours. It cuts colours of 16 bits
        to 8, and OpenCV does not. It reads planes of 16 bits as if they had 8, and knows no floats, no signed
        numbers in several bands, and not every number of bands: tifffile does. Before 13 it takes YCbCr that
        is no JPEG for cut off.

        Raises ImageError for colours that would have to be converted in a layout that Pillow reads wrongly.
        """
        if self.meaning > _RGB and (self.kind != _UNSIGNED or (self.planar and self.bands > 1)):
            raise self.unknown
        plain = self.meaning == _YCBCR and self.compression not in (_OLD_JPEG, _JPEG)
        if plain and _pillow_release() < 13:
            raise self.unknown
        if self.bits <= 8 and self.kind == _UNSIGNED:
            rgb = self.meaning == _RGB and (self.bands == 3 or (self.bands == 4 and not self.planar))
            grey = self.meaning == _BLACK_IS_ZERO and self.bands == 2 and self.alpha and not self.planar
            return "pillow" if self.bands == 1 or rgb or grey or self.meaning > _RGB else "tifffile"
        if self.bands == 1 and self.meaning == _BLACK_IS_ZERO:
            if (self.bits, self.kind) == (16, _UNSIGNED):
                return "pillow"
            if self.bits == 32 or (self.bits == 16 and self.kind != _FLOAT):
                return "pillow's values"
        if self.bits == 16 and self.kind == _UNSIGNED and not self.planar:
            if self.meaning == _RGB and self.bands in (3, 4):
                return "opencv"
            if self.meaning > _RGB:  # CMYK and the like, which Pillow converts
                return "pillow"
        return "tifffile"

    @property
    def unknown(self) -> ImageError:
        """That nothing here reads this layout."""
        kinds = {_UNSIGNED: "whole numbers", 2: "signed numbers", _FLOAT: "floats"}
        colours = {_WHITE_IS_ZERO: "grey", _BLACK_IS_ZERO: "grey", _RGB: "RGB"} | _COLOURS
        return ImageError(
            f"A TIFF whose colours are {colours.get(self.meaning, f'of the kind {self.meaning}')}, in "
            f"{self.bands} {'planes' if self.planar else 'bands'} of {kinds.get(self.kind, 'numbers')} of "
            f"{self.bits} bits, is read by nothing here: save it as RGB of 8 or 16 bits."
        )


def _pillow_release() -> int:
    import PIL

    return int(PIL.__version__.partition(".")[0])


def read_layout(path: Path) -> Layout:
    """Reads tags only. Raises what Pillow raises for damaged ones."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with path.open("rb") as file:
        head = file.read(8)
        if head[2] == 43 or head[3] == 43:  # BigTIFF
            head += file.read(8)
        tags = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
    bits, kinds = _all(tags.get(258, 1)), _all(tags.get(339, 1))
    return Layout(
        hw=(int(tags[257]), int(tags[256])),
        bits=max(bits),
        bands=int(tags.get(277, 1)),
        kind=max(kinds),
        planar=tags.get(284, 1) == 2,
        meaning=int(tags.get(262, _BLACK_IS_ZERO)),
        orientation=int(tags.get(274, 1)),
        compression=int(tags.get(259, 1)),
        alpha=_all(tags.get(338, 0))[0] in (1, 2),  # ExtraSamples: associated and unassociated alpha
        jpegs=len(_all(tags.get(273, tags.get(324, 0)))) if tags.get(259) == _JPEG else 0,
    )


def _all(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value) if isinstance(value, tuple) else (int(value),)


def read_by_tifffile(path: Path, layout: Layout) -> Array:
    """The first page's values, H×W or H×W×bands. Raises ImageError without tifffile, and what it raises."""
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(
            f"A TIFF of this layout is read by tifffile, which is not installed: {PHOTOS_EXTRA}"
        ) from error
    log = logging.getLogger("tifffile")  # says on stderr what our errors say
    before, log.disabled = log.disabled, True
    try:
        with tifffile.TiffFile(path) as file:
            values = np.asarray(file.pages[0].asarray())
    finally:
        log.disabled = before
    if values.ndim == 3 and layout.planar:
        values = np.moveaxis(values, 0, 2)
    return values


def as_photo(values: Array, layout: Layout) -> tuple[Array, tuple[Note, ...]]:
    """A page's values -> an array that `image.as_rgb` takes, and what was done to it."""
    notes: tuple[Note, ...] = ()
    if layout.kind == _UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)  # Pillow has no unsigned numbers of 32 bits
    if values.ndim == 3:
        if layout.bands > 4:
            text = f"The first three of its {layout.bands} bands were taken for red, green and blue."
            notes = (Note(kind="bands", text=text),)
        values = values[:, :, 0] if layout.bands == 2 else values[:, :, : 4 if layout.bands == 4 else 3]
    values, note = stretched(values)
    if layout.meaning == _WHITE_IS_ZERO:
        values = (
            np.array(1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max, values.dtype) - values
        )
    return values, notes + note


def stretched(values: Array) -> tuple[Array, tuple[Note, ...]]:
    """Values whose type has no range of its own -> float32 in [0, 1], and a sentence on it.

    The lowest becomes 0 and the highest 1, over all bands together; what is not finite becomes 0. uint8,
    uint16, and floats in [0, 1] stay as they are.
    """
    if values.dtype in (np.uint8, np.uint16):
        return values, ()
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("None of its values is finite: save it again.")
    lowest, highest = (
        float(end(values, where=finite, initial=values[finite][0])) for end in (np.min, np.max)
    )
    whole = bool(finite.all())
    if values.dtype.kind == "f" and whole and lowest >= 0 and highest <= 1:
        return values.astype(np.float32), ()
    unit = max(abs(lowest), abs(highest)) or 1.0  # so that no difference is beyond what a float holds
    span = (highest / unit - lowest / unit) or 1.0
    scaled = (np.where(finite, values, lowest).astype(np.float64) / unit - lowest / unit) / span
    black = "" if whole else ", and what is not a finite number became black"
    text = f"Its values go from {lowest:g} to {highest:g}, which became black and white{black}."
    return np.clip(scaled, 0, 1).astype(np.float32), (Note(kind="range", text=text),)

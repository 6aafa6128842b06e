"""START HERE. Photo file -> uint8 pixels, and what had to be done for it.

A photo is judged by its header before one pixel is decoded, and a damaged one ends in an ImageError whatever
its decoder raised. What kind of file it is, its first bytes say, not its name. Pillow reads most; what it
would read wrongly or not at all goes to OpenCV (deep colours, light), or to a library of the extra [photos].
The libraries are imported where a file is read, so that who passes arrays does not wait for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fiffdepth_rt.errors import ImageError, PhotoFormatError, PhotoTooLargeError
from fiffdepth_rt.image import MAX_PIXELS, Pixels, as_rgb, check_extent
from fiffdepth_rt.photos import jpeg, light, opencv, tiff
from fiffdepth_rt.photos.fetching import no_room
from fiffdepth_rt.photos.formats import FORMATS, PHOTO_ENDINGS, Format, format_named
from fiffdepth_rt.photos.notes import Note

if TYPE_CHECKING:
    from PIL import Image

# Pillow's other decoders are never started: some of them run other programs. TGA has no mark that tells it
# from noise, so its decoder is started for its own ending only.
_BY_PILLOW = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP", "GIF", "PPM", "JPEG2000", "ICO")

_switches = (
    threading.Lock()
)  # Python's list of warning filters and OpenCV's log level are one for all threads


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedPhoto:
    """pixels: uint8 H×W×3 RGB, upright. notes: what was done to it."""

    pixels: Pixels
    notes: tuple[Note, ...] = ()

    @property
    def mended(self) -> bool:
        """Whether the file lacks its end, so that some of the pixels may be missing."""
        return any(note.kind == "end" for note in self.notes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Asked:
    """What `load_photo` was asked for."""

    path: Path
    strict: bool
    max_pixels: int


def load_photo(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    strict: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> LoadedPhoto:
    """Photo file -> LoadedPhoto.

    The EXIF orientation is applied, so H×W is what a viewer shows. Grey becomes three equal channels;
    palettes, CMYK and the like become RGB; of several frames or pages the first is taken; a colour profile is
    ignored. Transparent pixels: `image.fill_transparent`. Samples of more than 8 bits: `image.as_rgb`, and
    `tiff.stretched` where their type has no range of its own. Light (EXR, HDR, PFM): `light.tone_mapped`.

    name: what errors call the file; by default its path. strict: refuse a JPEG without its end marker, which
        is otherwise read as far as it goes (`jpeg.mended`). max_pixels: at most MAX_PIXELS.

    Threads read one after another: Pillow's warnings and OpenCV's log are silenced meanwhile, and these are
    switches of the whole process.

    Raises ImageError: not there, not a regular file, damaged or cut off, a side below MIN_SIDE. Of its kinds,
    PhotoFormatError: not in one of FORMATS, or its library is missing. PhotoTooLargeError: more than
    `max_pixels` according to its header; nothing is decoded then.
    """
    path = Path(path)
    name = str(path) if name is None else name
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises on names that are too long
        what = "is not a regular file" if os.path.lexists(path) else "does not exist"
        raise ImageError(f"{name or repr(name)} {what}: name a photo file.")
    try:
        with _switches, warnings.catch_warnings(), opencv.silenced():
            warnings.simplefilter("ignore")  # remarks on odd metadata; damaged pixels raise
            with path.open("rb") as file:
                head = file.read(64)
            return _reader_of(head)(_Asked(path=path, strict=strict, max_pixels=max_pixels))
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from error
    except PermissionError as error:
        raise ImageError(f"{name} cannot be read: no permission; change its mode, or copy it.") from error
    except Exception as error:  # decoders raise a dozen different kinds on damaged files
        raise _explained(error, name, path, max_pixels) from error


def load_photo_bytes(
    data: bytes, *, name: str, ending: str = "", strict: bool = False, max_pixels: int = MAX_PIXELS
) -> LoadedPhoto:
    """What a photo file holds -> LoadedPhoto, as `load_photo` reads it.

    ending: of the file's name, such as ".tga": only names tell what is a TGA.

    It lies in a temporary file meanwhile, because some decoders read nothing else. Raises ImageError like
    `load_photo`, and OutputError where there is no room for temporary files.
    """
    try:
        number, path = tempfile.mkstemp(prefix="fiffdepth-", suffix=ending)  # mode 0600
    except OSError as error:
        raise no_room(error) from error
    try:
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
        except OSError as error:
            raise no_room(error) from error
        return load_photo(path, name=name, strict=strict, max_pixels=max_pixels)
    except ImageError as error:  # decoders say which file, and whoever sent it knows no such name
        raise type(error)(str(error).replace(path, name)) from error
    finally:
        os.unlink(path)  # noqa: PTH108


def _reader_of(head: bytes) -> Callable[[_Asked], LoadedPhoto]:
    """By its first bytes."""
    if head.startswith(light.EXR_MAGIC):
        return _exr
    if head.startswith((b"#?RADIANCE", b"#?RGBE", b"PF\n", b"Pf\n")):
        return _light
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand.startswith((b"hei", b"hev")) or (brand in (b"mif1", b"msf1") and b"avif" not in head):
        return _heif
    return _other


def _exr(asked: _Asked) -> LoadedPhoto:
    _need(format_named("EXR"))
    values = light.read_exr(asked.path, max_pixels=asked.max_pixels)
    return LoadedPhoto(pixels=light.tone_mapped(values), notes=(light.NOTE,))


def _light(asked: _Asked) -> LoadedPhoto:
    data = asked.path.read_bytes()
    check_extent(*light.extent(data), max_pixels=asked.max_pixels)
    return LoadedPhoto(pixels=light.tone_mapped(opencv.decoded(data)), notes=(light.NOTE,))


def _heif(asked: _Asked) -> LoadedPhoto:
    _need(format_named("HEIF"))
    import pi_heif

    opened = pi_heif.open_heif(asked.path, convert_hdr_to_8bit=True)
    check_extent(opened.size[1], opened.size[0], max_pixels=asked.max_pixels)
    return LoadedPhoto(pixels=as_rgb(opened.to_pillow()))  # libheif has turned it upright


def _jpeg(asked: _Asked) -> LoadedPhoto:
    data = asked.path.read_bytes()
    jpeg.check_scans(data)
    with _opened(asked, ("JPEG",)) as picture:
        try:
            picture.load()
        except OSError as error:
            if "truncated" not in str(error):
                raise
            if asked.strict:
                raise ImageError(f"{jpeg.NO_END}, and --strict (strict=True) refuses that.") from error
            pixels, note = jpeg.mended(data)
            return LoadedPhoto(pixels=_turned(pixels, _orientation(picture)), notes=(note,))
        return LoadedPhoto(pixels=_upright(picture))


def _tiff(asked: _Asked) -> LoadedPhoto:
    from PIL import UnidentifiedImageError

    path = asked.path
    layout = tiff.read_layout(path)
    check_extent(*layout.hw, max_pixels=asked.max_pixels)
    if layout.jpegs:
        jpeg.check_scans(path.read_bytes(), pictures=layout.jpegs)
    if layout.reader == "tifffile":
        values, orientation = tiff.read_by_tifffile(path, layout), layout.orientation
    elif layout.reader == "opencv":
        values, orientation = opencv.decoded(path.read_bytes()), 1  # OpenCV has turned it upright
    else:
        try:
            with _opened(asked, ("TIFF",)) as picture:
                picture.load()
                if layout.reader == "pillow":
                    return LoadedPhoto(pixels=_upright(picture))
                values, orientation = np.asarray(picture), _orientation(picture)  # modes F and I
        except UnidentifiedImageError as error:
            raise layout.unknown from error
    photo, notes = tiff.as_photo(values, layout)
    return LoadedPhoto(pixels=_turned(as_rgb(photo), orientation), notes=notes)


def _other(asked: _Asked) -> LoadedPhoto:
    path = asked.path
    decoders = (*_BY_PILLOW, "TGA") if path.suffix.lower() == ".tga" else _BY_PILLOW
    with _opened(asked, decoders) as picture:
        picture.load()
        if picture.format == "PNG" and opencv.is_deep_png(path):  # Pillow cuts their lower bits off
            pixels = as_rgb(opencv.decoded(path.read_bytes()))
            return LoadedPhoto(pixels=_turned(pixels, _orientation(picture)))
        return LoadedPhoto(pixels=_upright(picture))


@contextlib.contextmanager
def _opened(asked: _Asked, decoders: tuple[str, ...]) -> Iterator[Image.Image]:
    """A file -> PIL image whose header was read and judged."""
    from PIL import Image

    readable = [name for name in decoders if format_named(name).readable]
    with Image.open(asked.path, formats=readable) as picture:
        check_extent(picture.height, picture.width, max_pixels=asked.max_pixels)
        yield picture


def _need(format_: Format) -> None:
    """Raises ImageError where the library that reads the format is not installed."""
    if not format_.readable:
        raise PhotoFormatError(
            f"{format_.name} is read by {format_.module}, which is not installed: {format_.cure}"
        )


def _upright(picture: Image.Image) -> Pixels:
    return _turned(as_rgb(picture), _orientation(picture))


def _orientation(picture: Image.Image) -> int:
    """EXIF's number, 1 to 8. Damaged metadata is no reason to refuse sound pixels."""
    with contextlib.suppress(Exception):
        return int(picture.getexif().get(0x0112, 1))
    return 1


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """As EXIF's orientation, 1 to 8, wants it shown."""
    turned = pixels.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def _explained(error: Exception, name: str, path: Path, max_pixels: int) -> ImageError:
    """What a decoder raised -> our sentence."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return PhotoTooLargeError(
            f"{name} claims far more pixels than the limit of {max_pixels / 10**6:g} million: "
            "shrink it first."
        )
    if not isinstance(error, UnidentifiedImageError):
        reason = str(error).rstrip(".")
        return ImageError(f"{name} is damaged or cut off ({reason}): save or download it again.")
    format_ = PHOTO_ENDINGS.get(path.suffix.lower())
    if format_ is not None and not format_.readable:
        return PhotoFormatError(f"{name} cannot be read by what is installed: {format_.cure}")
    readable = ", ".join(format_.name for format_ in FORMATS if format_.readable)
    return PhotoFormatError(
        f"{name} is not a photo in a format that is read here ({readable}): convert it first."
    )

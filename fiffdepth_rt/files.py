"""Photo files -> uint8 pixels, and results -> files.

A photo is judged by its header before one pixel is decoded, and a damaged one ends in an ImageError whatever
its decoder raised. A result that is there is complete (atomic.py). Pillow is imported where a file is read or
written, so that who passes arrays does not wait for it.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.image import MAX_PIXELS, Color, Pixels, as_rgb, check_extent

if TYPE_CHECKING:
    from PIL import Image

# What is looked for in a folder, and the decoder it needs. Pillow's other decoders are never started: some of
# them run other programs.
PHOTO_SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".pgm": "PPM",
    ".ppm": "PPM",
    ".jp2": "JPEG2000",
}
_DECODERS = sorted(set(PHOTO_SUFFIXES.values()))

_warnings_are_off = threading.Lock()  # Python's list of warning filters is one for all threads


def to_pixels(photo: Any, *, color: Color = "rgb") -> Pixels:
    """photo, or the path of a photo file -> uint8 H×W×3 RGB.

    A path (str or os.PathLike) goes through `read_photo`, whatever `color` says, everything else through
    `image.as_rgb`. Raises ImageError.
    """
    return read_photo(photo) if isinstance(photo, (str, os.PathLike)) else as_rgb(photo, color=color)


def read_photo(path: str | os.PathLike[str]) -> Pixels:
    """Photo file -> uint8 H×W×3 RGB, upright.

    The EXIF orientation is applied, so H×W is what a viewer shows. Grey becomes three equal channels, 16 bits
    become 8, palettes, CMYK and the like become RGB, an alpha channel is dropped, of several frames or pages
    the first is taken, a colour profile is ignored. Threads read one after another: Pillow's warnings are
    silenced meanwhile, and that is one switch for the whole process.

    Raises ImageError: not there, not a regular file, not in one of the formats above, damaged or cut off,
    more than MAX_PIXELS according to its header (nothing is decoded then), a side below MIN_SIDE.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises on names that are too long
        what = "is not a regular file" if os.path.lexists(path) else "does not exist"
        raise ImageError(f"{path} {what}: name a photo file.")
    try:
        with _warnings_are_off, warnings.catch_warnings():  # remarks on odd metadata; damaged pixels raise
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_DECODERS) as picture:
                check_extent(picture.height, picture.width)
                picture.load()
                _turn_upright(picture)
                return as_rgb(picture)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} claims far more pixels than the limit of {MAX_PIXELS // 10**6} million: shrink it first."
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is not a photo in a format that is read here ({', '.join(_DECODERS)}): convert it first."
        ) from error
    except PermissionError as error:
        raise ImageError(f"{path} cannot be read: no permission; change its mode, or copy it.") from error
    except Exception as error:  # decoders raise a dozen different kinds on damaged files
        raise ImageError(
            f"{path} is damaged or cut off ({str(error).rstrip('.')}): save or download it again."
        ) from error


def _turn_upright(picture: Image.Image) -> None:
    """Follow the EXIF orientation, in place."""
    from PIL import ImageOps

    # Damaged metadata is no reason to refuse sound pixels. In place, Pillow turns them before it mends the
    # metadata, so that they are upright even where mending fails.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)


def refuse_existing(path: Path) -> None:
    """Raises OutputError if something lies at `path`, be it a broken link."""
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: pass --overwrite (overwrite=True), or name another place.")


def write_png16(
    path: Path, values: npt.NDArray[np.float32], *, text: Mapping[str, str], overwrite: bool = False
) -> None:
    """float32 H×W in [0, 1] -> 16-bit grey PNG of `to_16_bits`. text: its text chunks.

    Raises OutputError: exists already (unless overwrite), no permission, disk full.
    """
    from PIL import Image

    _write(path, _png(Image.fromarray(to_16_bits(values)), text), overwrite=overwrite)


def to_16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """float32 in [0, 1] -> round(65535 × values), uint16."""
    scaled = np.multiply(values, 65535, dtype=np.float32)
    np.rint(scaled, out=scaled)  # in place: a photo may have 100 million pixels
    return scaled.astype(np.uint16)


def write_npy(path: Path, values: npt.NDArray[np.float32], *, overwrite: bool = False) -> None:
    """Array -> NPY file, the values untouched. Raises OutputError like write_png16."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    _write(path, buffer.getvalue(), overwrite=overwrite)


def write_color_png(path: Path, pixels: Pixels, *, overwrite: bool = False) -> None:
    """uint8 H×W×3 RGB -> PNG. Raises OutputError like write_png16."""
    from PIL import Image

    _write(path, _png(Image.fromarray(pixels), {}), overwrite=overwrite)


def _png(picture: Image.Image, text: Mapping[str, str]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    # 4: depth pictures take 40 % of the time of the usual 6, for 5 % more bytes.
    picture.save(buffer, format="PNG", pnginfo=chunks, compress_level=4)
    return buffer.getvalue()


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    if not overwrite:
        refuse_existing(path)
    with replacing(path) as file:
        file.write(data)

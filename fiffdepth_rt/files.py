"""Photo files -> uint8 pixels, and depth maps -> files.

A photo is judged by its header before one pixel is decoded, and a damaged one ends in an ImageError whatever
its decoder raised. A result that is there is complete (atomic.py).

Convention: a 16-bit depth picture holds round(65535 × depth map); its PNG text says which space that is in.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.image import MAX_PIXELS, Pixels, as_rgb

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

# What a 16-bit depth picture's values mean, by output space.
CONVENTION = {
    "depth": "affine-invariant depth: 0 = nearest, 65535 = farthest; not metres",
    "disparity": "affine-invariant disparity: 65535 = nearest, 0 = farthest; not inverse metres",
}


def read_photo(path: str | Path) -> Pixels:
    """Photo file -> uint8 H×W×3 RGB, upright.

    The EXIF orientation is applied, so H×W is what a viewer shows. Grey becomes three equal channels, 16 bits
    become 8, palettes, CMYK and the like become RGB, an alpha channel is dropped, of several frames or pages
    the first is taken, a colour profile is ignored. Not for several threads at once: Pillow's warnings are
    silenced meanwhile, and that is one switch for the whole process.

    Raises ImageError: not there, not a regular file, not in one of the formats above, damaged or cut off,
    more than MAX_PIXELS according to its header (nothing is decoded then), a side below MIN_SIDE.
    """
    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises on names that are too long
        what = "is not a regular file" if os.path.lexists(path) else "does not exist"
        raise ImageError(f"{path} {what}: name a photo file.")
    try:
        with warnings.catch_warnings():  # Pillow's remarks on odd metadata; damaged pixels raise
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_DECODERS) as picture:
                pixels = as_rgb(picture)
                return np.ascontiguousarray(_upright(pixels, _orientation(picture)))
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


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where there is none, or none that makes sense.

    Asked after decoding: Pillow turns TIFF files itself then, and takes their tag away.
    """
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata is no reason to refuse sound pixels
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """H×W×3 as stored -> as it is to be looked at, following the table of EXIF 2.3, tag 0x0112."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def refuse_existing(path: Path) -> None:
    """Raises OutputError if something lies at `path`, be it a broken link."""
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: pass --overwrite, or name another folder.")


def write_depth_png16(
    path: Path, depth: npt.NDArray[np.float32], *, space: str, model: str, overwrite: bool = False
) -> None:
    """Depth map, float32 H×W in [0, 1] -> 16-bit grey PNG.

    Its text chunks say `Space` ("depth" or "disparity"), `Convention` (what 0 and 65535 mean) and `Model`.
    Raises OutputError: exists already (unless overwrite), no permission, disk full.
    """
    text = PngInfo()
    for key, value in {"Space": space, "Convention": CONVENTION[space], "Model": model}.items():
        text.add_text(key, value)
    scaled = np.multiply(depth, 65535, dtype=np.float32)
    np.rint(scaled, out=scaled)  # in place: a photo may have 100 million pixels
    _write(path, _png(Image.fromarray(scaled.astype(np.uint16)), text), overwrite=overwrite)


def write_depth_npy(path: Path, depth: npt.NDArray[np.float32], *, overwrite: bool = False) -> None:
    """Depth map, float32 H×W -> NPY file, the values untouched. Raises OutputError like write_depth_png16."""
    buffer = io.BytesIO()
    np.save(buffer, depth, allow_pickle=False)
    _write(path, buffer.getbuffer(), overwrite=overwrite)


def write_color_png(path: Path, pixels: Pixels, *, overwrite: bool = False) -> None:
    """uint8 H×W×3 RGB -> PNG. Raises OutputError like write_depth_png16."""
    _write(path, _png(Image.fromarray(pixels)), overwrite=overwrite)


def _png(picture: Image.Image, text: PngInfo | None = None) -> memoryview:
    buffer = io.BytesIO()
    # 4: depth pictures take 40 % of the time of the usual 6, for 5 % more bytes.
    picture.save(buffer, format="PNG", pnginfo=text, compress_level=4)
    return buffer.getbuffer()


def _write(path: Path, data: memoryview, *, overwrite: bool) -> None:
    if not overwrite:
        refuse_existing(path)
    with replacing(path) as file:
        file.write(data)

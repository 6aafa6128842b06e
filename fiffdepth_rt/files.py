"""Photo files -> uint8 pixels (photos/), and results -> files.

A result that is there is complete (atomic.py). Pillow is imported where a file is written, so that who passes
arrays does not wait for it.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.atomic import beside, replacing
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.image import Color, Pixels, as_rgb
from fiffdepth_rt.photos.loading import load_photo

_log = logging.getLogger(__name__)


def local_path(name: str) -> Path:
    """A name as it was typed -> the path that is meant: ~ is the home folder, file:///… a file.

    What exists by its very name is that.
    """
    if not os.path.lexists(name):
        if name.lower().startswith("file://"):
            return Path(url2pathname(urlsplit(name).path))
        if name.startswith("~"):
            return Path(os.path.expanduser(name))  # noqa: PTH111 - pathlib raises without a home
    return Path(name)


def to_pixels(photo: Any, *, color: Color = "rgb") -> Pixels:
    """photo, or the path of a photo file -> uint8 H×W×3 RGB.

    A path (str or os.PathLike) goes through `read_photo`, whatever `color` says, everything else through
    `image.as_rgb`. Raises ImageError.
    """
    return read_photo(photo) if isinstance(photo, (str, os.PathLike)) else as_rgb(photo, color=color)


def read_photo(path: str | os.PathLike[str], *, strict: bool = False) -> Pixels:
    """Photo file -> uint8 H×W×3 RGB, upright, by `photos.loading.load_photo`; its notes are logged.

    strict: as there. Raises ImageError.
    """
    loaded = load_photo(path, strict=strict)
    for note in loaded.notes:
        _log.warning("%s: %s", path, note)
    return loaded.pixels


def refuse_existing(path: Path) -> None:
    """Raises OutputError if something lies at `path`, be it a broken link."""
    if os.path.lexists(path):
        raise OutputError(f"{path} exists already: pass --overwrite (overwrite=True), or name another place.")


def refuse_source(result: Path, sources: Iterable[Path], *, name: str) -> None:
    """Raises OutputError if `result` is one of the files or folders that it is made of, by any name or link.

    name: what the error calls them.
    """
    if os.path.exists(result) and any(  # noqa: PTH110 - pathlib raises on names that are too long
        path.exists() and path.samefile(result) for path in sources
    ):
        raise OutputError(f"{result} is {name} itself: name another place for the result.")


def write_png16(
    path: Path, values: npt.NDArray[np.float32], *, text: Mapping[str, str], overwrite: bool = False
) -> None:
    """float32 H×W in [0, 1] -> 16-bit grey PNG of `to_16_bits`. text: its text chunks.

    Raises OutputError: exists already (unless overwrite), no permission, disk full.
    """
    write_levels(path, to_16_bits(values), text=text, overwrite=overwrite)


def write_levels(
    path: Path, levels: npt.NDArray[np.uint16], *, text: Mapping[str, str], overwrite: bool = False
) -> None:
    """uint16 H×W -> 16-bit grey PNG, its levels as they are. text: its text chunks. Raises OutputError like
    write_png16."""
    write_bytes(path, _png(levels, text), overwrite=overwrite)


def png16(values: npt.NDArray[np.float32], *, text: Mapping[str, str]) -> bytes:
    """What `write_png16` writes."""
    return _png(to_16_bits(values), text)


def to_16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """float32 in [0, 1] -> round(65535 × values), uint16."""
    scaled = np.multiply(values, 65535, dtype=np.float32)
    np.rint(scaled, out=scaled)  # in place: a photo may have 100 million pixels
    return scaled.astype(np.uint16)


def write_npy(
    path: Path, values: npt.NDArray[np.float32], *, text: Mapping[str, str], overwrite: bool = False
) -> None:
    """Array -> NPY file, the values untouched, and text in NAME.npy.json: an NPY file has no room for words.

    Where NAME is too long for that, a hash of it takes its place.
    The text is written first, so that no values lie there without it. Raises OutputError like write_png16.
    """
    if not overwrite:
        refuse_existing(path)
    words = beside(path, "json")
    new = not os.path.lexists(words)
    with replacing(words) as file:
        file.write(npy_text(text))
    try:
        write_bytes(path, npy(values), overwrite=overwrite)
    except OutputError:
        if new:
            words.unlink(missing_ok=True)
        raise


def npy(values: npt.NDArray[np.float32]) -> bytes:
    """An array as an NPY file, the values untouched."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def npy_text(text: Mapping[str, str]) -> bytes:
    """What lies beside an NPY file, in NAME.npy.json."""
    return json.dumps(dict(text), indent=1).encode() + b"\n"


def write_color_png(path: Path, pixels: Pixels, *, overwrite: bool = False) -> None:
    """uint8 H×W×3 RGB -> PNG. Raises OutputError like write_png16."""
    write_bytes(path, color_png(pixels), overwrite=overwrite)


def color_png(pixels: Pixels) -> bytes:
    """What `write_color_png` writes."""
    return _png(pixels, {})


def _png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], text: Mapping[str, str]) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    # 4: depth pictures take 40 % of the time of the usual 6, for 5 % more bytes.
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks, compress_level=4)
    return buffer.getvalue()


def write_bytes(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """A file's content -> the file. Raises OutputError like write_png16."""
    if not overwrite:
        refuse_existing(path)
    with replacing(path) as file:
        file.write(data)

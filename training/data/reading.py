"""Files -> pixels, or a SampleError that names the file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiffdepth_rt.errors import ImageError, shortened
from fiffdepth_rt.files import read_photo
from training.data.samples import SampleError


def photo(path: Path, *, name: str) -> NDArray[np.uint8]:
    """Photo file -> uint8 H×W×3 RGB, upright, as fiffdepth_rt.files.read_photo has it."""
    try:
        return read_photo(path)
    except ImageError as error:
        raise SampleError(name, _reason(error, path)) from error


def photo_bytes(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """As `photo`, of a file that lies in an archive."""
    with tempfile.NamedTemporaryFile(prefix="photo-") as file:
        file.write(data)
        file.flush()
        try:
            return read_photo(file.name)
        except ImageError as error:
            raise SampleError(name, _reason(error, file.name)) from error


def _reason(error: ImageError, path: str | Path) -> str:
    """What ImageError says of the file, without its path: the sample's name stands before it."""
    return str(error).removeprefix(f"{path}: ").replace(str(path), "it")


def npy(file: BinaryIO, *, name: str, called: str) -> NDArray[Any]:
    """.npy -> its array, of any shape and numbers of any kind. called: the file, in errors."""
    try:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy's reader of headers raises a dozen kinds on damaged ones
        raise SampleError(name, f"{called} is damaged or no array ({shortened(error, 120)})") from error
    if array.dtype.kind not in "fui":
        raise SampleError(name, f"{called} holds {array.dtype} {array.shape}, not H×W numbers")
    return array


def png16(path: Path, *, name: str) -> NDArray[np.uint16]:
    """16-bit grey PNG -> uint16 H×W."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            pixels = np.asarray(picture)
    except FileNotFoundError as error:
        raise SampleError(name, f"{path} is not there") from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise SampleError(name, f"{path} is damaged or cut off ({str(error).rstrip('.')})") from error
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise SampleError(name, f"{path} holds {pixels.dtype} {pixels.shape}, not 16-bit grey")
    return pixels

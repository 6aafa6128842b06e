"""Bytes of a dataset's files -> arrays, each encoding as its authors wrote it down.

Every function raises SampleError(name, ...) for bytes that are not such a file.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data import reading
from training.data.samples import SampleError

Floats = NDArray[np.float32]

SINTEL_TAG = 202021.25
"""The first float of a .dpt (MPI Sintel's depth format, sdk/python/sintel_io.py)."""
SPRING_KEY = "disparity"
"""The HDF5 dataset in a .dsp5 (Spring's own reader, github.com/cv-stuttgart/flow_IO)."""


def photo(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Picture -> uint8 H×W×3 RGB, as stored: EXIF does not turn it, since the truth is not turned either."""
    return np.array(_picture(data, name).convert("RGB"))


def grey(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """Picture -> uint8 H×W."""
    return np.array(_picture(data, name).convert("L"))


def png16(data: bytes, *, name: str) -> NDArray[np.uint16]:
    """16-bit grey PNG -> uint16 H×W."""
    pixels = np.asarray(_picture(data, name))
    if pixels.dtype == np.int32 and pixels.ndim == 2:  # Pillow before 10.3, and for some writers
        pixels = pixels.astype(np.uint16)
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise SampleError(name, f"holds {pixels.dtype} {pixels.shape}, not 16-bit grey")
    return pixels


def npy(data: bytes, *, name: str) -> NDArray[np.generic]:
    """.npy -> H×W, whatever axes of length 1 it has."""
    array = reading.npy(io.BytesIO(data), name=name, called="the .npy").squeeze()
    if array.ndim != 2:
        raise SampleError(name, f"holds {array.shape}, not height×width")
    return array


def raw_floats(data: bytes, hw: tuple[int, int], *, name: str) -> Floats:
    """float32, little-endian, row by row (ETH3D's ground truth depth) -> H×W; infinite: no reading, 0."""
    if len(data) != 4 * hw[0] * hw[1]:
        raise SampleError(name, f"{len(data)} bytes are no float32 of {hw[0]}×{hw[1]}, the photo's size")
    values = np.frombuffer(data, "<f4").reshape(hw).astype(np.float32)
    values[np.isinf(values)] = 0
    return values


def dpt(data: bytes, *, name: str) -> Floats:
    """Sintel's .dpt -> H×W metres: float32 tag, int32 width and height, float32 row by row."""
    if len(data) < 12 or struct.unpack("<f", data[:4])[0] != SINTEL_TAG:
        raise SampleError(name, f"no .dpt: it does not begin with {SINTEL_TAG}")
    width, height = struct.unpack("<ii", data[4:12])
    if len(data) != 12 + 4 * width * height:
        raise SampleError(name, f"cut off: {len(data)} bytes for {height}×{width}")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width).astype(np.float32)


def dsp5(data: bytes, *, name: str) -> Floats:
    """Spring's .dsp5 -> disparity H×W in px of the photo, from the file's 2H×2W.

    Every second pixel of every second row; the values stay, they are px of the photo already.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            values = np.asarray(file[SPRING_KEY][()], np.float32)
    except (OSError, KeyError) as error:
        raise SampleError(name, f"no .dsp5: no HDF5 with a dataset {SPRING_KEY!r} ({error})") from error
    return values[::2, ::2]


def _picture(data: bytes, name: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise SampleError(name, f"damaged or no picture ({str(error).rstrip('.')})") from error
    return picture

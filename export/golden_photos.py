"""The images on which graphs are judged: two photos and noise, on the grids of the model's default size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.parity import NOISE
from fiffdepth_rt.files import read_photo
from fiffdepth_rt.image import fit, grid_for, to_grid

# CC0, see examples/README.md: its pixels are passed on inside golden.npz.
DEFAULT_PHOTO = Path(__file__).parents[1] / "examples" / "coffee.jpg"


def golden_images(size: int, photos: Sequence[Path] = ()) -> dict[str, npt.NDArray[Any]]:
    """size in px -> {"photo0", "photo1", "noise"}: uint8 h×w×3 on their grids.

    photos: the two to use instead of DEFAULT_PHOTO, once whole and once as a mirrored upright crop; with one
    given, its crop is the second. Raises ImageError when a file cannot be used.
    """
    pixels = [read_photo(path) for path in (photos or (DEFAULT_PHOTO,))][:2]
    if len(pixels) == 1:
        pixels.append(_upright_crop(pixels[0]))
    images = {}
    for i, photo in enumerate(pixels):
        hw = (photo.shape[0], photo.shape[1])
        images[f"photo{i}"] = to_grid(photo, fit(hw, grid_for(hw, size=size)))
    side = grid_for((size, size), size=size)
    images[NOISE] = np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8)
    return images


def _upright_crop(photo: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle of a photo in 3:4, mirrored, so that it shares no column with the whole."""
    height, width = photo.shape[:2]
    keep = min(width, max(16, height * 3 // 4))
    left = (width - keep) // 2
    return np.ascontiguousarray(photo[:, left : left + keep][:, ::-1])

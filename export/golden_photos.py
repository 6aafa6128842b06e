"""The images on which graphs are judged: two photos and noise, on the grids of one size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.engine_dir.golden import NOISE
from fiffdepth_rt.files import read_photo
from fiffdepth_rt.image import fit, grid_for, to_grid

# scikit-image's `coffee`, CC0: its pixels are passed on inside golden.npz.
DEFAULT_PHOTO = Path(__file__).parents[1] / "examples" / "coffee.jpg"


Grid = tuple[int, int]


def golden_images(
    size: int, photos: Sequence[Path] = (), grids: Iterable[Grid] = ()
) -> dict[str, npt.NDArray[Any]]:
    """size in px -> {"photo0", "photo1", "noise"}: uint8 h×w×3, each on the grid that suits it.

    photos: see `golden_photos`. grids: (height, width) of further grids, on which each of the three is called
    "<name>@<height>x<width>".
    """
    pixels = golden_photos(photos)
    images = {name: _on(photo, grid_for(photo.shape[:2], size=size)) for name, photo in pixels.items()}
    images[NOISE] = _noise(grid_for((size, size), size=size))
    for grid in grids:
        at = "@{}x{}".format(*grid)
        images |= {name + at: _on(photo, grid) for name, photo in pixels.items()}
        images[NOISE + at] = _noise(grid)
    return images


def golden_photos(photos: Sequence[Path] = ()) -> dict[str, npt.NDArray[Any]]:
    """{"photo0", "photo1"}: uint8 H×W×3 RGB, as large as they are.

    photos: the files to use instead of DEFAULT_PHOTO; of one alone, a mirrored upright crop is the second.
    Raises ImageError when a file cannot be used.
    """
    pixels = [read_photo(path) for path in (photos or (DEFAULT_PHOTO,))][:2]
    if len(pixels) == 1:
        pixels.append(_upright_crop(pixels[0]))
    return {f"photo{i}": photo for i, photo in enumerate(pixels)}


def _on(photo: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    return to_grid(photo, fit((photo.shape[0], photo.shape[1]), grid))


def _noise(grid: Grid) -> npt.NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (*grid, 3), dtype=np.uint8)


def _upright_crop(photo: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle of a photo in 3:4, mirrored, so that it shares no column with the whole."""
    height, width = photo.shape[:2]
    keep = min(width, max(16, height * 3 // 4))
    left = (width - keep) // 2
    return np.ascontiguousarray(photo[:, left : left + keep][:, ::-1])

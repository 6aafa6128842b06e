"""Photos with mattes beside them in a folder: NAME_rgb.jpg (or .png) and NAME_matte.png, 8-bit alpha."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.data.rgbd import photos_beside
from training.data.samples import DataError

FOREGROUND_ALPHA = 0.1
"""Of 1; what has more belongs to the foreground (Depth Pro, eval/boundary_metrics.py)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matte:
    """photo: the file. foreground: bool H×W, of the photo's size."""

    name: str
    photo: Path
    foreground: NDArray[np.bool_]


def frames(folder: Path) -> Iterator[Matte]:
    """The mattes of a folder by name, with progress.

    Raises SystemExit where there are none, one has no photo, or one is not a picture.
    """
    try:
        found = photos_beside(folder, "_matte.png")
    except DataError as error:
        raise SystemExit(str(error)) from error
    for name, photo, path in tqdm(found, unit="frame"):
        alpha = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if alpha is None:
            raise SystemExit(f"{path} is not a picture.")
        yield Matte(name=name, photo=photo, foreground=alpha > FOREGROUND_ALPHA * 255)

"""Depth without photos: any folder of depth maps, or rendered scenes -> depth pictures.

DepthFolder("depths")    16-bit grey PNGs and .npy arrays H×W, of any unit; 0, NaN and infinity = no reading
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.space import Space
from training.data import procedural, reading
from training.data.normalise import normalise
from training.data.samples import DataError, SampleError

SUFFIXES = (".png", ".npy")


class DepthPicture(Protocol):
    """picture float32 H×W in [-1, 1], valid bool H×W, name; a Pair is one, too."""

    @property
    def picture(self) -> NDArray[np.float32]: ...
    @property
    def valid(self) -> NDArray[np.bool_]: ...
    @property
    def name(self) -> str: ...


class DepthPictures(Protocol):
    """A dataset of them."""

    name: str
    licence: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> DepthPicture:
        """Raises SampleError if this sample cannot be used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A DepthPicture."""

    picture: NDArray[np.float32]
    valid: NDArray[np.bool_]
    name: str


class DepthFolder:
    """All depth maps under a folder, by path. Raises DataError if there is no folder, or no map in it."""

    licence = "as the depth maps' owners say; not recorded"

    def __init__(self, root: str | Path, *, space: Space) -> None:
        self._root, self._space = Path(root), space
        self.name = self._root.name
        if not self._root.is_dir():
            raise DataError(f"{root} is not a folder: name one with depth maps, or with rendered scenes.")
        self._paths = sorted(p for p in self._root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not self._paths:
            raise DataError(f"{root} holds no depth maps (16-bit .png, .npy): name another folder.")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Picture:
        path = self._paths[index]
        name = path.relative_to(self._root).as_posix()
        depth = _read(path, name)
        valid = np.isfinite(depth) & (depth > 0)
        depth = np.where(valid, depth, np.float32(0))
        return Picture(picture=normalise(depth, valid, space=self._space, name=name), valid=valid, name=name)


def depth_pictures(folder: str | Path, *, space: Space) -> list[DepthPictures]:
    """A folder of rendered scenes, or of depth maps -> datasets. Raises DataError."""
    if has_scenes(folder):
        return list(procedural.by_shape(folder, space=space))
    return [DepthFolder(folder, space=space)]


def has_scenes(folder: str | Path) -> bool:
    """Whether training/data/procedural.py has rendered scenes into this folder."""
    return next(Path(folder).glob("*/photos.npy"), None) is not None


def _read(path: Path, name: str) -> NDArray[np.float32]:
    if path.suffix.lower() == ".png":
        return reading.png16(path, name=name).astype(np.float32)
    try:
        with path.open("rb") as file:
            array = reading.npy(file, name=name, called=str(path))
    except OSError as error:
        raise SampleError(name, f"{path} cannot be read ({error.strerror})") from error
    if array.ndim != 2:
        raise SampleError(name, f"{path} holds {array.dtype} {array.shape}, not H×W numbers")
    return array.astype(np.float32)

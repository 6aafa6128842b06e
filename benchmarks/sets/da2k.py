"""DA-2K: photos with pairs of points, of which one is nearer. No metres.

Source: DepthAnything/Depth-Anything-V2, DA-2K.md: annotations.json maps an image's path to a list of
{"point1": [row, column], "point2": [row, column], "closer_point": "point1"}. Pairs counted by an independent
evaluation: 2,068. The data set comes from huggingface.co/datasets/depth-anything/DA-2K.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.sets import encodings
from training.data.samples import DataError, SampleError

PAIRS = 2068
SCENARIOS = (
    "indoor",
    "outdoor",
    "non_real",
    "transparent_reflective",
    "adverse_style",
    "aerial",
    "underwater",
    "object",
)
OTHER = "other"
"""Of an image whose path names no scenario."""

Point = tuple[int, int]
"""Row, column, px of the photo."""


class _Annotation(msgspec.Struct):
    point1: Point
    point2: Point
    closer_point: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """A photo, uint8 H×W×3 RGB, and its pairs: (the nearer point, the farther one)."""

    name: str
    scenario: str
    photo: NDArray[np.uint8]
    pairs: tuple[tuple[Point, Point], ...]


class Da2k:
    """The images of a folder with annotations.json, to be pickled.

    Raises DataError: no such file, another format, another number of pairs (unless subset).
    """

    def __init__(self, folder: Path, *, subset: bool = False) -> None:
        self._folder = folder
        path = folder / "annotations.json"
        try:
            read = msgspec.json.decode(path.read_bytes(), type=dict[str, list[_Annotation]])
        except OSError as error:
            raise DataError(
                f"No annotations.json in {folder}: name the folder of DA-2K, which holds it beside images/."
            ) from error
        except msgspec.MsgspecError as error:
            raise DataError(f"{path} is no list of pairs of points as DA-2K has it ({error}).") from error
        wrong = {one.closer_point for of_image in read.values() for one in of_image} - {"point1", "point2"}
        if wrong:
            raise DataError(f'{path} calls a point "{sorted(wrong)[0]}": there are point1 and point2.')
        self.images = [(name, tuple(map(_ordered, found))) for name, found in read.items()]
        self.pairs = sum(len(pairs) for _, pairs in self.images)
        if self.pairs != PAIRS and not subset:
            raise DataError(
                f"{path} has {self.pairs} pairs, and DA-2K {PAIRS}: download it again, or say --subset for a "
                "result that says how many pairs it stands for."
            )

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images[index][0]

    def scenario(self, index: int) -> str:
        parts = PurePosixPath(self.name(index)).parts
        return next((part for part in parts if part in SCENARIOS), OTHER)

    def frame(self, index: int) -> Pairs:
        """Raises SampleError: no such photo, damaged, or a point outside of it."""
        name, pairs = self.images[index]
        try:
            data = (self._folder / name).read_bytes()
        except OSError as error:
            raise SampleError(name, f"cannot be read ({error.strerror})") from error
        photo = encodings.photo(data, name=name)
        height, width = photo.shape[:2]
        for row, column in (point for pair in pairs for point in pair):
            if not (0 <= row < height and 0 <= column < width):
                raise SampleError(name, f"point ({row}, {column}) is outside of its {height}×{width}")
        return Pairs(name=name, scenario=self.scenario(index), photo=photo, pairs=pairs)


def _ordered(one: _Annotation) -> tuple[Point, Point]:
    return (one.point1, one.point2) if one.closer_point == "point1" else (one.point2, one.point1)

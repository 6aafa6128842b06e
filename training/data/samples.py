"""What a dataset gives: a photo with its depth picture (synthetic), or a photo alone (real).

    Synthetic   dataset[i] -> Pair      exact depth: the half of a batch for t = 0
    Real        dataset[i] -> Photo     labelled by a teacher: the half for t = -1
    Metric      dataset.metric(i) -> MetricPair     the same as a Pair, in metres: to score on

Convention: a depth picture is float32 H×W in [-1, 1]: 2 v - 1 for the values v of a depth map in [0, 1];
fiffdepth_rt/space.py says what v means. All samples of one run are of one space.

Errors (both ValueError):
├── DataError       a dataset cannot be used at all: no such folder, another layout, a space it does not have
└── SampleError     one sample cannot be used: its file is damaged, or there is nothing to learn from it
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.program.terminal import one_line
from fiffdepth_rt.space import Space

PhotoFilter = Literal["area", "nearest"]
"""How a photo shrinks."""


class DataError(ValueError):
    """A dataset cannot be used; the message says why and what to do."""


class SampleError(ValueError):
    """One sample cannot be used. `name` says which: a path, or a name within its dataset.

    Both come from strangers' files: str() has them on one line, control characters escaped.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it can be pickled on its way out of a worker
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return one_line(f"{self.name}: {self.reason}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """photo uint8 H×W×3 RGB; picture float32 H×W in [-1, 1]; valid bool H×W; name, unique in its dataset."""

    photo: NDArray[np.uint8]
    picture: NDArray[np.float32]
    valid: NDArray[np.bool_]
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricPair:
    """A photo with depth in metres: a Pair before it is normalised, and what predictions are scored on.

    photo: uint8 H×W×3 RGB. depth_m: float32 H×W, metres along the optical axis, at the photo's size.
    valid: bool H×W; where it is False, depth_m is whatever the file says: 0, the sky, beyond the limit.
    farthest_m: of the dataset's valid depths; a prediction is clipped there before it is scored.
    name: unique in its dataset. group: its line in a table of results; "": none of its own.
    """

    photo: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    valid: NDArray[np.bool_]
    farthest_m: float
    name: str
    group: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photo:
    """photo uint8 H×W×3 RGB; name, unique in its dataset: the name that its label goes by."""

    photo: NDArray[np.uint8]
    name: str


class Dataset(Protocol):
    """name: stands before every sample's name in logs and keys. licence: for the checkpoint's metadata."""

    name: str
    licence: str

    def __len__(self) -> int: ...


class Synthetic(Dataset, Protocol):
    space: Space

    def __getitem__(self, index: int) -> Pair:
        """Raises SampleError if this sample cannot be used."""


class MetricDataset(Dataset, Protocol):
    def metric(self, index: int) -> MetricPair:
        """Raises SampleError if this sample cannot be used."""


class Real(Dataset, Protocol):
    def __getitem__(self, index: int) -> Photo:
        """Raises SampleError if this sample cannot be used."""


class LabelHeader(Protocol):
    """What is common to all labels; more of it in labels.py."""

    @property
    def space(self) -> Space: ...
    @property
    def teacher(self) -> str: ...
    @property
    def licence(self) -> str: ...


class Labels(Protocol):
    """What a teacher said about the photos of a Real dataset; labels.LabelStore is one."""

    @property
    def header(self) -> LabelHeader: ...

    def picture(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Photo.name -> depth picture and its valid pixels, at any size of the photo's shape.

        Raises LabelError if there is no label, or it is damaged.
        """

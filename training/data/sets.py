"""The table of datasets: everything that training, checking, validation and evaluation know about each.

To add a dataset: its file in this folder, and one row of SETS here. The row's name is then a `kind` in a
configuration, and a word of `python -m training.data check`.

    holds       data.synthetic    validation, tables of accuracy
    "metres"    yes               yes                                 hypersim, vkitti, rgbd
    "pictures"  yes               no: scale and shift are gone        procedural
    "photos"    no (data.real)    no                                  images, shards
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from fiffdepth_rt.space import Space
from training.data import hypersim, rgbd, vkitti
from training.data.samples import DataError, Dataset, MetricDataset, PhotoFilter

Holds = Literal["metres", "pictures", "photos"]


class Opener(Protocol):
    """place, as the user wrote it -> datasets. split: one of the row's. frames: None where it takes none."""

    def __call__(self, place: str, *, space: Space, split: Any, frames: str | None) -> Sequence[Dataset]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """What is known of a dataset without opening it.

    name: in configurations, on the command line, and before the names of its samples.
    holds: "metres": photos with depth in metres; "pictures": photos with depth pictures; "photos": alone.
    splits: the dataset's, the first is the one to train on. A dataset without splits is all "train".
    valid_m: the validity filter: nearest and farthest, a depth is valid strictly between the two. A
        prediction is clipped to the farthest depth before it is scored. None where there are no metres.
    licence: of its photos and depths; None: each folder's own, which the user states.
    photo_filter: how its photos shrink; "nearest" as Marigold does it.
    takes_frames: whether another list of frames than the split's own may be named.
    open: raises DataError where the place cannot be used.
    """

    name: str
    holds: Holds
    splits: tuple[str, ...]
    valid_m: tuple[float, float] | None = None
    licence: str | None = None
    photo_filter: PhotoFilter = "area"
    takes_frames: bool = False
    open: Opener


def _hypersim(place: str, *, space: Space, split: Any, frames: str | None) -> Sequence[Dataset]:
    return [hypersim.Hypersim(place, space=space, split=split, frames=frames)]


def _vkitti(place: str, *, space: Space, split: Any, frames: str | None) -> Sequence[Dataset]:
    return [vkitti.VirtualKitti(place, space=space, split=split)]


def _rgbd(place: str, *, space: Space, split: Any, frames: str | None) -> Sequence[Dataset]:
    return [rgbd.RgbdFolder(place, space=space)]


def _procedural(place: str, *, space: Space, split: Any, frames: str | None) -> Sequence[Dataset]:
    from training.data import procedural  # needs the renderer, and scoring on the sets with metres does not

    return procedural.by_shape(place, space=space)


def _photos(place: str, *, space: Space, split: Any, frames: str | None) -> Sequence[Dataset]:
    from training.data import images  # needs webdataset and torch, and scoring does not

    return [images.open_photos(place)]


SETS = (
    DatasetRow(
        name="hypersim",
        holds="metres",
        splits=("train", "val", "test"),
        valid_m=(hypersim.NEAREST_M, hypersim.FARTHEST_M),
        licence=hypersim.LICENCE,
        photo_filter="nearest",
        takes_frames=True,
        open=_hypersim,
    ),
    DatasetRow(
        name="vkitti",
        holds="metres",
        splits=tuple(vkitti.SCENES),
        valid_m=(vkitti.NEAREST_M, vkitti.FARTHEST_M),
        licence=vkitti.LICENCE,
        photo_filter="nearest",
        open=_vkitti,
    ),
    DatasetRow(
        name="rgbd",
        holds="metres",
        splits=("test",),
        valid_m=(rgbd.NEAREST_M, rgbd.FARTHEST_M),
        open=_rgbd,
    ),
    DatasetRow(
        name="procedural", holds="pictures", splits=("train",), licence="Apache-2.0", open=_procedural
    ),
    DatasetRow(name="images", holds="photos", splits=("train",), open=_photos),
    DatasetRow(name="shards", holds="photos", splits=("train",), open=_photos),
)
SPLITS = tuple(dict.fromkeys(split for row in SETS for split in row.splits))
"""Every split that some dataset has."""


def names(*holds: Holds) -> tuple[str, ...]:
    """Names of the datasets that hold one of `holds`; without arguments, of all datasets."""
    return tuple(row.name for row in SETS if not holds or row.holds in holds)


def row_of(name: str) -> DatasetRow:
    """Raises DataError for a name that is not in the table."""
    for row in SETS:
        if row.name == name:
            return row
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)[0]
    raise DataError(f'There is no dataset "{name}": {", ".join(names())}. Did you mean "{near}"?')


def open_set(
    name: str, place: str, *, space: Space, split: str = "train", frames: str | None = None
) -> Sequence[Dataset]:
    """The datasets in a place: one, or where a set holds pictures of several shapes, one per shape.

    frames: another list of frames, where the set takes one. Raises DataError: no such set or split, another
    layout than the set's, no such list.
    """
    row = row_of(name)
    if split not in row.splits:
        raise DataError(f'{name} has no split "{split}": say {" or ".join(row.splits)}.')
    if frames is not None and not row.takes_frames:
        raise DataError(f"{name} takes no list of frames ({frames}): leave it out.")
    return row.open(place, space=space, split=split, frames=frames)


def open_metric(
    name: str, place: str, *, space: Space, split: str, frames: str | None = None
) -> MetricDataset:
    """A dataset to score on. Raises DataError as `open_set`, and for one without metres."""
    if row_of(name).holds != "metres":
        raise DataError(f"{name} holds no metres to score by: take one of {', '.join(names('metres'))}.")
    dataset: Any
    (dataset,) = open_set(name, place, space=space, split=split, frames=frames)
    return dataset

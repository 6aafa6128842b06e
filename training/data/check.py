"""Every file of a dataset -> a report: counts, shapes, ranges of values, and what cannot be used."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from training.data.samples import MetricPair, Pair, Photo, SampleError

Range = tuple[float, float, float]
"""Least, mean, greatest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """samples: all, good or bad. shapes: "H×W" -> how many, most frequent first. values: by quantity, of all.

    bad: "name: reason" of every sample that cannot be used.
    """

    name: str
    licence: str
    samples: int
    shapes: dict[str, int]
    values: dict[str, Range]
    bad: tuple[str, ...]


def check(dataset: Any, *, workers: int = 1) -> Report:
    """Look at every sample: as training sees it, and in metres where the dataset has them."""
    shapes: collections.Counter[str] = collections.Counter()
    ranges: dict[str, Range] = {}
    bad = []
    looked = torch.utils.data.DataLoader(
        _Looks(dataset),
        sampler=range(len(dataset)),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers if workers > 1 else 0,
        generator=torch.Generator(),
    )
    for one in tqdm(looked, total=len(dataset), desc=f"check {dataset.name}", unit="sample"):
        if one.shape is None:
            bad.append(one.bad)
            continue
        shapes[f"{one.shape[0]}×{one.shape[1]}"] += 1
        for quantity, (least, mean, greatest) in one.values.items():
            low, total, high = ranges.get(quantity, (np.inf, 0.0, -np.inf))
            ranges[quantity] = min(low, least), total + mean, max(high, greatest)
    good = shapes.total()
    return Report(
        name=dataset.name,
        licence=dataset.licence,
        samples=good + len(bad),
        shapes=dict(shapes.most_common()),
        values={quantity: (low, total / good, high) for quantity, (low, total, high) in ranges.items()},
        bad=tuple(bad),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Looked:
    """One sample; of a bad one, only why it is bad."""

    shape: tuple[int, int] | None = None
    values: dict[str, Range] = dataclasses.field(default_factory=dict)
    bad: str = ""


class _Looks(torch.utils.data.Dataset):
    """index -> _Looked."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> _Looked:
        try:
            sample = self._dataset[index]
            values = _pixels(sample)
            if hasattr(self._dataset, "metric"):
                values |= _metres(self._dataset.metric(index))
        except SampleError as error:
            return _Looked(bad=str(error))
        return _Looked(shape=sample.photo.shape[:2], values=values)


def _as_it_is(looked: _Looked) -> _Looked:
    return looked


def _pixels(sample: Pair | Photo) -> dict[str, Range]:
    values = {"photo": _range(sample.photo)}
    if isinstance(sample, Pair):
        values["picture"] = _range(sample.picture[sample.valid])
        values["valid share"] = _range(sample.valid.mean())
    return values


def _metres(sample: MetricPair) -> dict[str, Range]:
    return {"valid depth, m": _range(sample.depth_m[sample.valid])}


def _range(values: np.ndarray) -> Range:
    return float(values.min()), float(values.mean()), float(values.max())

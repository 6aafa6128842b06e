"""Every file of a dataset -> a report: counts, shapes, ranges of values, and what cannot be used."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import multiprocessing
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from training.data.samples import MetricPair, Pair, Photo, SampleError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looked:
    """One sample. values: name of a quantity -> (least, mean, greatest); empty where it is bad."""

    shape: tuple[int, int] | None = None
    values: dict[str, tuple[float, float, float]]
    bad: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """name, licence of the dataset; samples: all; shapes: H×W -> samples; values as in Looked, over all samples.

    bad: "name: reason" of every sample that cannot be used.
    """

    name: str
    licence: str
    samples: int
    shapes: dict[str, int]
    values: dict[str, tuple[float, float, float]]
    bad: tuple[str, ...]


def check(dataset: Any, *, workers: int = 1) -> Report:
    """Look at every sample: as training sees it, and in metres where the dataset has them."""
    with contextlib.ExitStack() as stack:
        look = functools.partial(_look, dataset)
        looked: Iterable[Looked]
        if workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers, _keep, (dataset,)))
            looked = pool.imap(_look_kept, range(len(dataset)), chunksize=16)
        else:
            looked = map(look, range(len(dataset)))
        found = list(tqdm(looked, total=len(dataset), desc=f"check {dataset.name}", unit="sample"))
    good = [one for one in found if one.bad is None]
    shapes = collections.Counter(f"{one.shape[0]}×{one.shape[1]}" for one in good if one.shape)
    return Report(
        name=dataset.name,
        licence=dataset.licence,
        samples=len(found),
        shapes=dict(shapes.most_common()),
        values={
            quantity: _over_all([one.values[quantity] for one in good]) for quantity in _quantities(good)
        },
        bad=tuple(one.bad for one in found if one.bad is not None),
    )


def _look(dataset: Any, index: int) -> Looked:
    try:
        sample = dataset[index]
        values = dict(_pixels(sample))
        if hasattr(dataset, "metric"):
            values |= _metres(dataset.metric(index))
    except SampleError as error:
        return Looked(values={}, bad=str(error))
    return Looked(shape=sample.photo.shape[:2], values=values)


def _pixels(sample: Pair | Photo) -> dict[str, tuple[float, float, float]]:
    values = {"photo": _range(sample.photo)}
    if isinstance(sample, Pair):
        values["picture"] = _range(sample.picture[sample.valid])
        values["valid share"] = (float(sample.valid.mean()),) * 3
    return values


def _metres(sample: MetricPair) -> dict[str, tuple[float, float, float]]:
    return {"valid depth, m": _range(sample.depth_m[sample.valid])}


def _range(values: np.ndarray) -> tuple[float, float, float]:
    return float(values.min()), float(values.mean()), float(values.max())


def _quantities(good: list[Looked]) -> list[str]:
    return list(good[0].values) if good else []


def _over_all(ranges: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    least, mean, greatest = zip(*ranges, strict=True)
    return min(least), sum(mean) / len(mean), max(greatest)


_dataset: Any = None


def _keep(dataset: Any) -> None:
    """Once per worker, not once per sample: a list of millions of photos is large."""
    global _dataset
    _dataset = dataset


def _look_kept(index: int) -> Looked:
    return _look(_dataset, index)

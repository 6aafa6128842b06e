"""[data] of a configuration -> the mixture that the loader reads, and what the result may be used for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiffdepth_rt.space import Space
from training import config
from training.data import mixing, sets
from training.data.images import Labelled, open_photos
from training.data.labels import LabelStore
from training.data.mixing import Mixture, RealSource, SyntheticSource
from training.data.samples import DataError, MetricDataset
from training.labelling.teachers import forbids_commerce
from training.provenance import without_places


def mixture(c: config.Config, *, start: int = 0, pin_memory: bool = False) -> Mixture:
    """Open every set. start: first step. Raises DataError and LabelError."""
    views = c.data.views or None
    synthetic = [
        SyntheticSource(
            dataset=dataset,
            weight=one.weight * share,
            sizes_hw=_sizes(one.sizes),
            max_zoom=one.max_zoom,
            views=views,
            photo_filter=sets.row_of(one.kind).photo_filter,
        )
        for one in c.data.synthetic
        for dataset, share in _open(one, c.data.space)
    ]
    real = [_real(one, c.data.space, views) for one in c.data.real] if c.method.teacher != "off" else []
    return Mixture(
        seed=c.run.seed,
        half_batch=c.data.batch // 2,
        synthetic=tuple(synthetic),
        real=tuple(real),
        flip=c.data.flip,
        start=start,
        stop=c.run.steps,
        workers=c.data.workers,
        prefetch=c.data.prefetch,
        pin_memory=pin_memory,
    )


def metric_set(one: config.Synthetic, space: Space) -> MetricDataset:
    """The set for validation, whose samples have metres. Raises DataError."""
    return sets.open_metric(one.kind, one.path, space=space, split=one.split, frames=one.frames or None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LicenceTerms:
    """What went into a model, with the licence of each, and the licence of the whole: one line each."""

    sources: tuple[str, ...]
    licence: str


def licence_terms(c: config.Config, opened: Mixture) -> LicenceTerms:
    """Base weights, sets, photos and labels -> the terms of the checkpoint.

    The result is under all of their licences at once; one that forbids commercial use is named first.
    """
    used = [(f"base weights {without_places(c.base.model)}", c.base.licence)]
    used += [(source.dataset.name, source.dataset.licence) for source in opened.synthetic]
    for source in opened.real:
        header = source.labels.header
        used.append((source.dataset.name, source.dataset.licence))
        used.append((f"labels of {source.dataset.name} by {header.teacher}", header.licence))
    return LicenceTerms(
        sources=tuple(f"{what} ({licence})" for what, licence in used),
        licence=_together([licence for _, licence in used]),
    )


def _together(licences: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(licences))
    forbids = [licence for licence in distinct if forbids_commerce(licence)]
    both = " and ".join([*forbids, *(x for x in distinct if x not in forbids)])
    return f"not for commercial use: {both}" if forbids else both


def _open(one: config.Synthetic, space: Space) -> list[tuple[mixing.Synthetic, float]]:
    """The datasets of one entry, and the share of its weight that each has."""
    found: Sequence[Any] = sets.open_set(
        one.kind, one.path, space=space, split=one.split, frames=one.frames or None
    )
    return [(dataset, len(dataset) / sum(map(len, found))) for dataset in found]


def _real(one: config.Real, space: Space, views: int | None) -> RealSource:
    labels = LabelStore(one.labels)
    if labels.header.space != space:
        raise DataError(
            f"{one.labels} holds labels in {labels.header.space}, and data.space is {space}: set data.space, "
            f"or label again with `python -m training.labelling --space {space}`."
        )
    photos = open_photos(one.photos, name=Path(one.photos).name or "photos", licence=one.licence)
    return RealSource(
        dataset=Labelled(photos, labels),
        labels=labels,
        weight=one.weight,
        sizes_hw=_sizes(one.sizes) or mixing.REAL_SIZES_HW,
        max_zoom=one.max_zoom,
        views=views,
    )


def _sizes(sizes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, int], ...] | None:
    return tuple((height, width) for height, width in sizes) or None

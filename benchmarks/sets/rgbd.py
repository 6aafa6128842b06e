"""Photos with depth beside them, in metres, in a folder: the set "rgbd" of training/data/sets.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from fiffdepth_rt.space import Space
from training.data import sets
from training.data.samples import DataError, MetricPair


def frames(folder: Path) -> Iterator[MetricPair]:
    """The pairs of a folder (its layout: training/data/rgbd.py), by name, with progress.

    Raises SystemExit where there are none, or one has no photo; SampleError for a file that is damaged.
    """
    try:
        dataset = sets.open_metric("rgbd", str(folder), space=Space.DEPTH, split="test")
    except DataError as error:
        raise SystemExit(str(error)) from error
    for index in tqdm(range(len(dataset)), unit="frame"):
        yield dataset.metric(index)

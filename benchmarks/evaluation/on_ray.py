"""A task for many images on a Ray cluster: indices ──► actors, each with the opened work ──► results by
index.

What the machines must have is this package's dependencies, and the data, the predictions and the models
under the same paths, on a file system that all of them share. A worker may die: Ray gives its images to
another one.
"""

from __future__ import annotations

import pickle
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

import benchmarks
import export
import fiffdepth_rt
import training
from benchmarks.evaluation.work import Work
from fiffdepth_rt.cluster.actors import share, through_actors
from fiffdepth_rt.cluster.connecting import connected
from fiffdepth_rt.cluster.photo_rows import Rows
from fiffdepth_rt.errors import ClusterError
from training.data.samples import DataError

PACKAGES = (fiffdepth_rt, training, export, benchmarks)
AT_ONCE = 4
"""Images that an actor gets in one go: few, since what a dead one had is done again."""

T = TypeVar("T")


def run_on_cluster(work: Work[T], count: int, *, label: str, address: str) -> list[T]:
    """As spread.run, on the cluster at `address` ("local": one that is started here for the run).

    One actor per GPU, or per core where there is none. Raises DataError: nothing answers there, or the work
    fails for another reason than a worker's death.
    """
    try:
        with connected(address, packages=PACKAGES, bundled=True):
            return _run(work, count, label)
    except ClusterError as error:
        raise DataError(str(error)) from error


def _run(work: Work[T], count: int, label: str) -> list[T]:
    rows = through_actors(range(count), Worker, (work,), at_once=AT_ONCE, share=share(cores_each=1))
    found: dict[int, T] = {}
    with tqdm(total=count, desc=label, unit="image", smoothing=0.05) as progress:
        for row in rows:
            index = int(row["index"])
            progress.update(index not in found)
            found[index] = pickle.loads(row["result"])
    return [found[index] for index in range(count)]


class Worker:
    """Rows of indices -> rows of index and pickled result. One for each actor."""

    def __init__(self, work: Work[Any]) -> None:
        self._call = work.open()

    def __call__(self, rows: Rows) -> Rows:
        results = np.array([pickle.dumps(self._call(int(index))) for index in rows["item"]], object)
        return {"index": rows["item"], "result": results}

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
import ray
import ray.data
from numpy.typing import NDArray
from tqdm import tqdm

import benchmarks
import export
import fiffdepth_rt
import training
from benchmarks.evaluation.work import Work
from training.data.samples import DataError
from training.errors import TrainingError
from training.labelling.ray import cluster, quiet, root_cause

PACKAGES = (fiffdepth_rt, training, export, benchmarks)
AT_ONCE = 4
"""Images that an actor gets in one go: few, since what a dead one had is done again."""

T = TypeVar("T")
Rows = dict[str, NDArray[Any]]


def run_on_cluster(work: Work[T], count: int, *, label: str, address: str) -> list[T]:
    """As spread.run, on the cluster at `address` ("local": one that is started here for the run).

    One actor per GPU, or per core where there is none. Raises DataError: nothing answers there, or the work
    fails for another reason than a worker's death.
    """
    try:
        with cluster(address, packages=PACKAGES, bundled=True):
            return _run(work, count, label)
    except TrainingError as error:
        raise DataError(str(error)) from error


def _run(work: Work[T], count: int, label: str) -> list[T]:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    rows = ray.data.from_numpy(
        [np.arange(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]
    ).map_batches(
        Worker,
        fn_constructor_args=(work,),
        batch_size=AT_ONCE,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=gpus or cores),
        num_gpus=1 if gpus else 0,
        num_cpus=0 if gpus else 1,
    )
    found: dict[int, T] = {}
    with quiet(), tqdm(total=count, desc=label, unit="image", smoothing=0.05) as progress:
        try:
            for row in rows.iter_rows():
                index = int(row["index"])
                progress.update(index not in found)
                found[index] = pickle.loads(row["result"])
        except ray.exceptions.RayError as error:
            raise DataError(
                f"Scoring stopped: {root_cause(error)} Predictions are kept: run the same command again."
            ) from error
    return [found[index] for index in range(count)]


class Worker:
    """Rows of indices -> rows of index and pickled result. One for each actor."""

    def __init__(self, work: Work[Any]) -> None:
        self._call = work.open()

    def __call__(self, rows: Rows) -> Rows:
        results = np.array([pickle.dumps(self._call(int(index))) for index in rows["data"]], object)
        return {"index": rows["data"], "result": results}

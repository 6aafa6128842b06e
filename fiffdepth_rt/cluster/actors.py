"""Indices -> rows, by actors on the cluster that this process is connected to (connecting.py).

    indices ──► read (tasks, any core) ──► actor (one per GPU, or per two cores) ──► rows, in any order

What an actor needs is opened once in each. Actors ask for half a core each, and less where there are many, so
that a share of the cluster's cores is always left to the tasks that read.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from fiffdepth_rt.cluster.photo_rows import Row, Rows
from fiffdepth_rt.cluster.sharing import READING_CPUS, Share, share_of
from fiffdepth_rt.errors import ClusterError

_MOST_BLOCKS = 4096  # each is an object of its own that the driver holds


def share(actors: int | None = None, *, cores_each: int = 2) -> Share:
    """As `share_of`, of the cluster that this process is connected to."""
    has = ray.cluster_resources()
    return share_of(float(has.get("CPU", 1)), int(has.get("GPU", 0)), actors, cores_each=cores_each)


def through_actors(
    indices: Sequence[int],
    actor: type[Callable[[Rows], Rows]],
    arguments: tuple[Any, ...],
    *,
    at_once: int,
    share: Share,
    read: Callable[[int], Row] | None = None,
) -> Iterator[Row]:
    """Each index -> a row, in any order.

    actor: opened with `arguments`, which are pickled; called with the rows of at most `at_once` indices.
    read: index -> row, by tasks on any core. Pickled once, whatever it holds. None: the row is the index,
        under "item".

    What a dead worker had is done again elsewhere. Raises ClusterError if one fails for another reason.
    """
    if not len(indices):
        return
    blocks = min(_MOST_BLOCKS, -(-len(indices) // at_once))
    rows = ray.data.from_items(list(map(int, indices)), override_num_blocks=blocks)
    if read is not None:
        shared = ray.put(read)  # held here until the end: a restarted worker asks for it again
        rows = rows.map(_read, fn_kwargs={"read": shared}, num_cpus=READING_CPUS)
    with quiet():
        results = rows.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=at_once,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=share.actors),
            num_gpus=share.gpus,
            num_cpus=share.cpus,
        )
        try:
            yield from results.iter_rows()
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"A worker failed: {root_cause(error)} What is finished is kept: run the same command again."
            ) from error


def _read(row: Row, read: ray.ObjectRef) -> Row:
    reading: Callable[[int], Row] = ray.get(read)
    return reading(int(row["item"]))


def root_cause(error: BaseException) -> str:
    """The error that came first, in a sentence; Ray's own hold stack traces of several processes."""
    told = str(error).split("\n\nThe above exception was the direct cause")
    if type(getattr(error, "cause", None)).__name__ == "UserCodeException" and len(told) > 1:
        # What an actor raised is in this text alone, before what Ray Data says about it.
        last = told[-2].strip().splitlines()[-1]
        return f"{re.sub(r'^(?:[a-z_]+[.])+', '', last).rstrip('.')}."
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None and str(cause).strip():
        error = cause
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1].rstrip('.')}."


@contextlib.contextmanager
def silenced(name: str) -> Iterator[None]:
    """Without what this logger and those below it say."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Ray Data's own progress and reports."""
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        with silenced("ray.data"):
            yield
    finally:
        context.enable_progress_bars = bars

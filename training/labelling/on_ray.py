"""The same labels on many machines: Ray Data reads photos everywhere, actors hold the teacher.

    indices ──► read (tasks, any CPU) ──► label (one actor per GPU) ──► the store ──► tally

How work runs on a cluster is in fiffdepth_rt/cluster/. This package is shipped to the workers. What they must
have is its dependencies, and the photos, labels and the teacher (unless it is a hub id) under the same paths,
on a file system that all machines share.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import fiffdepth_rt
import training
from fiffdepth_rt.cluster.actors import share, through_actors
from fiffdepth_rt.cluster.connecting import connected
from fiffdepth_rt.cluster.photo_rows import Read, Row, Rows, from_rows, outcome, outcomes, to_row
from fiffdepth_rt.cluster.progress import Progress
from fiffdepth_rt.cluster.tally import Skipped, Tally
from training.data.labels import LabelStore
from training.data.samples import Photo, SampleError
from training.data.teacher_maps import Teacher
from training.labelling.steps import (
    PENDING_BATCHES,
    Photos,
    in_batches,
    label_batch,
    missing,
    write_skipped,
)

logger = logging.getLogger("training")

PACKAGES = (fiffdepth_rt, training)


@contextlib.contextmanager
def cluster(address: str) -> Iterator[None]:
    """fiffdepth_rt.cluster.connecting.connected, with all that labelling needs on the workers."""
    with connected(address, packages=PACKAGES):
        yield


def label_on_cluster(
    photos: Photos,
    make_teacher: Callable[[], Teacher],
    store: LabelStore,
    *,
    batch: int = 8,
    actors: int | None = None,
) -> Tally:
    """As training.labelling.steps.label_photos, on the cluster that this process is connected to.

    photos, make_teacher: pickled, and opened where they are needed.
    actors: so many teachers at once; None for one per GPU, or one per two cores where there is no GPU.
    Raises ClusterError if a worker fails for another reason than its death.
    """
    todo = missing(photos, store)
    skipped: list[Skipped] = []
    with Progress("labels", unit="image", total=len(todo), line=logger.info) as progress:
        for row in through_actors(
            todo,
            Labeller,
            (make_teacher, str(store.folder), batch),
            at_once=PENDING_BATCHES * batch,
            share=share(actors),
            read=functools.partial(row_of, photos),
        ):
            if (one := outcome(row)) is not None:
                logger.warning("Skipped %s", SampleError(one.name, one.reason))
                skipped.append(one)
            progress.update()
    write_skipped(store, skipped)
    return Tally(made=len(todo) - len(skipped), there=len(photos) - len(todo), skipped=skipped)


def row_of(photos: Photos, index: int) -> Row:
    """index -> a row that holds the photo, or why there is none."""
    try:
        one = photos[index]
    except SampleError as error:
        return to_row(Skipped(name=error.name, reason=error.reason))
    return to_row(Read(name=one.name, pixels=one.photo))


class Labeller:
    """Rows of photos -> labels in the store; rows of name and reason (empty where there is a label now)."""

    def __init__(self, make_teacher: Callable[[], Teacher], folder: str, batch: int) -> None:
        self._teacher = make_teacher()
        self._store = LabelStore(folder)
        self._batch = batch

    def __call__(self, rows: Rows) -> Rows:
        skipped: list[Skipped] = []
        for group in in_batches(self._photos(rows), self._teacher, self._batch, skipped):
            skipped += label_batch(group, self._teacher, self._store)
        return outcomes(rows, skipped)

    def _photos(self, rows: Rows) -> Iterator[Photo | SampleError]:
        for one in from_rows(rows):
            if isinstance(one, Skipped):
                yield SampleError(one.name, one.reason)
            elif (
                one.name not in self._store
            ):  # else another worker labelled it, and died before it could tell
                yield Photo(photo=one.pixels, name=one.name)

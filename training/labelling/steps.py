"""The steps of labelling that one machine and a Ray cluster share. photos -> labels in a store.

What is there is not made again. What cannot be used is logged, skipped and listed in the store (SKIPPED).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Protocol

from torch.utils.data import DataLoader, Dataset

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.cluster.progress import Progress
from fiffdepth_rt.cluster.tally import SKIPPED, Skipped, Tally, report
from fiffdepth_rt.space import Space
from training.data.labels import Dtype, Header, LabelStore
from training.data.samples import Photo, Real, SampleError
from training.data.teacher_maps import Teacher, check_conversion, conversion, to_picture

logger = logging.getLogger("training")

PENDING_BATCHES = 4
"""Photos held while buckets fill, in batches: enough for the aspects of most collections, few to hold."""


class Photos(Real, Protocol):
    """A real dataset that knows its photos' names unread, so that a resumed run passes over finished ones."""

    @property
    def names(self) -> Sequence[str]: ...


def label_photos(
    photos: Photos, teacher: Teacher, store: LabelStore, *, batch: int = 8, workers: int = 0
) -> Tally:
    """Label every photo that has none in `store`. Resumable: call it again after whatever happened.

    batch: photos that run together, where their sizes agree. workers: processes that read photos; 0: none.
    A photo that cannot be used is logged, skipped and listed in the store's skipped.json.
    Raises DataError for labels in a space that the teacher's output has no way to, OutputError where the disk
    refuses.
    """
    check_conversion(teacher.output, store.header.space)
    todo = missing(photos, store)
    skipped: list[Skipped] = []
    with Progress("labels", unit="image", total=len(todo), line=logger.info) as progress:
        read = _read(photos, todo, workers)
        for group in in_batches(read, teacher, batch, skipped):
            skipped += label_batch(group, teacher, store)
            progress.update(len(group))
    write_skipped(store, skipped)
    return Tally(made=len(todo) - len(skipped), there=len(photos) - len(todo), skipped=skipped)


def missing(photos: Photos, store: LabelStore) -> list[int]:
    """Indices of the photos without a label."""
    return [i for i, name in enumerate(photos.names) if name not in store]


def label_batch(group: Sequence[Photo], teacher: Teacher, store: LabelStore) -> list[Skipped]:
    """photos -> labels in the store. Returns the photos of which the teacher's map is of no use."""
    skipped = []
    for photo, values in zip(group, teacher([one.photo for one in group]), strict=True):
        try:
            picture, valid = to_picture(
                values, output=teacher.output, space=store.header.space, name=photo.name
            )
            store.write(photo.name, picture, valid)
        except SampleError as error:
            skipped.append(_skip(photo.name, error.reason))
    return skipped


def in_batches(
    photos: Iterable[Photo | SampleError], teacher: Teacher, batch: int, skipped: list[Skipped]
) -> Iterator[list[Photo]]:
    """photos in any order -> lists of at most `batch` photos of one bucket of the teacher's.

    While buckets fill, at most PENDING_BATCHES × batch photos wait; then the fullest bucket goes as it is.
    What cannot be used is appended to `skipped`.
    """
    waiting: dict[Hashable, list[Photo]] = {}
    for photo in photos:
        if isinstance(photo, SampleError):
            skipped.append(_skip(photo.name, photo.reason))
            continue
        try:
            bucket = teacher.bucket((photo.photo.shape[0], photo.photo.shape[1]))
        except ValueError as error:
            skipped.append(_skip(photo.name, str(error)))
            continue
        group = waiting.setdefault(bucket, [])
        group.append(photo)
        if len(group) == batch:
            yield waiting.pop(bucket)
        elif sum(map(len, waiting.values())) >= PENDING_BATCHES * batch:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def write_skipped(store: LabelStore, skipped: Sequence[Skipped]) -> None:
    """The list of the latest run, sorted; no file where nothing was skipped."""
    path = store.folder / SKIPPED
    if not skipped:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as file:
        file.write(report(skipped))


def header_for(teacher: Teacher, *, space: Space, dtype: Dtype) -> Header:
    """What a store of this teacher's labels says of itself. Raises DataError as `check_conversion`."""
    check_conversion(teacher.output, space)
    return Header(
        space=space,
        dtype=dtype,
        teacher=teacher.name,
        licence=teacher.licence,
        made=conversion(teacher.output, space),
    )


class _Reading(Dataset[Photo | SampleError]):
    """The chosen photos of a dataset; errors are values, so that they come out of worker processes."""

    def __init__(self, photos: Photos, chosen: Sequence[int]) -> None:
        self._photos, self._chosen = photos, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Photo | SampleError:
        try:
            return self._photos[self._chosen[index]]
        except SampleError as error:
            return error


def _read(photos: Photos, chosen: Sequence[int], workers: int) -> Iterable[Photo | SampleError]:
    return DataLoader(_Reading(photos, chosen), batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(photo: Photo | SampleError) -> Photo | SampleError:
    return photo


def _skip(name: str, reason: str) -> Skipped:
    logger.warning("Skipped %s", SampleError(name, reason))
    return Skipped(name=name, reason=reason)

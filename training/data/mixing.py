"""START HERE for the data. Datasets -> batches: half synthetic, half real, and the same after a resume.

    mixture = Mixture(seed=1, half_batch=16, workers=4,
                synthetic=(SyntheticSource(dataset=hypersim, weight=0.9, sizes_hw=((480, 640),)),
                           SyntheticSource(dataset=vkitti, weight=0.1)),
                real=(RealSource(dataset=photos, labels=LabelStore(folder)),))
    for synthetic, real in loader(mixture, rank=rank, world=world): ...

What is in batch k follows from (seed, k) and the datasets alone, in three steps:

    step k      -> dataset and size of each half (every half is of one dataset and one size)
    draw n      -> sample: a dataset is gone through in a new order per epoch, without gaps
    sample      -> flip and cut-out

So a resumed run (start=k) sees what it would have seen, whatever the number of workers, and the ranks of a
distributed run hold consecutive slices of the batch that one process would have.
A sample that cannot be used is replaced by another one, found in an order that depends on the first alone.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from training.data.labels import LabelError
from training.data.normalise import renormalise
from training.data.samples import DataError, Labels, Pair, PhotoFilter, Real, SampleError, Synthetic

log = logging.getLogger("training")

SIDES = (512, 576, 640)
REAL_SIZES_HW = tuple((height, width) for height in SIDES for width in SIDES)
"""Multiples of 64 from 512 to 640: the cut-outs of real photos."""
MAX_REPLACEMENTS = 64
"""So many unusable samples in a row, all different, condemn the dataset."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """dataset, and how its samples become a batch.

    weight: how often a batch is of this dataset, relative to the other weights.
    sizes_hw: sizes of a batch, one of them chosen per step; None: as stored, which must be one size.
    max_zoom: 1 = the largest cut-out of that shape (all of the picture where the shapes agree); z > 1 = one
        smaller by up to z, chosen per sample. A cut-out of a part is normalised anew.
    views: None = a new cut-out and flip every time; n = n per sample and size, drawn once, so that what is
        cached by key is met again.
    photo_filter: how photos shrink. Depth is always "nearest"; Marigold, and hence the paper, takes that for
        Hypersim's photos as well (NEAREST_EXACT), so that both rasters show the same points.
    """

    dataset: Synthetic
    weight: float = 1.0
    sizes_hw: tuple[tuple[int, int], ...] | None = None
    max_zoom: float = 1.0
    views: int | None = None
    photo_filter: PhotoFilter = "nearest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealSource:
    """As SyntheticSource, for photos and what a teacher said about them. Labels are resized smoothly."""

    dataset: Real
    labels: Labels
    weight: float = 1.0
    sizes_hw: tuple[tuple[int, int], ...] = REAL_SIZES_HW
    max_zoom: float = 1.5
    views: int | None = None
    photo_filter: PhotoFilter = "area"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a run sees.

    half_batch: pairs per step, and as many photos, over all ranks together.
    real: empty = no real half.
    start, stop: first step, and the one after the last; stop=None: for ever.
    workers: processes that read; 0 = this one. prefetch: batches that each reads ahead (the memory it takes).
    pin_memory: batches in page-locked memory, for copies to a GPU.
    """

    seed: int
    half_batch: int
    synthetic: tuple[SyntheticSource, ...]
    real: tuple[RealSource, ...] = ()
    flip: float = 0.5
    start: int = 0
    stop: int | None = None
    workers: int = 0
    prefetch: int = 2
    pin_memory: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """photos float32 B×3×H×W in [-1, 1]; pictures float32 B×1×H×W in [-1, 1]; valid bool B×1×H×W.

    names: dataset/sample, of every row. keys: the same with cut-out, size and flip, stable over runs: rows of
    equal keys have equal pixels (as long as the source's filter and labels stay).
    """

    photos: torch.Tensor
    pictures: torch.Tensor
    valid: torch.Tensor
    names: tuple[str, ...]
    keys: tuple[str, ...]


def loader(mixture: Mixture, *, rank: int = 0, world: int = 1) -> Loader:
    """Mixture -> the batches of this rank: half_batch / world rows in each half.

    Raises DataError for a mixture that cannot be followed.
    """
    return Loader(mixture, rank=rank, world=world)


class Loader:
    """for synthetic, real in loader: ...   real is None where the mixture has no real half.

    skipped: how often each unusable sample was met, by dataset/sample. Each is logged when met first.
    Every iteration begins at the mixture's start. Raises DataError while iterating if a dataset holds nothing
    usable.
    """

    def __init__(self, mixture: Mixture, *, rank: int, world: int) -> None:
        _check(mixture, rank, world)
        self.mixture = mixture
        self.rank = rank
        self.world = world
        self.skipped: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> Iterator[tuple[Batch, Batch | None]]:
        mixture = self.mixture
        read = torch.utils.data.DataLoader(
            _Reader(mixture),
            sampler=_steps(mixture, rank=self.rank, world=self.world),
            batch_size=None,  # an item is a whole step
            collate_fn=_as_it_is,
            num_workers=mixture.workers,
            prefetch_factor=mixture.prefetch if mixture.workers else None,
            pin_memory=mixture.pin_memory,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # its own: the run's random numbers are not to be touched
        )
        for done in read:
            self._note(done.skipped)
            if done.failure is not None:
                raise DataError(done.failure)
            yield done.synthetic, done.real

    def _note(self, skipped: tuple[SampleError, ...]) -> None:
        for error in skipped:
            self.skipped[error.name] += 1
            if self.skipped[error.name] == 1:
                log.warning("Skipped %s", error)


def _check(mixture: Mixture, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise DataError(f"Rank {rank} of {world}: ranks go from 0 to {world - 1}.")
    if mixture.half_batch < 1 or mixture.half_batch % world:
        raise DataError(
            f"half_batch={mixture.half_batch} cannot be shared among {world} processes: make it a multiple."
        )
    if not 0 <= mixture.flip <= 1:
        raise DataError(f"flip={mixture.flip}: it is a probability, 0 to 1.")
    if mixture.start < 0 or (mixture.stop is not None and mixture.stop < mixture.start):
        raise DataError(
            f"start={mixture.start}, stop={mixture.stop}: steps count from 0, and stop comes after start."
        )
    if mixture.workers < 0 or mixture.prefetch < 1:
        raise DataError(f"workers={mixture.workers}, prefetch={mixture.prefetch}: at least 0 and 1.")
    if not mixture.synthetic:
        raise DataError("The mixture has no synthetic dataset: name one.")
    spaces = {source.dataset.name: source.dataset.space for source in mixture.synthetic}
    spaces |= {f"labels of {source.dataset.name}": source.labels.header.space for source in mixture.real}
    if len(set(spaces.values())) > 1:
        raise DataError(
            f"One run is of one space, but there is {', '.join(f'{n}: {s}' for n, s in spaces.items())}: "
            "open the datasets in the labels' space, or label anew."
        )
    for sources in (mixture.synthetic, mixture.real):
        names = [source.dataset.name for source in sources]
        for source in sources:
            name = source.dataset.name
            if names.count(name) > 1:
                raise DataError(f"Two datasets are called {name}: give one of them another name.")
            if len(source.dataset) == 0:
                raise DataError(f"The dataset {name} is empty: name another folder.")
            if not (source.weight > 0 and math.isfinite(source.weight)):
                raise DataError(f"The dataset {name} has weight {source.weight}: it must be above 0.")
            if source.sizes_hw is not None and not all(min(hw) > 0 for hw in source.sizes_hw or ((0, 0),)):
                raise DataError(
                    f"The dataset {name} has sizes {source.sizes_hw}: name at least one height × width."
                )
            if source.max_zoom < 1 or (source.views is not None and source.views < 1):
                raise DataError(
                    f"The dataset {name} has max_zoom {source.max_zoom}, views {source.views}: at least 1."
                )


# ---- step -> which samples ----

SYNTHETIC, REAL = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """One sample to read. number: its row in the batch of all ranks."""

    index: int
    number: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Half:
    source: int
    size_hw: tuple[int, int] | None
    rows: tuple[_Row, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    step: int
    synthetic: _Half
    real: _Half | None


def _steps(mixture: Mixture, *, rank: int, world: int) -> Iterator[_Step]:
    """The steps of this rank from mixture.start on."""
    decks = [
        _Deck(mixture, half, mixture.synthetic if half == SYNTHETIC else mixture.real)
        for half in (SYNTHETIC, REAL)
    ]
    share = mixture.half_batch // world
    mine = range(rank * share, (rank + 1) * share)
    step = mixture.start
    while mixture.stop is None or step < mixture.stop:
        yield _Step(
            step=step,
            synthetic=decks[SYNTHETIC].deal(step, mine),
            real=decks[REAL].deal(step, mine) if mixture.real else None,
        )
        step += 1


class _Deck:
    """Deals the samples of one half, step by step: all of a dataset once per epoch, in a new order each."""

    def __init__(
        self, mixture: Mixture, half: int, sources: tuple[SyntheticSource, ...] | tuple[RealSource, ...]
    ) -> None:
        self._mixture = mixture
        self._half = half
        self._sources = sources
        weights = np.array([source.weight for source in sources])
        self._chances = np.cumsum(weights / weights.sum()) if sources else weights
        self._dealt = [0] * len(sources)
        self._orders = [(-1, np.zeros(0, np.uint32)) for _ in sources]  # epoch, and its order
        for step in range(mixture.start if sources else 0):
            self._dealt[self._choose(step)[0]] += mixture.half_batch

    def deal(self, step: int, numbers: range) -> _Half:
        chosen, size_hw = self._choose(step)
        first = self._dealt[chosen]
        self._dealt[chosen] += self._mixture.half_batch
        rows = tuple(_Row(index=self._at(chosen, first + number), number=number) for number in numbers)
        return _Half(source=chosen, size_hw=size_hw, rows=rows)

    def _choose(self, step: int) -> tuple[int, tuple[int, int] | None]:
        by_weight, by_size = np.random.default_rng([self._mixture.seed, self._half, step]).random(2)
        chosen = min(int(np.searchsorted(self._chances, by_weight, side="right")), len(self._sources) - 1)
        sizes = self._sources[chosen].sizes_hw
        return chosen, None if sizes is None else sizes[int(by_size * len(sizes))]

    def _at(self, source: int, draw: int) -> int:
        count = len(self._sources[source].dataset)
        epoch, place = divmod(draw, count)
        if self._orders[source][0] != epoch:
            rng = np.random.default_rng([self._mixture.seed, self._half, source, epoch, 1])
            self._orders[source] = epoch, rng.permutation(count).astype(np.uint32)
        return int(self._orders[source][1][place])


# ---- samples -> batch, in a worker ----


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Read:
    """What comes out of a worker. failure: why there is no batch, and never will be."""

    synthetic: Batch | None = None
    real: Batch | None = None
    skipped: tuple[SampleError, ...] = ()
    failure: str | None = None

    def pin_memory(self) -> _Read:
        """For DataLoader, which asks for this method."""
        return dataclasses.replace(self, synthetic=_pinned(self.synthetic), real=_pinned(self.real))


def _pinned(batch: Batch | None) -> Batch | None:
    if batch is None:
        return None
    tensors = {name: getattr(batch, name).pin_memory() for name in ("photos", "pictures", "valid")}
    return dataclasses.replace(batch, **tensors)


class _Reader(torch.utils.data.Dataset):
    """_Step -> _Read."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __getitem__(self, todo: _Step) -> _Read:
        skipped: list[SampleError] = []
        real = None
        try:
            synthetic = self._half(todo.step, SYNTHETIC, todo.synthetic, skipped)
            if todo.real is not None:
                real = self._half(todo.step, REAL, todo.real, skipped)
        except DataError as error:
            return _Read(skipped=tuple(skipped), failure=str(error))
        return _Read(synthetic=synthetic, real=real, skipped=tuple(skipped))

    def _half(self, step: int, half: int, todo: _Half, skipped: list[SampleError]) -> Batch:
        source = (self._mixture.synthetic if half == SYNTHETIC else self._mixture.real)[todo.source]
        shown = [self._row(step, half, todo, row, source, skipped) for row in todo.rows]
        sizes = {row.pair.valid.shape for row in shown}
        if len(sizes) > 1:
            raise DataError(
                f"The dataset {source.dataset.name} holds pictures of different sizes "
                f"({', '.join(f'{h}×{w}' for h, w in sorted(sizes))}), and no size was named: set sizes_hw."
            )
        photos = torch.from_numpy(np.stack([row.pair.photo for row in shown]))
        return Batch(
            photos=photos.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1,
            pictures=torch.from_numpy(np.stack([row.pair.picture for row in shown])[:, None]),
            valid=torch.from_numpy(np.stack([row.pair.valid for row in shown])[:, None]),
            names=tuple(row.pair.name for row in shown),
            keys=tuple(row.key for row in shown),
        )

    def _row(
        self,
        step: int,
        half: int,
        todo: _Half,
        row: _Row,
        source: SyntheticSource | RealSource,
        skipped: list[SampleError],
    ) -> _Shown:
        """The sample of this row, or the first usable one of those that stand in for it."""
        count = len(source.dataset)
        tries = min(count, MAX_REPLACEMENTS)
        for attempt in range(tries):
            index = (row.index + attempt * _stride(count)) % count
            try:
                view = self._view(step, half, todo, row.number, source, index, attempt)
                return _show(_named_pair(source, index), todo.size_hw, source, *view)
            except SampleError as error:
                skipped.append(SampleError(f"{source.dataset.name}/{error.name}", error.reason))
        raise DataError(
            f"The dataset {source.dataset.name} gives nothing usable: {tries} of its {count} samples were "
            f"tried in a row; the last was {skipped[-1]}. Check it with `python -m training.data check`."
        )

    def _view(
        self,
        step: int,
        half: int,
        todo: _Half,
        number: int,
        source: SyntheticSource | RealSource,
        index: int,
        attempt: int,
    ) -> tuple[np.random.Generator, bool]:
        """Random numbers for the cut-out, and whether it is flipped."""
        seed = self._mixture.seed
        fresh = np.random.default_rng([seed, half, step, number, attempt])
        if source.views is None:
            return fresh, bool(fresh.random() < self._mixture.flip)
        view = int(fresh.integers(source.views))
        rng = np.random.default_rng([seed, half, todo.source, index, view, *(todo.size_hw or (0, 0))])
        return rng, (view + 0.5) / source.views < self._mixture.flip


def _stride(count: int) -> int:
    """A step through `count` indices that meets all of them, neighbours far apart."""
    stride = max(1, round(count * 0.618))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def _named_pair(source: SyntheticSource | RealSource, index: int) -> Pair:
    """The sample with what is to be learnt about it, in the photo's size."""
    if isinstance(source, SyntheticSource):
        return source.dataset[index]
    sample = source.dataset[index]
    try:
        picture, valid = source.labels.picture(sample.name)
    except LabelError as error:
        raise SampleError(sample.name, str(error)) from error
    hw = sample.photo.shape[:2]
    if abs(math.log(picture.shape[0] / picture.shape[1] / (hw[0] / hw[1]))) > 0.05:
        raise SampleError(
            sample.name,
            f"label of {picture.shape[0]}×{picture.shape[1]}, photo of {hw[0]}×{hw[1]}: not of one shape",
        )
    picture, valid = _smoothly(picture, valid, hw)
    return Pair(photo=sample.photo, picture=picture, valid=valid, name=sample.name)


# ---- sample -> what the batch shows of it ----


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shown:
    pair: Pair
    key: str


def _show(
    pair: Pair,
    size_hw: tuple[int, int] | None,
    source: SyntheticSource | RealSource,
    rng: np.random.Generator,
    flipped: bool,
) -> _Shown:
    """Pair of any size -> cut-out of size_hw (None: all of it), flipped or not.

    Raises SampleError if there is nothing to learn from the cut-out.
    """
    height, width = hw = pair.valid.shape
    size_hw = size_hw or hw
    tall, wide = _cut_out_hw(hw, size_hw, max_zoom=source.max_zoom, chance=rng.random())
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    rows, columns = slice(top, top + tall), slice(left, left + wide)
    photo, picture, valid = pair.photo[rows, columns], pair.picture[rows, columns], pair.valid[rows, columns]
    if (tall, wide) != hw:
        picture = renormalise(picture, valid, name=pair.name)
    photo = _photo_at(photo, size_hw, source.photo_filter)
    if isinstance(source, RealSource):
        picture, valid = _smoothly(picture, valid, size_hw)
    else:
        picture, valid = _nearest(picture, size_hw), _nearest(valid.view(np.uint8), size_hw).view(np.bool_)
    if flipped:
        photo, picture, valid = photo[:, ::-1], picture[:, ::-1], valid[:, ::-1]
    if not valid.any():
        raise SampleError(pair.name, "no valid pixel is left in the cut-out")
    name = f"{source.dataset.name}/{pair.name}"
    where = f"{tall}x{wide}+{top}+{left}>{size_hw[0]}x{size_hw[1]}"
    shown = Pair(photo=photo, picture=picture, valid=valid, name=name)
    return _Shown(pair=shown, key=f"{name}@{where}{'~' if flipped else ''}")


def _cut_out_hw(
    photo_hw: tuple[int, int], size_hw: tuple[int, int], *, max_zoom: float, chance: float
) -> tuple[int, int]:
    """Sides of a cut-out with the shape of size_hw: the largest that fits, zoomed by 1 to max_zoom.

    A zoom never makes it smaller than size_hw: pixels are not to be invented for the sake of variety.
    """
    fits = min(photo_hw[0] / size_hw[0], photo_hw[1] / size_hw[1])
    zoom = 1 + chance * (min(max_zoom, max(1.0, fits)) - 1)
    tall, wide = (max(1, round(side * fits / zoom)) for side in size_hw)
    return min(tall, photo_hw[0]), min(wide, photo_hw[1])


def _photo_at(photo: NDArray[np.uint8], hw: tuple[int, int], photo_filter: PhotoFilter) -> NDArray[np.uint8]:
    if photo.shape[:2] == hw:
        return photo
    if photo_filter == "nearest":
        return _nearest(photo, hw)
    shrinking = photo.shape[0] >= hw[0] and photo.shape[1] >= hw[1]
    resized = cv2.resize(photo, hw[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=False)


def _nearest(pixels: NDArray, hw: tuple[int, int]) -> NDArray:
    if pixels.shape[:2] == hw:
        return pixels
    return cv2.resize(np.ascontiguousarray(pixels), hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _smoothly(
    picture: NDArray[np.float32], valid: NDArray[np.bool_], hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A teacher's picture at another size; a pixel is valid if all that it is made of is."""
    if picture.shape == hw:
        return picture, valid
    shrinking = picture.shape[0] >= hw[0] and picture.shape[1] >= hw[1]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(picture), hw[::-1], interpolation=how)
    certain = cv2.resize(np.ascontiguousarray(valid, np.float32), hw[::-1], interpolation=how)
    return np.clip(resized, -1, 1), certain > 0.999


def _as_it_is(read: _Read) -> _Read:
    return read


def _one_thread(worker: int) -> None:
    """Workers share the cores already."""
    cv2.setNumThreads(0)

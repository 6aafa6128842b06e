"""One image of a set with depth or with mattes, by one method: photo -> prediction -> depth -> edges."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation import kept
from benchmarks.evaluation.boundary_metrics import (
    SEE_KERNELS,
    boundary_f1,
    boundary_recall,
    soft_edge_error,
    within_quantiles,
)
from benchmarks.evaluation.methods import Choice, Map, Photo
from benchmarks.evaluation.protocol import LEAST_DEPTH_M, resized
from benchmarks.evaluation.task import Skipped, finite_map, photo_of
from benchmarks.sets import edge_sets, mattes
from benchmarks.sets.choice import SetChoice, WordOfDatasets
from benchmarks.sets.depth_sets import Frames
from benchmarks.sets.edge_sets import EdgeFrames
from benchmarks.sets.mattes import Matte, MatteFrames
from training.alignment import AlignmentSpace, align
from training.data.samples import DataError, MetricPair, SampleError

Floats = NDArray[np.floating]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundaryChoice(WordOfDatasets):
    """A set with depth or with mattes: a row's name, "folder:DIR", "scenes:N" or "mattes:DIR"."""

    @property
    def title(self) -> str:
        kind, _, rest = self.word.partition(":")
        for row in (*edge_sets.SETS, *mattes.SETS):
            if row.name == self.word:
                return row.title
        return Path(rest).name if kind in ("folder", "mattes") else self.word

    @property
    def key(self) -> str:
        kind, colon, rest = self.word.partition(":")
        return kind + colon + (Path(rest).name if kind in ("folder", "mattes") else rest)

    def open(self) -> Frames | MatteFrames:
        """Raises DataError: an unknown word, no data, another layout, another number of images."""
        kind, _, rest = self.word.partition(":")
        if kind in ("folder", "scenes") and rest:
            return SetChoice(word=self.word, scale=self.scale).open()
        if kind == "mattes" and rest:
            return mattes.beside(Path(rest).expanduser())
        rows = {row.name: row for row in (*edge_sets.SETS, *mattes.SETS)}
        if self.word not in rows:
            raise DataError(
                f'There is no dataset "{self.word}": say {", ".join(rows)}, folder:DIR, scenes:N or '
                "mattes:DIR."
            )
        row = rows[self.word]
        if self.data is None:
            raise DataError(f"{row.title} needs --data ROOT, the folder that holds {row.folder}/.")
        if isinstance(row, mattes.MatteSet):
            return mattes.open_mattes(row, self.data, splits=self.splits, subset=self.subset)
        return EdgeFrames(row, self.data, subset=self.subset)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edges:
    """Of one image. f1, and see by k in metres (None: no edge), of a set with depth; recall by far/near of
    one with mattes. Shares are 0 … 1."""

    name: str
    f1: float | None = None
    see: tuple[float | None, ...] = ()
    recall: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundaryWork:
    """A value that can be sent to a process. ratios: far/near for mattes. aligned: whether depth is
    fitted."""

    choice: Choice
    frames: BoundaryChoice
    ratios: tuple[float, ...]
    aligned: bool
    keep: Path | None

    def open(self) -> BoundaryScorer:
        return BoundaryScorer(self)


class BoundaryScorer:
    """index -> Edges or Skipped."""

    def __init__(self, work: BoundaryWork) -> None:
        self._work, self._frames, self.method = work, work.frames.open(), work.choice.open()

    def __call__(self, index: int) -> Edges | Skipped:
        name = self._frames.name(index)
        try:
            frame = self._frames.frame(index)
            prediction = finite_map(kept.predict(self.method, self._photo(frame), self._work.keep), name)
            resized_map = resized(prediction, (frame.photo.shape[0], frame.photo.shape[1]))
            if isinstance(frame, Matte):
                return self._on_matte(frame, resized_map)
            return self._on_depth(frame, resized_map)
        except (SampleError, ValueError) as error:
            return Skipped(name=name, reason=error.reason if isinstance(error, SampleError) else str(error))

    def _photo(self, frame: MetricPair | Matte) -> Photo:
        if isinstance(self._frames, MatteFrames):
            hw = (frame.photo.shape[0], frame.photo.shape[1])
            stem = Path(frame.name).stem
            return Photo(
                set=self._frames.set_name, name=frame.name, pixels=frame.photo, full_hw=hw, prediction=stem
            )
        assert isinstance(frame, MetricPair)
        return photo_of(frame, self._frames.rules)

    def _on_depth(self, frame: MetricPair, prediction: Map) -> Edges:
        assert not isinstance(self._frames, MatteFrames)
        near, far = self._frames.rules.clip_m
        truth, known = frame.depth_m, frame.valid
        fitted = known & (truth > near) & (truth < far)
        space = self.method.space
        if self._work.aligned:
            depth = np.maximum(align(prediction, truth, fitted, space=space), near)
        else:
            depth = np.maximum(space.to_depth(prediction), LEAST_DEPTH_M)
        middle = within_quantiles(truth, known)
        see = tuple(soft_edge_error(depth, truth, middle, k=k) for k in SEE_KERNELS)
        return Edges(name=frame.name, f1=boundary_f1(depth, truth, known), see=see)

    def _on_matte(self, frame: Matte, prediction: Map) -> Edges:
        recall = []
        for ratio in self._work.ratios:
            if self._work.aligned:
                depth: Floats = stretched(prediction, self.method.space, far_over_near=ratio)
            else:
                depth = np.maximum(self.method.space.to_depth(prediction), LEAST_DEPTH_M)
            recall.append(boundary_recall(depth, frame.foreground))
        return Edges(name=frame.name, recall=tuple(recall))


def stretched(prediction: Map, space: AlignmentSpace, *, far_over_near: float) -> NDArray[np.float64]:
    """Map in [0, 1] -> depth from 1 (the nearest value, not the nearest pixel) to far_over_near.

    Linear in the map's own space: 0 and 1 are the ends of that space for depths 1 and far_over_near. A map
    that leaves [0, 1] is first brought there by its own least and largest value.
    """
    lo, hi = float(prediction.min()), float(prediction.max())
    if lo < 0 or hi > 1:
        prediction = (prediction - lo) / max(hi - lo, 1e-12)
    ends = np.sort(space.of_depth(np.array([1.0, far_over_near])))
    return space.to_depth(ends[0] + prediction.astype(np.float64) * (ends[1] - ends[0]))

"""One frame of a clip, by one method: photo -> prediction of the depth's size. Scores are of whole clips."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

from benchmarks.evaluation import kept
from benchmarks.evaluation.methods import Choice, Map, Photo
from benchmarks.evaluation.protocol import resized
from benchmarks.evaluation.task import Skipped, finite_map
from benchmarks.sets.clips import ClipChoice
from training.data.samples import SampleError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameWork:
    """A value that can be sent to a process. keep: where predictions are kept; None: nowhere."""

    choice: Choice
    clip: ClipChoice
    keep: Path | None

    def open(self) -> FramePredictor:
        return FramePredictor(self)


class FramePredictor:
    """index of a frame -> float32 H×W of the depth's size, or Skipped."""

    def __init__(self, work: FrameWork) -> None:
        self._work, self._clip, self._method = work, work.clip.open(), work.choice.open()

    def __call__(self, index: int) -> Map | Skipped:
        name, pixels = self._clip.names[index], self._clip.photos[index]
        photo = Photo(
            set=self._work.clip.set_name,
            name=name,
            pixels=pixels,
            full_hw=(pixels.shape[0], pixels.shape[1]),
            prediction=PurePosixPath(name).stem.removesuffix(".color"),
        )
        try:
            prediction = finite_map(kept.predict(self._method, photo, self._work.keep), name)
        except SampleError as error:
            return Skipped(name=name, reason=error.reason)
        return resized(prediction, (self._clip.depth_m.shape[1], self._clip.depth_m.shape[2]))

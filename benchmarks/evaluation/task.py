"""START HERE. One image of one set, by one method, in one protocol: photo -> prediction -> aligned ->
errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.evaluation import kept
from benchmarks.evaluation.methods import Choice, Map, Photo
from benchmarks.evaluation.protocol import Compared, Protocol, compare
from benchmarks.sets.choice import SetChoice
from benchmarks.sets.depth_sets import Rules
from training.alignment import AlignmentSpace
from training.data.samples import MetricPair, SampleError
from training.metrics import Errors, Sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Errors of one image, their sums over its pixels, and the line that aligned it."""

    name: str
    group: str
    errors: Errors
    sums: Sums
    scale: float
    shift: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that could not be scored, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return str(SampleError(self.name, self.reason))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracyWork:
    """A value that can be sent to a process: who is scored, on what, by which rules.

    align_in: where the line is fitted, instead of where the protocol says. keep: where predictions are kept.
    """

    choice: Choice
    frames: SetChoice
    protocol: Protocol
    align_in: AlignmentSpace | None = None
    keep: Path | None = None

    def open(self) -> Scorer:
        return Scorer(self)


class Scorer:
    """index -> Scored or Skipped. Raises DataError or a FiffDepthError where set or method cannot be used."""

    def __init__(self, work: AccuracyWork) -> None:
        self._work, self.frames, self.method = work, work.frames.open(), work.choice.open()

    def __call__(self, index: int) -> Scored | Skipped:
        try:
            frame, _, compared = self.detail(index)
        except SampleError as error:
            return Skipped(name=self.frames.name(index), reason=error.reason)
        valid = compared.valid
        sums = Sums.of(compared.aligned_m[valid], compared.truth_m[valid])
        return Scored(
            name=frame.name,
            group=frame.group,
            errors=sums.errors(),
            sums=sums,
            scale=compared.line.scale,
            shift=compared.line.shift,
        )

    def detail(self, index: int) -> tuple[MetricPair, Map, Compared]:
        """Frame, prediction as it was made, and what is compared. Raises SampleError."""
        frame = self.frames.frame(index)
        photo = photo_of(frame, self.frames.rules)
        prediction = finite_map(kept.predict(self.method, photo, self._work.keep), frame.name)
        try:
            compared = compare(
                prediction,
                frame,
                self.frames.rules,
                self._work.protocol,
                space=self.method.space,
                align_in=self._work.align_in,
            )
        except ValueError as error:
            raise SampleError(frame.name, str(error)) from error
        return frame, prediction, compared

    def close(self) -> None:
        self.method.close()


def photo_of(frame: MetricPair, rules: Rules) -> Photo:
    return Photo(
        set=rules.name,
        name=frame.name,
        pixels=at_processing_size(frame.photo, rules.processing_px),
        full_hw=(frame.photo.shape[0], frame.photo.shape[1]),
        prediction=rules.prediction_name(frame.name),
        at_protocol_size=rules.processing_px is not None,
    )


def at_processing_size(photo: NDArray[np.uint8], longer_px: int | None) -> NDArray[np.uint8]:
    """H×W×3 -> the longer side longer_px, whichever it had; None and 0: as it is.

    Bilinear with the support of a shrunk pixel, sides cut off to whole px, as Marigold's resize_max_res
    (torchvision, antialias) and Pillow do it.
    """
    if not longer_px:
        return photo
    factor = longer_px / max(photo.shape[:2])
    h, w = (max(1, int(side * factor)) for side in photo.shape[:2])
    return np.asarray(Image.fromarray(photo).resize((w, h), Image.Resampling.BILINEAR))


def finite_map(prediction: Map, name: str) -> Map:
    """The prediction as it is. Raises SampleError for values that are not finite."""
    broken = prediction.size - int(np.count_nonzero(np.isfinite(prediction)))
    if broken:
        raise SampleError(name, f"the prediction has {broken} values that are NaN or infinite")
    return prediction

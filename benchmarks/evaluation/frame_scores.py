"""One prediction on one frame in three numbers, for benchmarks whose subject is something else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.boundary_metrics import boundary_f1
from benchmarks.evaluation.protocol import MARIGOLD, compare
from benchmarks.sets.depth_sets import FOLDER
from fiffdepth_rt import DepthMap, Space
from training.alignment import AlignmentSpace
from training.data.samples import MetricPair
from training.metrics import NEAREST_M, Sums


class FrameScores(NamedTuple):
    """AbsRel, δ1 and boundary F1 of the aligned depth, each 0 … 1."""

    abs_rel: float
    delta1: float
    f1: float


def score(prediction: NDArray[np.float32], frame: MetricPair, *, space: str) -> FrameScores:
    """An affine-invariant H×W map, by the protocol marigold within 1 mm … frame.farthest_m."""
    rules = dataclasses.replace(FOLDER, clip_m=(NEAREST_M, frame.farthest_m))
    compared = compare(prediction, frame, rules, MARIGOLD, space=AlignmentSpace(space))
    valid = compared.valid
    errors = Sums.of(compared.aligned_m[valid], compared.truth_m[valid]).errors()
    f1 = boundary_f1(compared.aligned_m, compared.truth_m, valid)
    return FrameScores(abs_rel=errors.abs_rel, delta1=errors.delta1, f1=f1)


def write_strip(path: Path, frame: MetricPair, prediction: DepthMap) -> None:
    """Photo, prediction and truth side by side, near = bright; no reading = black."""
    truth, read = frame.depth_m, frame.depth_m > 0
    lo, hi = np.percentile(truth[read], [2, 98])
    scaled = np.clip((truth - lo) / (hi - lo), 0, 1).astype(np.float32)
    shown = DepthMap(values=scaled, space=Space.DEPTH).colors()
    shown[~read] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.hstack([frame.photo, prediction.colors(), shown])
    cv2.imwrite(str(path), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))

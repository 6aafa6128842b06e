"""Depth, ground truth -> errors: the field's nine, plain numpy.

With p the aligned and clipped depth and d the truth, in metres, over the valid pixels of one image:

    abs_rel     mean |p − d| / d                    delta1, 2, 3    share with max(p / d, d / p) < 1.25^k
    sq_rel      mean (p − d)² / d          m        rmse_log        sqrt(mean e²), e = ln p − ln d
    rmse        sqrt(mean (p − d)²)        m        silog           100 sqrt(mean e² − (mean e)²)
    log10       mean |log10 p − log10 d|

A set's error is the mean of its images' (Marigold's protocol), or that of all its pixels as if they were one
image: pooled, from the Sums of the images.

Source: Eigen et al. (NIPS 2014) and prs-eth/Marigold, src/util/metric.py, whose names for them are given in
docs/evaluate.md. Computed in float64, there in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.alignment import align

NEAREST_M = 1e-3
"""Truth up to here is no reading, and predictions are clipped here from below."""
DELTA_BASE = 1.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Of one image, of the mean image, or of all pixels; as in the table above. Shares are 0 … 1."""

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    log10: float
    delta1: float
    delta2: float
    delta3: float
    silog: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
    """What Errors are made of, summed over pixels; Sums add up."""

    pixels: int
    abs_rel: float
    sq_rel: float
    squares: float
    log_squares: float
    log10: float
    within1: int
    within2: int
    within3: int
    logs: float

    @classmethod
    def of(cls, depth_m: NDArray[np.floating], truth_m: NDArray[np.floating]) -> Sums:
        """Two arrays of one shape, positive and finite: the valid pixels alone. Raises ValueError if none."""
        p, d = (np.asarray(array, np.float64).ravel() for array in (depth_m, truth_m))
        if not p.size or p.shape != d.shape:
            raise ValueError(f"Errors are of pixels, as many of depth as of truth: {p.size} and {d.size}.")
        error, log_error = p - d, np.log(p) - np.log(d)
        ratio = np.maximum(p / d, d / p)
        return cls(
            pixels=p.size,
            abs_rel=float(np.sum(np.abs(error) / d)),
            sq_rel=float(np.sum(error**2 / d)),
            squares=float(np.sum(error**2)),
            log_squares=float(np.sum(log_error**2)),
            log10=float(np.sum(np.abs(np.log10(p) - np.log10(d)))),
            within1=int(np.count_nonzero(ratio < DELTA_BASE)),
            within2=int(np.count_nonzero(ratio < DELTA_BASE**2)),
            within3=int(np.count_nonzero(ratio < DELTA_BASE**3)),
            logs=float(np.sum(log_error)),
        )

    def errors(self) -> Errors:
        n = self.pixels
        variance = self.log_squares / n - (self.logs / n) ** 2
        return Errors(
            abs_rel=self.abs_rel / n,
            sq_rel=self.sq_rel / n,
            rmse=float(np.sqrt(self.squares / n)),
            rmse_log=float(np.sqrt(self.log_squares / n)),
            log10=self.log10 / n,
            delta1=self.within1 / n,
            delta2=self.within2 / n,
            delta3=self.within3 / n,
            silog=100 * float(np.sqrt(max(variance, 0.0))),  # < 0 by rounding where all e are equal
        )


def pooled(images: Iterable[Sums]) -> Errors:
    """Of all pixels of all images. Raises ValueError where there is no image."""
    parts = [dataclasses.astuple(one) for one in images]
    if not parts:
        raise ValueError("There is no image to take the errors of.")
    names = [field.name for field in dataclasses.fields(Sums)]
    return Sums(**dict(zip(names, map(sum, zip(*parts, strict=True)), strict=True))).errors()


def mean_image(images: Sequence[Errors]) -> Errors:
    """The mean over images, each counting the same. Raises ValueError where there is no image."""
    if not images:
        raise ValueError("There is no image to take the errors of.")
    means = np.mean([dataclasses.astuple(one) for one in images], axis=0).tolist()
    return Errors(**dict(zip((field.name for field in dataclasses.fields(Errors)), means, strict=True)))


def score(
    prediction: NDArray[np.float32],
    truth_m: NDArray[np.float32],
    *,
    space: str,
    min_m: float = NEAREST_M,
    max_m: float = 10.0,
) -> Errors:
    """Least squares in the prediction's own space, clipped to [min_m, max_m], compared between the two.

    prediction, truth_m: H×W; 0 in truth_m = no reading. space: of training/alignment.py.
    Raises ValueError for an unknown space or fewer than 2 valid pixels.
    """
    valid = (truth_m > min_m) & (truth_m < max_m)
    depth = np.clip(align(prediction, truth_m, valid, space=space), min_m, max_m)
    return Sums.of(depth[valid], truth_m[valid]).errors()

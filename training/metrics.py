"""prediction, ground truth -> alignment and errors: Marigold's affine-invariant protocol, plain numpy.

Source: Ke et al., Marigold (CVPR 2024), its evaluation code: unweighted least squares over the valid pixels,
the aligned prediction clipped to the dataset's range, errors averaged per image, then over images.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.space import Space

Array = NDArray[np.float32]

NEAREST_M = 1e-3
"""Truth up to here is no reading, and predictions are clipped here from below."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """abs_rel = mean |d − d*| / d*;  delta1 = share of pixels with max(d / d*, d* / d) < 1.25. Both 0 … 1."""

    abs_rel: float
    delta1: float


def align(prediction: Array, truth_m: Array, valid: NDArray[np.bool_], *, space: str) -> NDArray[np.float64]:
    """Affine-invariant H×W prediction -> metres, by least squares in its own space.

    In disparity the truth is 1 / metres and the aligned disparity is kept ≥ 1e-3.
    Raises ValueError for an unknown space or fewer than 2 valid pixels.
    """
    if np.count_nonzero(valid) < 2:
        raise ValueError("Alignment needs at least 2 valid pixels; check the ground truth's range and units.")
    p = prediction.astype(np.float64)
    if Space(space) is Space.DEPTH:
        return _fit_line(p, truth_m, valid)
    return 1 / np.maximum(_fit_line(p, 1 / np.where(valid, truth_m, 1), valid), 1e-3)


def _fit_line(
    p: NDArray[np.float64], target: NDArray[np.floating], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    columns = np.stack([p[valid], np.ones(np.count_nonzero(valid))], -1)
    (scale, shift), *_ = np.linalg.lstsq(columns, target[valid].astype(np.float64), rcond=None)
    return scale * p + shift


def score(
    prediction: Array, truth_m: Array, *, space: str, min_m: float = NEAREST_M, max_m: float = 10.0
) -> Scores:
    """Align, clip to [min_m, max_m], compare where min_m < truth < max_m (0 = no reading)."""
    valid = (truth_m > min_m) & (truth_m < max_m)
    depth = np.clip(align(prediction, truth_m, valid, space=space), min_m, max_m)[valid]
    truth = truth_m[valid].astype(np.float64)
    return Scores(
        abs_rel=float(np.mean(np.abs(depth - truth) / truth)),
        delta1=float(np.mean(np.maximum(depth / truth, truth / depth) < 1.25)),
    )

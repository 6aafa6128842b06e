"""Are the edges where they belong? Depth Pro's boundary metrics and the soft edge error, plain numpy.

An edge is a pair of neighbours whose inverse depths have a ratio above t, in one of four directions; scale
cancels, shift does not.

Sources: Bochkovskii et al., Depth Pro (ICLR 2025), section 4.2 and its eval/boundary_metrics.py, whose scores
these are (it has no valid mask; without one, ours equal its own). Soft edge error: Chen et al., SMD-Nets
(CVPR 2021), in the form of Marigold V2's marigoldv2/validation/metric.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

THRESHOLDS = np.linspace(1.05, 1.25, 10)
"""Ratios t; each one's score weighs t / Σ t in the mean."""
MIN_DEPTH = 1e-6
SEE_KERNELS = (3, 5, 7)
SEE_JUMP = 0.05
"""1 / metres: what makes an edge of the soft edge error (Marigold V2, see_disparity_jump_threshold)."""
SEE_QUANTILES = (0.02, 0.98)


def boundary_f1(
    prediction_depth: NDArray[np.floating], truth_depth: NDArray[np.floating], valid: Mask | None = None
) -> float:
    """F1 of occlusion edges, 0 … 1: two H×W depth maps (positive, small = near, any unit) -> score.

    For each t: precision and recall are means over the four directions, F1 = 2PR / (P + R); then the mean
    over THRESHOLDS weighted by t. Pixels must match exactly. `valid` H×W: pairs with an invalid pixel are no
    edge in either map (None: all pixels count).
    Raises ValueError for unequal shapes or values that are not finite where valid.
    """
    both = _pairs_valid(prediction_depth, truth_depth, valid)
    predicted, true = _ratios(prediction_depth, both), _ratios(truth_depth, both)
    scores = []
    for t in THRESHOLDS:
        found, wanted = _edges(predicted, t), _edges(true, t)
        hits = [int(np.count_nonzero(f & w)) for f, w in zip(found, wanted, strict=True)]
        recall = _mean_share(hits, wanted)
        precision = _mean_share(hits, found)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.average(scores, weights=THRESHOLDS))


def boundary_recall(prediction_depth: NDArray[np.floating], foreground: Mask) -> float:
    """Recall of a matte's outline, 0 … 1: H×W depth map (positive, small = near), H×W foreground -> score.

    foreground = alpha > 0.1. Of a run of neighbouring predicted edges across the outline only the strongest
    counts, so a blurred edge does not win by being wide.
    Raises ValueError for unequal shapes or values that are not finite.
    """
    both = _pairs_valid(prediction_depth, foreground, None)
    predicted = _ratios(prediction_depth, both)
    right, down = np.diff(foreground.astype(np.int8), axis=1), np.diff(foreground.astype(np.int8), axis=0)
    wanted = [right > 0, right < 0, down > 0, down < 0]
    scores = []
    for t in THRESHOLDS:
        edges = _edges(predicted, t)
        ridges = [_strongest_of_runs(e, r, axis=a) for (r, a), e in zip(predicted, edges, strict=True)]
        hits = [int(np.count_nonzero(f & w)) for f, w in zip(ridges, wanted, strict=True)]
        scores.append(_mean_share(hits, wanted))
    return float(np.average(scores, weights=THRESHOLDS))


def soft_edge_error(
    prediction_m: NDArray[np.floating], truth_m: NDArray[np.floating], valid: Mask, *, k: int
) -> float | None:
    """SEE_k in metres, lower is better: how far depth at an edge is from any truth around it.

    Over the pixels of an edge: the mean of min |prediction − truth'| over the valid truth' of the k×k around.
    A pixel is of an edge where the inverse truth of a valid neighbour (left, right, up, down) differs by more
    than SEE_JUMP. H×W, metres; k odd. None where the truth has no edge.
    Raises ValueError for unequal shapes or an even k.
    """
    if not prediction_m.shape == truth_m.shape == valid.shape or k < 1 or k % 2 == 0:
        raise ValueError(f"SEE needs three H×W arrays of one shape and an odd k, got k = {k}.")
    known = (
        valid & np.isfinite(truth_m) & np.isfinite(prediction_m) & (truth_m > 1e-6) & (prediction_m > 1e-6)
    )
    edge = _disparity_jumps(truth_m, known)
    if not edge.any():
        return None
    reach = k // 2
    truth = np.pad(np.where(known, truth_m.astype(np.float64), np.inf), reach, constant_values=np.inf)
    around = np.lib.stride_tricks.sliding_window_view(truth, (k, k))[edge]
    least = np.abs(around - prediction_m[edge].astype(np.float64)[:, None, None]).min(axis=(1, 2))
    return float(least.mean())


def within_quantiles(truth_m: NDArray[np.floating], valid: Mask) -> Mask:
    """`valid` without what is nearer than the 2 % or farther than the 98 % quantile of the valid truth.

    What Marigold V2 takes SEE over: evaluation/depth_see/compute_hypersim_edge_metrics.py.
    """
    if not valid.any():
        return valid
    lo, hi = np.quantile(truth_m[valid], SEE_QUANTILES)
    return valid & (truth_m >= lo) & (truth_m <= hi)


def _disparity_jumps(truth_m: NDArray[np.floating], known: Mask) -> Mask:
    inverse = 1 / np.where(known, truth_m, 1).astype(np.float64)
    edge = np.zeros(known.shape, bool)
    for axis, here, there in (
        (1, np.s_[:, :-1], np.s_[:, 1:]),
        (0, np.s_[:-1], np.s_[1:]),
    ):
        jump = (np.abs(np.diff(inverse, axis=axis)) > SEE_JUMP) & known[here] & known[there]
        edge[here] |= jump
        edge[there] |= jump
    return edge


def _pairs_valid(a: NDArray[np.generic], b: NDArray[np.generic], valid: Mask | None) -> tuple[Mask, Mask]:
    """Which (left, right) and (upper, lower) neighbours are both valid."""
    if a.ndim != 2 or a.shape != b.shape or (valid is not None and valid.shape != a.shape):
        shapes = [a.shape, b.shape] + ([] if valid is None else [valid.shape])
        raise ValueError(f"Boundary metrics need H×W arrays of one shape, got {shapes}: resize first.")
    keep = np.ones(a.shape, bool) if valid is None else valid
    if not (np.isfinite(a[keep]).all() and np.isfinite(b[keep]).all()):
        raise ValueError("A depth map has NaN or infinite values: mark them invalid.")
    return keep[:, 1:] & keep[:, :-1], keep[1:] & keep[:-1]


def _ratios(depth: NDArray[np.floating], both: tuple[Mask, Mask]) -> list[tuple[NDArray[np.float64], int]]:
    """(ratio of inverse depths, axis) for right, left, down, up; > 1: the neighbour that way is nearer.

    "left" reads: the left one of the pair is nearer. 0 where a pixel of the pair is invalid.
    """
    near = 1 / np.maximum(np.nan_to_num(depth.astype(np.float64), nan=1), MIN_DEPTH)
    right = np.where(both[0], near[:, 1:] / near[:, :-1], 0)
    left = np.where(both[0], near[:, :-1] / near[:, 1:], 0)
    down = np.where(both[1], near[1:] / near[:-1], 0)
    up = np.where(both[1], near[:-1] / near[1:], 0)
    return [(right, 1), (left, 1), (down, 0), (up, 0)]


def _edges(ratios: list[tuple[NDArray[np.float64], int]], t: float) -> list[Mask]:
    return [ratio > t for ratio, _ in ratios]


def _mean_share(hits: list[int], of: list[Mask]) -> float:
    return float(np.mean([h / max(int(np.count_nonzero(m)), 1) for h, m in zip(hits, of, strict=True)]))


def _strongest_of_runs(edges: Mask, ratios: NDArray[np.float64], *, axis: int) -> Mask:
    """Keep, of each maximal run of edges along `axis`, the first of the largest ratios."""
    e, r = (edges, ratios) if axis == 1 else (edges.T, ratios.T)
    kept = np.zeros_like(e)
    for y in np.flatnonzero(e.any(axis=1)):
        columns = np.flatnonzero(e[y])
        for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
            kept[y, run[np.argmax(r[y, run])]] = True
    return kept if axis == 1 else kept.T

"""Are the edges where they belong? Depth Pro's boundary metrics, plain numpy, and a command for mattes.

    python -m benchmarks.boundaries DIR                           # the bundled model
    python -m benchmarks.boundaries DIR --engine engines/fiffdepth --far-over-near 10

DIR holds NAME_rgb.jpg (or .png) with NAME_matte.png beside it (8-bit alpha, white = foreground). A matte has
no depth to align to: a map in [0, 1] is stretched from 1 to far/near (a disparity map: 1 / depth from
near/far to 1), and the recall of the matte's outline depends on that ratio. F1 on photos with depth:
benchmarks/accuracy.py.

Source: Bochkovskii et al., Depth Pro (ICLR 2025), section 4.2 and its eval/boundary_metrics.py. An edge is a
pair of neighbours whose inverse depths have a ratio above t, in one of four directions; scale cancels, shift
does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.report import publish, table
from benchmarks.sets import mattes
from fiffdepth_rt import Depth, DepthMap, Space
from fiffdepth_rt.backends.grids import Size

Mask = NDArray[np.bool_]

THRESHOLDS = np.linspace(1.05, 1.25, 10)
"""Ratios t; each one's score weighs t / Σ t in the mean."""
MIN_DEPTH = 1e-6


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
    predicted, true = _log_steps(prediction_depth, both), _log_steps(truth_depth, both)
    scores = []
    for t in THRESHOLDS:
        found, wanted = _edges(predicted, t), _edges(true, t)
        hits = [np.count_nonzero(f & w) for f, w in zip(found, wanted, strict=True)]
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
    predicted = _log_steps(prediction_depth, both)
    right, down = np.diff(foreground.astype(np.int8), axis=1), np.diff(foreground.astype(np.int8), axis=0)
    wanted = [right > 0, right < 0, down > 0, down < 0]
    scores = []
    for t in THRESHOLDS:
        edges = _edges(predicted, t)
        ridges = [_strongest_of_runs(e, s, axis=a) for (s, a), e in zip(predicted, edges, strict=True)]
        hits = [np.count_nonzero(f & w) for f, w in zip(ridges, wanted, strict=True)]
        scores.append(_mean_share(hits, wanted))
    return float(np.average(scores, weights=THRESHOLDS))


def _pairs_valid(a: NDArray[np.generic], b: NDArray[np.generic], valid: Mask | None) -> tuple[Mask, Mask]:
    """Which (left, right) and (upper, lower) neighbours are both valid."""
    if a.ndim != 2 or a.shape != b.shape or (valid is not None and valid.shape != a.shape):
        shapes = [a.shape, b.shape] + ([] if valid is None else [valid.shape])
        raise ValueError(f"Boundary metrics need H×W arrays of one shape, got {shapes}: resize first.")
    keep = np.ones(a.shape, bool) if valid is None else valid
    if not (np.isfinite(a[keep]).all() and np.isfinite(b[keep]).all()):
        raise ValueError("A depth map has NaN or infinite values: mark them invalid.")
    return keep[:, 1:] & keep[:, :-1], keep[1:] & keep[:-1]


def _log_steps(depth: NDArray[np.floating], both: tuple[Mask, Mask]) -> list[tuple[NDArray[np.float64], int]]:
    """(log ratio of inverse depths, axis) for right, left, down, up; > 0: the neighbour that way is nearer.

    "left" reads: the left one of the pair is nearer. 0 where a pixel of the pair is invalid.
    """
    near = -np.log(np.maximum(np.nan_to_num(depth.astype(np.float64), nan=1), MIN_DEPTH))
    right = np.where(both[0], np.diff(near, axis=1), 0)
    down = np.where(both[1], np.diff(near, axis=0), 0)
    return [(right, 1), (-right, 1), (down, 0), (-down, 0)]


def _edges(steps: list[tuple[NDArray[np.float64], int]], t: float) -> list[Mask]:
    return [step > np.log(t) for step, _ in steps]


def _mean_share(hits: list[int], of: list[Mask]) -> float:
    return float(np.mean([h / max(np.count_nonzero(m), 1) for h, m in zip(hits, of, strict=True)]))


def _strongest_of_runs(edges: Mask, steps: NDArray[np.float64], *, axis: int) -> Mask:
    """Keep, of each maximal run of edges along `axis`, the first strongest step."""
    e, s = (edges, steps) if axis == 1 else (edges.T, steps.T)
    kept = np.zeros_like(e)
    for y in np.flatnonzero(e.any(axis=1)):
        columns = np.flatnonzero(e[y])
        for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
            kept[y, run[np.argmax(s[y, run])]] = True
    return kept if axis == 1 else kept.T


def _unaligned_depth(depth_map: DepthMap, *, far_over_near: float) -> NDArray[np.float32]:
    """Depth map -> depth in near planes, 1 … far_over_near."""
    if depth_map.space == Space.DISPARITY:
        return 1 / (1 / far_over_near + depth_map.values * (1 - 1 / far_over_near))
    return 1 + depth_map.values * (far_over_near - 1)


def evaluate(folder: Path, depth: Depth, *, size: Size, far_over_near: float) -> list[float]:
    """Recall of every matte of `folder`, in the order of the file names."""
    recalls = []
    for matte in mattes.frames(folder):
        shown = _unaligned_depth(depth.infer(matte.photo, size=size), far_over_near=far_over_near)
        recalls.append(boundary_recall(shown, matte.foreground))
    return recalls


@commands.command(__doc__)
@click.argument("folder", metavar="DIR", type=commands.FOLDER)
@commands.engine
@commands.size
@click.option(
    "--far-over-near", metavar="X", default=10.0, show_default=True, help="The depth range of a map."
)
@commands.save
def main(folder: Path, engine: Path | None, size: Size, far_over_near: float, save: bool) -> None:
    with Depth(engine) as depth:
        recalls = evaluate(folder, depth, size=size, far_over_near=far_over_near)
        said = depth.describe()
    row = [said["name"], len(recalls), f"{100 * np.mean(recalls):.1f}"]
    report = commands.model_report(
        said,
        benchmark="boundaries",
        title="Outlines of mattes",
        facts={"far over near": f"{far_over_near:g}"},
        text=table(["method", "n", "boundary recall % ↑"], [row], align="lrr"),
        figures={"sha256": said["sha256"], "far_over_near": far_over_near, "recall": recalls},
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

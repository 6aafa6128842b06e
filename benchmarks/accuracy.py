"""Depth accuracy and edges on photos with exact depth, beside a "lower is nearer" ramp, by the same code.

    python -m benchmarks.accuracy DIR                      # the bundled model
    python -m benchmarks.accuracy DIR --engine engines/fiffdepth --pictures out/ --save
    python -m benchmarks.accuracy --scenes 60 --scale 2    # rendered from seeds that no training sees

DIR holds pairs NAME_rgb.jpg and NAME_depth_mm.png (16-bit millimetres, 0 = no reading), grouped by the part
of NAME before its last "_" (dining_1, dining_2 -> dining). Predictions are aligned by least squares and
clipped to 1 mm … 10 m, scenes to their renderer's range (training/metrics.py); boundary F1 is that of the
aligned depth (benchmarks/boundaries.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.boundaries import boundary_f1
from benchmarks.report import publish, table
from benchmarks.sets import rgbd
from fiffdepth_rt import Depth, DepthMap, Space
from fiffdepth_rt.backends.grids import Size
from training import metrics
from training.data.samples import MetricPair


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanScores:
    """Means over images, 0 … 1. f1: of the boundaries."""

    method: str
    group: str
    images: int
    abs_rel: float
    delta1: float
    f1: float


def ramp(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """What needs no model: the lower in the picture, the nearer. H×W in [0, 1], 0 = near."""
    h, w = size_hw
    return np.broadcast_to(np.linspace(1, 0, h, dtype=np.float32)[:, None], (h, w))


def score(prediction: NDArray[np.float32], frame: MetricPair, *, space: str) -> tuple[float, float, float]:
    """AbsRel, δ1 and boundary F1 of an affine-invariant H×W map, each 0 … 1."""
    truth_m = np.where(frame.valid, frame.depth_m, 0).astype(np.float32, copy=False)
    errors = metrics.score(prediction, truth_m, space=space, min_m=metrics.NEAREST_M, max_m=frame.farthest_m)
    aligned = metrics.align(prediction, truth_m, frame.valid, space=space)
    clipped = np.clip(aligned, metrics.NEAREST_M, frame.farthest_m)
    return errors.abs_rel, errors.delta1, boundary_f1(clipped, truth_m, frame.valid)


def evaluate(
    held_out: Iterable[MetricPair], depth: Depth, *, size: Size, pictures: Path | None
) -> list[MeanScores]:
    """Score the model and the ramp on every frame: a row for all, then one for each group."""
    scores: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for frame in held_out:
        predictions = {
            depth.manifest.name: depth.infer(frame.photo, size=size),
            "ramp": DepthMap(values=ramp(frame.depth_m.shape), space=Space.DEPTH),
        }
        for method, prediction in predictions.items():
            result = score(prediction.values, frame, space=prediction.space)
            for group in (frame.group, "all"):
                scores[method, group].append(result)
        if pictures is not None:
            _write_picture(pictures / f"{frame.name}.png", frame, predictions[depth.manifest.name])
    groups = sorted({group for _, group in scores} - {"all"})
    return [
        MeanScores(method=method, group=group, images=len(scores[method, group]), abs_rel=a, delta1=d, f1=f)
        for group in (["all", *groups] if len(groups) > 1 else groups)  # one group is all of them
        for method in sorted({method for method, _ in scores})
        for a, d, f in [np.mean(scores[method, group], axis=0).tolist()]
    ]


def _write_picture(path: Path, frame: MetricPair, prediction: DepthMap) -> None:
    """Photo, prediction and truth side by side, near = bright; no reading = black."""
    truth, read = frame.depth_m, frame.depth_m > 0
    lo, hi = np.percentile(truth[read], [2, 98])
    scaled = np.clip((truth - lo) / (hi - lo), 0, 1).astype(np.float32)
    shown = DepthMap(values=scaled, space=Space.DEPTH).colors()
    shown[~read] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.hstack([frame.photo, prediction.colors(), shown])
    cv2.imwrite(str(path), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))


def markdown(rows: list[MeanScores]) -> str:
    headers = ["frames", "method", "n", "AbsRel % ↓", "δ1 % ↑", "boundary F1 % ↑"]
    lines = [
        [r.group, r.method, r.images, *(f"{100 * x:.1f}" for x in (r.abs_rel, r.delta1, r.f1))] for r in rows
    ]
    return table(headers, lines, align="llrrrr")


def _scenes(count: int, *, scale: int) -> Iterable[MetricPair]:
    from benchmarks.sets import scenes  # needs the renderer, and pairs do not

    return scenes.frames(count, scale=scale)


@commands.command(__doc__)
@click.argument("folder", metavar="[DIR]", required=False, type=commands.FOLDER)
@click.option("--scenes", metavar="N", type=int, help="Instead of DIR: held-out scenes to render.")
@click.option(
    "--scale", metavar="N", type=int, default=1, show_default=True, help="Of the scenes, times 192×256."
)
@commands.engine
@commands.size
@commands.pictures
@commands.save
def main(
    folder: Path | None,
    scenes: int | None,
    scale: int,
    engine: Path | None,
    size: Size,
    pictures: Path | None,
    save: bool,
) -> None:
    if (folder is None) == (scenes is None):
        raise click.UsageError("Give either a folder of RGB-D pairs, or --scenes N.")
    held_out = rgbd.frames(folder) if scenes is None else _scenes(scenes, scale=scale)
    with Depth(engine) as depth:
        rows = evaluate(held_out, depth, size=size, pictures=pictures)
        said = depth.describe()
    report = commands.model_report(
        said,
        benchmark="accuracy",
        subject=None if scenes is None else f"scenes {said['name']}",
        title="Accuracy",
        text=markdown(rows),
        figures={"sha256": said["sha256"], "rows": [dataclasses.asdict(r) for r in rows]},
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

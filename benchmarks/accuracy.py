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

import argparse
import dataclasses
import datetime
import json
from collections import defaultdict
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.boundaries import boundary_f1
from benchmarks.sets import frames
from fiffdepth_rt import Depth, DepthMap, Space
from training import metrics
from training.data.samples import MetricPair

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
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
    held_out: Iterable[MetricPair], depth: Depth, *, size: int | None, pictures: Path | None
) -> list[Row]:
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
        Row(method=method, group=group, images=len(scores[method, group]), abs_rel=a, delta1=d, f1=f)
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


def markdown(rows: list[Row]) -> str:
    lines = ["| frames | method | n | AbsRel % ↓ | δ1 % ↑ | boundary F1 % ↑ |", "|---|---|---|---|---|---|"]
    for r in rows:
        errors = f"{100 * r.abs_rel:.1f} | {100 * r.delta1:.1f} | {100 * r.f1:.1f}"
        lines.append(f"| {r.group} | {r.method} | {r.images} | {errors} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="RGB-D pairs")
    parser.add_argument("--scenes", type=int, help="instead: held-out scenes to render")
    parser.add_argument("--scale", type=int, default=1, help="of the scenes, times 192×256 (default: 1)")
    parser.add_argument("--engine", type=Path, help="engine directory (default: the bundled model)")
    parser.add_argument("--size", type=int, help="longer side of the processed image (default: the model's)")
    parser.add_argument("--pictures", type=Path, help="write photo | prediction | truth here")
    parser.add_argument("--save", action="store_true", help="write a report into benchmarks/results/")
    args = parser.parse_args()
    if (args.folder is None) == (args.scenes is None):
        parser.error("give either a folder of RGB-D pairs or --scenes N")
    if args.scenes is None:
        held_out, name, what = frames.rgbd(args.folder), "accuracy", "DIR"
    else:
        held_out, name = frames.scenes(args.scenes, scale=args.scale), "accuracy-scenes"
        what = f"--scenes {args.scenes} --scale {args.scale}"
    if args.size is not None:
        what += f" --size {args.size}"
    with Depth(args.engine) as depth:
        rows = evaluate(held_out, depth, size=args.size, pictures=args.pictures)
        sha256 = depth.describe()["sha256"]
    today = datetime.date.today().isoformat()
    report = {
        "benchmark": "accuracy",
        "date": today,
        "command": f"python -m benchmarks.accuracy {what}",
        "sha256": sha256,
        "rows": [dataclasses.asdict(r) for r in rows],
    }
    table, line = markdown(rows), json.dumps(report)
    print(table)
    print(line)
    if args.save:
        text = f"# Accuracy, {today}\n\n`{report['command']}`\n\n{table}\n\n```json\n{line}\n```\n"
        (RESULTS / f"{name}-{today}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Depth accuracy on a folder of RGB-D pairs, beside a "lower is nearer" ramp scored by the same code.

    python -m benchmarks.accuracy DIR                      # the bundled model
    python -m benchmarks.accuracy DIR --engine engines/fiffdepth --pictures out/ --save

DIR holds pairs NAME_rgb.jpg and NAME_depth_mm.png (16-bit millimetres, 0 = no reading). Frames are grouped
by the part of NAME before its last "_" (dining_1, dining_2 -> dining). Protocol: benchmarks/metrics.py,
1 mm … 10 m.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import metrics
from fiffdepth_rt import Depth, colorize
from fiffdepth_rt.files import read_photo

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    method: str
    group: str
    images: int
    abs_rel: float
    delta1: float


def ramp(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """What needs no model: the lower in the picture, the nearer. H×W in [0, 1], 0 = near."""
    h, w = size_hw
    return np.broadcast_to(np.linspace(1, 0, h, dtype=np.float32)[:, None], (h, w))


def read_truth(path: Path) -> NDArray[np.float32]:
    """16-bit millimetres -> float32 metres, 0 = no reading. Raises ValueError for anything else."""
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        raise ValueError(f"{path} is not a 16-bit grey PNG of millimetres.")
    return raw.astype(np.float32) / 1000


def evaluate(folder: Path, depth: Depth, *, size: int | None, pictures: Path | None) -> list[Row]:
    """Score the model and the ramp on every pair of `folder`."""
    pairs = sorted(folder.glob("*_depth_mm.png"))
    if not pairs:
        raise SystemExit(f"No NAME_depth_mm.png in {folder}: see --help for the layout.")
    scores: dict[tuple[str, str], list[metrics.Scores]] = defaultdict(list)
    for truth_path in tqdm(pairs, unit="frame"):
        name = truth_path.name.removesuffix("_depth_mm.png")
        photo, truth = read_photo(truth_path.with_name(f"{name}_rgb.jpg")), read_truth(truth_path)
        predictions = {
            depth.manifest.name: (depth.infer(photo, size=size), depth.output_space),
            "ramp": (ramp(truth.shape), "depth"),
        }
        for method, (prediction, space) in predictions.items():
            result = metrics.score(prediction, truth, space=space)
            for group in (name.rsplit("_", 1)[0], "all"):
                scores[method, group].append(result)
        if pictures is not None:
            prediction, space = predictions[depth.manifest.name]
            _write_picture(pictures / f"{name}.png", photo, prediction, truth, space)
    return [
        Row(
            method=method,
            group=group,
            images=len(results),
            abs_rel=float(np.mean([s.abs_rel for s in results])),
            delta1=float(np.mean([s.delta1 for s in results])),
        )
        for (method, group), results in sorted(scores.items(), key=lambda item: (item[0][1], item[0][0]))
    ]


def _write_picture(
    path: Path,
    photo: NDArray[np.uint8],
    prediction: NDArray[np.float32],
    truth: NDArray[np.float32],
    space: str,
) -> None:
    """Photo, prediction and truth side by side, near = bright; no reading = black."""
    valid = truth > 0
    lo, hi = np.percentile(truth[valid], [2, 98])
    shown = colorize(np.clip((truth - lo) / (hi - lo), 0, 1).astype(np.float32), space="depth")
    shown[~valid] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.hstack([photo, colorize(prediction, space=space), shown])
    cv2.imwrite(str(path), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))


def markdown(rows: list[Row]) -> str:
    lines = ["| frames | method | n | AbsRel % ↓ | δ1 % ↑ |", "|---|---|---|---|---|"]
    for r in rows:
        errors = f"{100 * r.abs_rel:.1f} | {100 * r.delta1:.1f}"
        lines.append(f"| {r.group} | {r.method} | {r.images} | {errors} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", type=Path, help="engine directory (default: the bundled model)")
    parser.add_argument("--size", type=int, help="longer side of the processed image (default: the model's)")
    parser.add_argument("--pictures", type=Path, help="write photo | prediction | truth here")
    parser.add_argument("--save", action="store_true", help="write a report into benchmarks/results/")
    args = parser.parse_args()
    with Depth(args.engine) as depth:
        rows = evaluate(args.folder, depth, size=args.size, pictures=args.pictures)
        sha256 = depth.describe()["sha256"]
    today = datetime.date.today().isoformat()
    report = {
        "benchmark": "accuracy",
        "date": today,
        "command": "python -m benchmarks.accuracy DIR",
        "sha256": sha256,
        "rows": [dataclasses.asdict(r) for r in rows],
    }
    table, line = markdown(rows), json.dumps(report)
    print(table)
    print(line)
    if args.save:
        text = f"# Accuracy, {today}\n\n`{report['command']}`\n\n{table}\n\n```json\n{line}\n```\n"
        (RESULTS / f"accuracy-{today}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

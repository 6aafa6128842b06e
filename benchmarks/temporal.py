"""Temporal alignment error (TAE) of depth on a moving camera, with and without the smoothing of streams.

    python -m benchmarks.temporal                          # the bundled model, beside the ramp
    python -m benchmarks.temporal --engine engines/fiffdepth --smooth 10 --smooth 30 --save
    python -m benchmarks.temporal --video 7scenes:chess/seq-01 --video tum:rgbd_dataset_freiburg1_desk
    python -m benchmarks.temporal --video scannet:scene0707_00 --predictions maps --space disparity

A camera swings through procedural scenes (training/scenes), so depth, poses and intrinsics are exact; or
posed RGB-D video of 7-Scenes, ScanNet or TUM RGB-D (benchmarks/sets/posed.py), whose depth has holes and
noise. The measure is that of Video Depth Anything (Chen et al., CVPR 2025, benchmark/eval/eval_tae.py):

1. One scale and shift for the whole clip, by least squares against the truth. (There in disparity; here in
   the space that the model predicts.) Depth is then clipped to 1 mm … 10 m.
2. For each two neighbouring frames, every pixel of one is lifted to 3-D by its depth, seen from the other
   camera, rounded to a pixel there (no z-buffer) and compared: mean |d − d_projected| / d over the pixels
   that were hit, where the truth is in range. Forwards and backwards.
3. TAE = 100 × sum / (2 (N − 1)), in %; lower is better.

A frame without a prediction is counted and named, and the two pairs that it belongs to are left out.
The row "truth" is the error of the scene's own depth: what rounding and hidden surfaces cost on this path.
An engine of ours gets rows for the smoothing of streams too; in its rows "+ flicker" each map got a random
scale (3 %) and shift (0.015), as an unsteady model would give it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.evaluation import options
from benchmarks.evaluation.methods import Choice, EngineChoice, Map
from benchmarks.evaluation.options import How, scoring, write_out
from benchmarks.evaluation.results import skipped_sentence
from benchmarks.evaluation.spread import run
from benchmarks.evaluation.task import Skipped
from benchmarks.evaluation.temporal_task import FrameWork
from benchmarks.report import Report, publish, table
from benchmarks.sets.clips import ROOMS, ClipChoice
from benchmarks.sets.posed import Camera, Clip
from fiffdepth_rt.machine import installed, machine_card
from fiffdepth_rt.smoothing import Smoother
from training.alignment import align
from training.data.samples import DataError

Array = NDArray[np.float64]

MIN_M, MAX_M = 1e-3, 10.0
FRAMES = 48
FLICKER = (0.03, 0.015)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalError:
    """Of one method on one scene, or on all of them ("mean"). frames: that were scored. tae: %."""

    method: str
    scene: str
    frames: int
    tae: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipResult:
    """One method on one clip. rows: its errors, by variant of its maps. frames: of the clip. skipped: those
    without a prediction. choices: all that decides the maps."""

    method: str
    scene: str
    frames: int
    rows: Sequence[TemporalError]
    skipped: Sequence[Skipped]
    choices: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        skipped = [dataclasses.asdict(one) for one in self.skipped]
        found: dict[str, Any] = {"method": self.method, "scene": self.scene, "frames": self.frames}
        return found | {"skipped": skipped, "choices": dict(self.choices)}


def tae(
    depth_m: Array,
    valid: NDArray[np.bool_],
    pose: Array,
    intrinsics: Array,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> float:
    """Temporal alignment error in %, steps 2 and 3 above.

    depth_m: N×H×W metres. valid: N×H×W. pose: N×4×4, camera to world. pairs: of frames that are compared;
    None: all neighbours. Raises ValueError where there is no pair.
    """
    pairs = list(itertools.pairwise(range(len(depth_m)))) if pairs is None else pairs
    if not pairs:
        raise ValueError("A temporal error needs at least 2 frames.")
    total = 0.0
    for pair in pairs:
        for here, there in (pair, pair[::-1]):
            move = np.linalg.inv(pose[there]) @ pose[here]
            projected = _project(depth_m[here], move, intrinsics)
            total += _relative_error(depth_m[there], projected, valid[there])
    return 100 * total / (2 * len(pairs))


def _project(depth_m: Array, move: Array, intrinsics: Array) -> Array:
    """H×W depth of one camera, 0 = none -> H×W depth in another, 0 where nothing fell."""
    height, width = depth_m.shape
    y, x = np.mgrid[0:height, 0:width]
    rays = np.linalg.inv(intrinsics) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    points = move[:3, :3] @ (rays * depth_m.ravel()) + move[:3, 3:]
    u, v, z = intrinsics @ points
    ahead = (z > 1e-6) & (depth_m.ravel() > 0)  # a hole in a sensor's depth is no point at the camera
    u, v, z = u[ahead], v[ahead], z[ahead]
    column, row = np.rint(u / z), np.rint(v / z)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    projected = np.zeros_like(depth_m)
    projected[row[inside].astype(int), column[inside].astype(int)] = z[inside]
    return projected


def _relative_error(depth_m: Array, projected: Array, valid: NDArray[np.bool_]) -> float:
    both = valid & (depth_m > 0) & (projected > 0)
    return float(np.mean(np.abs(depth_m - projected)[both] / depth_m[both])) if both.any() else 0.0


def score(clip: Clip, predictions: Sequence[Map | Skipped], *, space: str) -> float:
    """Affine-invariant predictions, H×W for each frame -> TAE in %, all three steps.

    Raises ValueError where no two neighbours have a prediction, or the truth has no valid pixel.
    """
    there = [i for i, one in enumerate(predictions) if not isinstance(one, Skipped)]
    pairs = [(k, k + 1) for k, (i, j) in enumerate(itertools.pairwise(there)) if j == i + 1]
    if not pairs:
        raise ValueError("A temporal error needs at least 2 neighbouring frames with a prediction.")
    maps = np.stack([one for one in predictions if not isinstance(one, Skipped)])
    depth_m = clip.depth_m[there]
    valid = (depth_m > MIN_M) & (depth_m < MAX_M)
    aligned = align(maps, depth_m, valid, space=space)
    return tae(np.clip(aligned, MIN_M, MAX_M), valid, clip.pose[there], clip.intrinsics, pairs)


def flickering(maps: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Each map with a scale and a shift of its own (standard deviations FLICKER), clipped to [0, 1]."""
    rng = np.random.default_rng(14)
    return [
        np.clip(m * (1 + rng.normal(0, FLICKER[0])) + rng.normal(0, FLICKER[1]), 0, 1).astype(np.float32)
        for m in maps
    ]


def smoothed(maps: Sequence[NDArray[np.float32]], time_constant: float) -> list[NDArray[np.float32]]:
    """What `Depth.stream(smooth=time_constant)` does, frame by frame."""
    smoother = Smoother(time_constant)
    return [smoother(m) for m in maps]


def truth_row(choice: ClipChoice) -> TemporalError:
    """The error of the clip's own depth."""
    clip = choice.open()
    valid = (clip.depth_m > MIN_M) & (clip.depth_m < MAX_M)
    error = tae(clip.depth_m.astype(np.float64), valid, clip.pose, clip.intrinsics)
    return TemporalError(method="truth", scene=choice.title, frames=len(clip.photos), tae=error)


def evaluate(work: FrameWork, how: How, smooth: Sequence[float]) -> ClipResult:
    """One method on one clip: its maps; for an engine also with flicker added, and each of them smoothed.

    Raises DataError where no two neighbouring frames have a prediction.
    """
    clip, method = work.clip.open(), work.choice.open()
    method.close()
    count, scene = len(clip.photos), work.clip.title
    outcomes: list[Map | Skipped] = run(
        work, count, label=f"{scene}, {method.name}", processes=how.processes, ray=how.ray
    )
    skipped = [one for one in outcomes if isinstance(one, Skipped)]
    variants: dict[str, Sequence[Map | Skipped]] = {method.name: outcomes}
    if isinstance(work.choice, EngineChoice):
        maps = [one for one in outcomes if not isinstance(one, Skipped)]  # an engine gives one for each photo
        for name, variant in ((method.name, maps), (f"{method.name} + flicker", flickering(maps))):
            variants[name] = variant
            variants |= {f"{name}, smooth={n:g}": smoothed(variant, n) for n in smooth}
    try:
        rows = [
            TemporalError(
                method=name,
                scene=scene,
                frames=count - len(skipped),
                tae=score(clip, variant, space=method.space),
            )
            for name, variant in variants.items()
        ]
    except ValueError as error:
        first = f" The first: {skipped[0].name}: {skipped[0].reason}." if skipped else ""
        raise DataError(f"{scene} cannot be scored with {method.name}: {error}{first}") from error
    return ClipResult(
        method=method.name, scene=scene, frames=count, rows=rows, skipped=skipped, choices=method.choices
    )


def with_means(rows: Sequence[TemporalError]) -> list[TemporalError]:
    """The rows, and for each method the mean of its scenes."""
    means = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        mean = float(np.mean([row.tae for row in own]))
        frames = sum(row.frames for row in own)
        means.append(TemporalError(method=method, scene="mean", frames=frames, tae=mean))
    return [*rows, *means]


def markdown(rows: Sequence[TemporalError], results: Sequence[ClipResult]) -> str:
    totals = {result.scene: result.frames for result in results}
    totals["mean"] = sum(totals.values())
    lines = [
        [
            r.scene,
            r.method,
            str(r.frames) if r.frames == totals[r.scene] else f"{r.frames} of {totals[r.scene]}",
            f"{r.tae:.2f}",
        ]
        for r in rows
    ]
    gone = [skipped_sentence(r.scene, r.method, r.skipped) for r in results if r.skipped]
    return "\n\n".join([table(["scene", "method", "frames", "TAE % ↓"], lines, align="llrr"), *gone])


def _parse_camera(ctx: click.Context, option: click.Parameter, value: str | None) -> Camera | None:
    """ "525,525,319.5,239.5" -> its numbers"""
    if value is None:
        return None
    try:
        fx, fy, cx, cy = (float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: say four numbers of px, fx,fy,cx,cy.", ctx, option) from error
    return fx, fy, cx, cy


@commands.command(__doc__)
@click.option(
    "--smooth",
    metavar="T",
    type=float,
    multiple=True,
    default=(10, 30),
    show_default=True,
    help="Of an engine's rows: time constant in frames; several times for several.",
)
@click.option(
    "--frames", metavar="N", type=click.IntRange(min=2), default=FRAMES, show_default=True, help="Per scene."
)
@click.option(
    "--video",
    "videos",
    metavar="LAYOUT:DIR",
    multiple=True,
    help="Instead of the rooms: 7scenes:DIR, scannet:DIR or tum:DIR; several times for several.",
)
@click.option("--camera", metavar="FX,FY,CX,CY", callback=_parse_camera, help="Of the videos, in px.")
@scoring
@commands.save
def main(
    smooth: tuple[float, ...],
    frames: int,
    videos: tuple[str, ...],
    camera: Camera | None,
    how: How,
    save: bool,
) -> None:
    words = videos or ROOMS
    choices: list[Choice] = how.choices()
    rows: list[TemporalError] = []
    results: list[ClipResult] = []
    for clip in (ClipChoice(word=word, frames=frames, camera=camera) for word in words):
        rows.append(truth_row(clip))
        for choice in choices:
            results.append(evaluate(FrameWork(choice=choice, clip=clip, keep=how.keep), how, smooth))
            rows += results[-1].rows
    rows = with_means(rows)
    report = Report(
        benchmark="temporal",
        subject=results[0].method,
        title="Temporal error",
        command=commands.typed("temporal"),
        card=machine_card(installed(options.LIBRARIES)),
        facts={"models": options.models(result.choices for result in results)},
        text=markdown(rows, results),
        figures={
            "camera": camera,
            "smooth": smooth,
            "rows": [dataclasses.asdict(r) for r in rows],
            "clips": [result.to_json() for result in results],
        },
    )
    if how.out is not None:
        write_out(how.out, report, {})
    publish(report, save=save)


if __name__ == "__main__":
    main()

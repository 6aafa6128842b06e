"""Temporal alignment error (TAE) of depth on a moving camera, with and without the smoothing of streams.

    python -m benchmarks.temporal                          # the bundled model
    python -m benchmarks.temporal --engine engines/fiffdepth --smooth 10 --smooth 30 --save
    python -m benchmarks.temporal --video 7scenes:chess/seq-01 --video tum:rgbd_dataset_freiburg1_desk

A camera swings through procedural scenes (training/scenes), so depth, poses and intrinsics are exact; or
posed RGB-D video of 7-Scenes, ScanNet or TUM RGB-D (benchmarks/sets/posed.py), whose depth has holes and
noise. The measure is that of Video Depth Anything (Chen et al., CVPR 2025, benchmark/eval/eval_tae.py):

1. One scale and shift for the whole clip, by least squares against the truth. (There in disparity; here in
   the space that the model predicts.) Depth is then clipped to 1 mm … 10 m.
2. For each two neighbouring frames, every pixel of one is lifted to 3-D by its depth, seen from the other
   camera, rounded to a pixel there (no z-buffer) and compared: mean |d − d_projected| / d over the pixels
   that were hit, where the truth is in range. Forwards and backwards.
3. TAE = 100 × sum / (2 (N − 1)), in %; lower is better.

The row "truth" is the error of the scene's own depth: what rounding and hidden surfaces cost on this path.
In the rows "+ flicker" each map got a random scale (3 %) and shift (0.015), as an unsteady model would give
it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.evaluation.protocol import resized
from benchmarks.report import publish, table
from benchmarks.sets.posed import Camera, Clip, open_clip
from fiffdepth_rt import Depth
from fiffdepth_rt.smoothing import Smoother
from training.alignment import align
from training.data.samples import DataError

Array = NDArray[np.float64]

MIN_M, MAX_M = 1e-3, 10.0
FRAMES = 48
FLICKER = (0.03, 0.015)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalError:
    """Of one method on one scene, or on all of them ("mean"). tae: %."""

    method: str
    scene: str
    frames: int
    tae: float


def tae(depth_m: Array, valid: NDArray[np.bool_], pose: Array, intrinsics: Array) -> float:
    """Temporal alignment error in %, steps 2 and 3 above.

    depth_m: N×H×W metres. valid: N×H×W. pose: N×4×4, camera to world. Raises ValueError for N < 2.
    """
    if len(depth_m) < 2:
        raise ValueError("A temporal error needs at least 2 frames.")
    total = 0.0
    for i in range(len(depth_m) - 1):
        for here, there in ((i, i + 1), (i + 1, i)):
            move = np.linalg.inv(pose[there]) @ pose[here]
            projected = _project(depth_m[here], move, intrinsics)
            total += _relative_error(depth_m[there], projected, valid[there])
    return 100 * total / (2 * (len(depth_m) - 1))


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


def score(clip: Clip, predictions: NDArray[np.float32], *, space: str) -> float:
    """Affine-invariant N×H×W predictions -> TAE in %, all three steps."""
    valid = (clip.depth_m > MIN_M) & (clip.depth_m < MAX_M)
    aligned = align(predictions, clip.depth_m, valid, space=space)
    return tae(np.clip(aligned, MIN_M, MAX_M), valid, clip.pose, clip.intrinsics)


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


def evaluate(depth: Depth, clips: Iterable[tuple[str, Clip]], smooth: Sequence[float]) -> list[TemporalError]:
    """Each scene, and their mean: its own depth, the model's, the model's with flicker added, and
    smoothed."""
    name, scores = depth.manifest.name, dict[tuple[str, str], float]()
    counts: dict[str, int] = {}
    for scene, clip in clips:
        counts[scene] = len(clip.photos)
        valid = (clip.depth_m > MIN_M) & (clip.depth_m < MAX_M)
        scores[scene, "truth"] = tae(clip.depth_m.astype(np.float64), valid, clip.pose, clip.intrinsics)
        hw = (clip.depth_m.shape[1], clip.depth_m.shape[2])
        maps = [resized(item.depth_map.values, hw) for item in depth.stream(clip.photos)]
        for method, variant in ((name, maps), (f"{name} + flicker", flickering(maps))):
            scores[scene, method] = score(clip, np.stack(variant), space=depth.output_space)
            for n in smooth:
                steadied = np.stack(smoothed(variant, n))
                scores[scene, f"{method}, smooth={n:g}"] = score(clip, steadied, space=depth.output_space)
    for method in dict.fromkeys(method for _, method in scores):
        scores["mean", method] = float(np.mean([v for (_, m), v in scores.items() if m == method]))
    counts["mean"] = sum(counts.values())
    return [
        TemporalError(method=m, scene=scene, frames=counts[scene], tae=value)
        for (scene, m), value in scores.items()
    ]


def rendered(frames: int) -> Iterator[tuple[str, Clip]]:
    """The rooms that this benchmark renders. Needs the renderer."""
    from benchmarks.sets import rendered_clips

    for seed in rendered_clips.SEEDS:
        yield f"room {seed}", rendered_clips.render_clip(seed, frames)


def markdown(rows: Sequence[TemporalError]) -> str:
    lines = [[r.scene, r.method, r.frames, f"{r.tae:.2f}"] for r in rows]
    return table(["scene", "method", "frames", "TAE % ↓"], lines, align="llrr")


def _parse_camera(ctx: click.Context, option: click.Parameter, value: str | None) -> Camera | None:
    """ "525,525,319.5,239.5" -> its numbers"""
    if value is None:
        return None
    try:
        fx, fy, cx, cy = (float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: say four numbers of px, fx,fy,cx,cy.", ctx, option) from error
    return fx, fy, cx, cy


def _without_folders(word: str) -> str:
    layout, _, place = word.partition(":")
    return f"{layout}:{Path(place).name}"


@commands.command(__doc__)
@commands.engine
@click.option(
    "--smooth",
    metavar="T",
    type=float,
    multiple=True,
    default=(10, 30),
    show_default=True,
    help="Time constant in frames; several times for several.",
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
@commands.save
def main(
    engine: Path | None,
    smooth: tuple[float, ...],
    frames: int,
    videos: tuple[str, ...],
    camera: Camera | None,
    save: bool,
) -> None:
    clips = rendered(frames)
    if videos:
        clips = ((_without_folders(word), open_clip(word, frames=frames, camera=camera)) for word in videos)
    try:
        with Depth(engine) as depth:
            rows = evaluate(depth, clips, smooth)
            said = depth.describe()
    except DataError as error:
        raise click.ClickException(str(error)) from error
    report = commands.model_report(
        said,
        benchmark="temporal",
        title="Temporal error",
        text=markdown(rows),
        figures={
            "camera": camera,
            "smooth": smooth,
            "sha256": said["sha256"],
            "rows": [dataclasses.asdict(r) for r in rows],
        },
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

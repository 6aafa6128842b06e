"""Temporal alignment error (TAE) of depth on a moving camera, with and without the smoothing of streams.

    python -m benchmarks.temporal                          # the bundled model
    python -m benchmarks.temporal --engine engines/fiffdepth --smooth 10 --smooth 30 --save

A camera swings through procedural scenes (training/scenes), so depth, poses and intrinsics are exact. The
measure is that of Video Depth Anything (Chen et al., CVPR 2025, benchmark/eval/eval_tae.py):

1. One scale and shift for the whole clip, by least squares against the truth. (There in disparity; here in
   the space that the model predicts.) Depth is then clipped to 1 mm … 10 m.
2. For each two neighbouring frames, every pixel of one is lifted to 3-D by its depth, seen from the other
   camera, rounded to a pixel there (no z-buffer) and compared: mean |d − d_projected| / d over the pixels
   that were hit, where the truth is in range. Forwards and backwards.
3. TAE = 100 × sum / (2 (N − 1)), in %; lower is better.

The row "truth" is the error of exact depth: what rounding and hidden surfaces cost on this path. In the rows
"+ flicker" each map got a random scale (3 %) and shift (0.015), as an unsteady model would give it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections.abc import Sequence

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.report import publish, table
from fiffdepth_rt import Depth
from fiffdepth_rt.smoothing import Smoother
from training.alignment import align
from training.scenes.layouts import Camera, Scene, make_scene
from training.scenes.render import render_view

Array = NDArray[np.float64]

MIN_M, MAX_M = 1e-3, 10.0
SEEDS = (11, 42, 54, 60)  # rooms in which the path comes no nearer than 0.5 m to anything
SIZE_HW = (384, 512)
FRAMES = 48
FLICKER = (0.03, 0.015)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """N frames of one scene. Camera coordinates: x right, y down, z forward, metres."""

    photos: list[NDArray[np.uint8]]  # N of H×W×3 RGB
    depth_m: NDArray[np.float32]  # N×H×W, along the optical axis
    pose: Array  # N×4×4, camera -> world
    intrinsics: Array  # 3×3, px


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalError:
    """Of one method on one scene, or on all of them ("mean"). tae: %."""

    method: str
    scene: str
    frames: int
    tae: float


def pose_of(camera: Camera) -> Array:
    """Camera -> 4×4 matrix, camera coordinates to world; the rotation that `render` gives its rays."""
    cr, sr = np.cos(camera.roll), np.sin(camera.roll)
    cp, sp, cy, sy = np.cos(camera.pitch), np.sin(camera.pitch), np.cos(camera.yaw), np.sin(camera.yaw)
    about_axis = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])  # right, up, forward
    tilted = np.array([[1, 0, 0], [0, -sp, cp], [0, cp, sp]])  # -> x, y, z of a camera that looks along y
    turned = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = turned @ tilted @ about_axis @ np.diag([1, -1, 1])
    pose[:3, 3] = camera.eye
    return pose


def intrinsics_of(camera: Camera, size_hw: tuple[int, int]) -> Array:
    """Camera -> 3×3 pinhole matrix in px."""
    (height, width), focal_px = size_hw, camera.focal * max(size_hw)
    return np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])


def render_clip(seed: int, frames: int = FRAMES, size_hw: tuple[int, int] = SIZE_HW) -> Clip:
    """seed -> Clip: a room, and a camera that swings once around its place; noise is new in each frame."""
    scene = _room(seed)
    views, poses = [], []
    for step in range(frames):
        moved = dataclasses.replace(scene, camera=_swung(scene.camera, 2 * np.pi * step / frames))
        views.append(render_view(moved, size_hw, _camera_rng(seed)))
        poses.append(pose_of(moved.camera))
    noise = np.random.default_rng([13, seed])
    return Clip(
        photos=[
            np.clip(view.photo + noise.normal(0, 2, view.photo.shape), 0, 255).astype(np.uint8)
            for view in views
        ],
        depth_m=np.stack([view.depth_m for view in views]),
        pose=np.stack(poses),
        intrinsics=intrinsics_of(scene.camera, size_hw),
    )


def _room(seed: int) -> Scene:
    rng = np.random.default_rng([11, seed])
    while (scene := make_scene(rng)).kind != "room":
        pass
    return scene


def _camera_rng(seed: int) -> np.random.Generator:
    """The same for all frames of a clip: one camera, one setting; only its automatic exposure follows."""
    return np.random.default_rng([12, seed])


def _swung(camera: Camera, angle: float) -> Camera:
    """Up to 15 cm to the sides and forward, 10° to the sides, 3° up and down."""
    right = np.array([np.cos(camera.yaw), np.sin(camera.yaw), 0])
    ahead = np.array([-np.sin(camera.yaw), np.cos(camera.yaw), 0])
    eye = np.asarray(camera.eye) + 0.15 * np.sin(angle) * right + 0.075 * (1 - np.cos(angle)) * ahead
    return dataclasses.replace(
        camera,
        eye=(float(eye[0]), float(eye[1]), float(eye[2])),
        yaw=camera.yaw + np.radians(10) * np.sin(angle),
        pitch=camera.pitch + np.radians(3) * np.sin(2 * angle),
    )


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
    """H×W depth of one camera -> H×W depth in another, 0 where nothing fell."""
    height, width = depth_m.shape
    y, x = np.mgrid[0:height, 0:width]
    rays = np.linalg.inv(intrinsics) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    points = move[:3, :3] @ (rays * depth_m.ravel()) + move[:3, 3:]
    u, v, z = intrinsics @ points
    ahead = z > 1e-6
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


def evaluate(
    depth: Depth, seeds: Sequence[int], smooth: Sequence[float], frames: int = FRAMES
) -> list[TemporalError]:
    """Each scene, and their mean: exact depth, the model's, the model's with flicker added, and smoothed."""
    name, scores = depth.manifest.name, dict[tuple[str, str], float]()
    for seed in seeds:
        clip, scene = render_clip(seed, frames), f"room {seed}"
        valid = (clip.depth_m > MIN_M) & (clip.depth_m < MAX_M)
        scores[scene, "truth"] = tae(clip.depth_m.astype(np.float64), valid, clip.pose, clip.intrinsics)
        maps = [item.depth_map.values for item in depth.stream(clip.photos)]
        for method, variant in ((name, maps), (f"{name} + flicker", flickering(maps))):
            scores[scene, method] = score(clip, np.stack(variant), space=depth.output_space)
            for n in smooth:
                steadied = np.stack(smoothed(variant, n))
                scores[scene, f"{method}, smooth={n:g}"] = score(clip, steadied, space=depth.output_space)
    for method in dict.fromkeys(method for _, method in scores):
        scores["mean", method] = float(np.mean([v for (_, m), v in scores.items() if m == method]))
    return [
        TemporalError(method=m, scene=scene, frames=frames, tae=value) for (scene, m), value in scores.items()
    ]


def markdown(rows: Sequence[TemporalError]) -> str:
    lines = [[r.scene, r.method, r.frames, f"{r.tae:.2f}"] for r in rows]
    return table(["scene", "method", "frames", "TAE % ↓"], lines, align="llrr")


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
@commands.save
def main(engine: Path | None, smooth: tuple[float, ...], frames: int, save: bool) -> None:
    with Depth(engine) as depth:
        rows = evaluate(depth, SEEDS, smooth, frames)
        said = depth.describe()
    report = commands.model_report(
        said,
        benchmark="temporal",
        title="Temporal error",
        text=markdown(rows),
        figures={
            "size_hw": SIZE_HW,
            "smooth": smooth,
            "sha256": said["sha256"],
            "rows": [dataclasses.asdict(r) for r in rows],
        },
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

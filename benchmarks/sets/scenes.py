"""Rendered scenes that no training has seen, metres exact. Needs the extra [training]: its renderer."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from training.data.procedural import HELD_OUT_SEED, SHAPES
from training.data.samples import MetricPair
from training.metrics import NEAREST_M
from training.scenes.layouts import FAR_M
from training.scenes.render import render_scene

SEEDS_BEYOND = 1 << 20
"""As far beyond the seeds of nano's own validation scenes."""


def frames(count: int, *, scale: int = 1) -> Iterator[MetricPair]:
    """`count` scenes at `scale` times training's SHAPES, with progress.

    Raises SystemExit where count or scale is not positive.
    """
    if count < 1 or scale < 1:
        raise SystemExit(f"{count} scenes at {scale} times the size: both are at least 1.")
    for i in tqdm(range(count), unit="scene"):
        h, w = SHAPES[i % len(SHAPES)]
        scene = render_scene(HELD_OUT_SEED + SEEDS_BEYOND + i, (scale * h, scale * w))
        yield MetricPair(
            photo=scene.photo,
            depth_m=scene.depth_m,
            valid=(scene.depth_m > NEAREST_M) & (scene.depth_m < FAR_M),
            farthest_m=FAR_M,
            name=f"scene_{i:04d}",
            group="scenes",
        )

"""Photos with depth in metres to score on: a folder of RGB-D pairs, or scenes that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from training.data import sets
from training.data.rgbd import photos_beside
from training.data.samples import DataError, MetricPair

SEEDS_BEYOND = 1 << 20
"""As far beyond the seeds of nano's own validation scenes."""


def beside(folder: Path, suffix: str) -> Iterator[tuple[str, Path, Path]]:
    """(NAME, NAME_rgb.jpg or .png, NAME`suffix`) by name, with progress.

    Raises SystemExit where there are none, or one has no photo.
    """
    try:
        found = photos_beside(folder, suffix)
    except DataError as error:
        raise SystemExit(str(error)) from error
    yield from tqdm(found, unit="frame")


def rgbd(folder: Path) -> Iterator[MetricPair]:
    """The RGB-D pairs of a folder (training/data/rgbd.py), by name, with progress.

    Raises SystemExit where there are none, or one has no photo; SampleError for a file that is damaged.
    """
    try:
        dataset = sets.open_metric("rgbd", str(folder), space="depth", split="test")
    except DataError as error:
        raise SystemExit(str(error)) from error
    for index in tqdm(range(len(dataset)), unit="frame"):
        yield dataset.metric(index)


def scenes(count: int, *, scale: int = 1) -> Iterator[MetricPair]:
    """Rendered scenes that no training has seen, at `scale` times training's SHAPES. With progress.

    Needs the extra [training], whose renderer it is: pairs do not. Raises SystemExit where count or scale is
    not positive.
    """
    from training.data.procedural import HELD_OUT_SEED, SHAPES
    from training.metrics import NEAREST_M
    from training.scenes.layouts import FAR_M
    from training.scenes.render import render_scene

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

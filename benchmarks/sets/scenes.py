"""Rendered scenes that no training has seen, metres exact. Needs the extra [training]: its renderer."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from benchmarks.sets.depth_sets import PpdRules, Rules
from training.data.procedural import HELD_OUT_SEED, SHAPES
from training.data.samples import DataError, MetricPair
from training.metrics import NEAREST_M
from training.scenes.render import render_scene
from training.scenes.scene import FAR_M

SEEDS_BEYOND = 1 << 20
"""As far beyond the seeds of nano's own validation scenes."""
RULES = Rules(
    name="scenes",
    title="scenes",
    clip_m=(NEAREST_M, FAR_M),
    processing_px=None,
    ppd=PpdRules(valid_m=(NEAREST_M, FAR_M)),
    prediction_name=lambda name: name,
)


class RenderedFrames:
    """The first `count` scenes at `scale` times training's SHAPES.

    count: as it was typed. Raises DataError where count is no number of scenes, or scale is not positive.
    """

    def __init__(self, count: int | str, *, scale: int = 1) -> None:
        if not str(count).isdecimal() or int(count) < 1 or scale < 1:
            raise DataError(f"{count} scenes at {scale} times the size: both are at least 1.")
        self.rules, self.expected, self._scale = RULES, int(count), scale

    def __len__(self) -> int:
        return self.expected

    def name(self, index: int) -> str:
        return f"scene_{index:04d}"

    def frame(self, index: int) -> MetricPair:
        h, w = SHAPES[index % len(SHAPES)]
        scene = render_scene(HELD_OUT_SEED + SEEDS_BEYOND + index, (self._scale * h, self._scale * w))
        return MetricPair(
            photo=scene.photo,
            depth_m=scene.depth_m,
            valid=(scene.depth_m > NEAREST_M) & (scene.depth_m < FAR_M),
            farthest_m=FAR_M,
            name=self.name(index),
            group="scenes",
        )


def frames(count: int, *, scale: int = 1) -> Iterator[MetricPair]:
    """The scenes one by one, with progress. Raises SystemExit where count or scale is not positive."""
    try:
        rendered = RenderedFrames(count, scale=scale)
    except DataError as error:
        raise SystemExit(str(error)) from error
    for index in tqdm(range(len(rendered)), unit="scene"):
        yield rendered.frame(index)

"""seeds -> the arrays of the experiment, drawn once and kept as files.

What a run may see: `prior` (photos alone), `synthetic` (photos with exact depth), `real` (photos with the
teacher's maps; their true depth is not in the file). What only scores it: `test`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.miniature.scenes import ANYTHING, PHOTOGRAPHED, RENDERED, SIZE, Look, draw
from fiffdepth_rt.atomic import replacing
from training.data.normalise import normalise

Array = NDArray[np.float32]

TEACHER_BLUR = 2.0
"""Deviation of the teacher's low-pass in pixels of 32: what is narrower than about 4 is gone."""
TEACHER_ERROR, TEACHER_ERROR_REACH = 0.04, 4.0
"""Its smooth error: relative deviation of the depth, and that of its kernel in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """photos uint8 N×32×32×3; pictures float32 N×32×32 in [-1, 1], near = -1, None for the prior's
    photos; depth_m float32 N×32×32, the truth that scores: None but in a test world."""

    photos: NDArray[np.uint8]
    pictures: Array | None
    depth_m: Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worlds:
    prior: World
    synthetic: World
    real: World
    test: World
    """The real look; pictures are the teacher's, so that it can be scored too."""
    synthetic_test: World
    """The synthetic look; pictures are exact."""


def teacher(depth_m: Array, seed: int) -> Array:
    """True depth 32×32 -> the depth picture of a teacher that is robust and soft.

    It is given, not trained: ln z, low-passed (TEACHER_BLUR), plus a smooth random error (TEACHER_ERROR).
    So it has what the paper credits its teacher with, low frequencies that are about right in the real world,
    and nothing of what a student should bring itself: no edge, no thin thing.
    """
    rng = np.random.default_rng((seed, 2))
    error = cv2.GaussianBlur(rng.standard_normal(depth_m.shape), (0, 0), TEACHER_ERROR_REACH)
    error *= TEACHER_ERROR / error.std()
    soft = np.exp(cv2.GaussianBlur(np.log(depth_m), (0, 0), TEACHER_BLUR) + error)
    return _picture(soft.astype(np.float32))


def _picture(depth_m: Array) -> Array:
    return normalise(depth_m, np.ones(depth_m.shape, bool), space="depth")


def make_worlds(folder: Path, *, images: int, test_images: int) -> Worlds:
    """Draw what `folder` has not; `images` each for synthetic and real, twice that for the prior."""
    folder.mkdir(parents=True, exist_ok=True)

    def world(
        name: str, look: Look, first_seed: int, count: int, *, depth: str | None, scores: bool
    ) -> World:
        path = folder / f"{name}-{count}.npz"
        if not path.exists():
            arrays = _draw_all(name, look, range(first_seed, first_seed + count), depth=depth, scores=scores)
            with replacing(path) as file:
                np.savez(file, **arrays)
        with np.load(path) as stored:
            return World(
                photos=stored["photos"], pictures=stored.get("pictures"), depth_m=stored.get("depth_m")
            )

    return Worlds(
        prior=world("prior", ANYTHING, 2_000_000, 2 * images, depth=None, scores=False),
        synthetic=world("synthetic", RENDERED, 0, images, depth="exact", scores=False),
        real=world("real", PHOTOGRAPHED, 1_000_000, images, depth="teacher", scores=False),
        test=world("test", PHOTOGRAPHED, 3_000_000, test_images, depth="teacher", scores=True),
        synthetic_test=world("synthetic-test", RENDERED, 4_000_000, test_images, depth="exact", scores=True),
    )


def _draw_all(
    name: str, look: Look, seeds: range, *, depth: str | None, scores: bool
) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {"photos": np.empty((len(seeds), SIZE, SIZE, 3), np.uint8)}
    if depth:
        arrays["pictures"] = np.empty((len(seeds), SIZE, SIZE), np.float32)
    if scores:
        arrays["depth_m"] = np.empty((len(seeds), SIZE, SIZE), np.float32)
    for i, seed in enumerate(tqdm(seeds, desc=f"draw {name}", unit="scene")):
        scene = draw(seed, look)
        arrays["photos"][i] = scene.photo
        if depth:
            exact = depth == "exact"
            arrays["pictures"][i] = _picture(scene.depth_m) if exact else teacher(scene.depth_m, seed)
        if scores:
            arrays["depth_m"][i] = scene.depth_m
    return arrays

"""seeds -> the arrays of the experiment, drawn once and kept as files.

What a run may see: `prior` (photos alone), `synthetic` (photos with exact depth), `real` (photos with the
teacher's maps; their true depth is not in the file). What only scores it: `test`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.miniature.scenes import ANYTHING, PHOTOGRAPHED, RENDERED, SIZE, Look, draw
from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.space import Space
from training.data.normalise import normalise

Array = NDArray[np.float32]
_World = TypeVar("_World", bound="World")

TEACHER_BLUR = 2.0
"""Deviation of the teacher's low-pass in pixels of 32: what is narrower than about 4 is gone."""
TEACHER_ERROR, TEACHER_ERROR_REACH = 0.04, 4.0
"""Its smooth error: relative deviation of the depth, and that of its kernel in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """photos: uint8 N×32×32×3, RGB."""

    photos: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledWorld(World):
    """pictures: float32 N×32×32 in [-1, 1], near = -1."""

    pictures: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredWorld(LabelledWorld):
    """depth_m: float32 N×32×32, the truth that scores."""

    depth_m: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worlds:
    prior: World
    synthetic: LabelledWorld
    real: LabelledWorld
    test: ScoredWorld
    """The real look; pictures are the teacher's, so that it can be scored too."""
    synthetic_test: ScoredWorld
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
    return normalise(depth_m, np.ones(depth_m.shape, bool), space=Space.DEPTH)


def make_worlds(folder: Path, *, images: int, test_images: int) -> Worlds:
    """Draw what `folder` has not; `images` each for synthetic and real, twice that for the prior."""
    folder.mkdir(parents=True, exist_ok=True)

    def world(
        kind: type[_World], name: str, look: Look, first_seed: int, count: int, *, depth: str = ""
    ) -> _World:
        path = folder / f"{name}-{count}.npz"
        if not path.exists():
            arrays = _draw_all(kind, name, look, range(first_seed, first_seed + count), depth=depth)
            with replacing(path) as file:
                np.savez(file, **arrays)
        with np.load(path) as stored:
            return kind(**{field.name: stored[field.name] for field in dataclasses.fields(kind)})

    return Worlds(
        prior=world(World, "prior", ANYTHING, 2_000_000, 2 * images),
        synthetic=world(LabelledWorld, "synthetic", RENDERED, 0, images, depth="exact"),
        real=world(LabelledWorld, "real", PHOTOGRAPHED, 1_000_000, images, depth="teacher"),
        test=world(ScoredWorld, "test", PHOTOGRAPHED, 3_000_000, test_images, depth="teacher"),
        synthetic_test=world(ScoredWorld, "synthetic-test", RENDERED, 4_000_000, test_images, depth="exact"),
    )


def _draw_all(kind: type[World], name: str, look: Look, seeds: range, *, depth: str) -> dict[str, Any]:
    """What a world of this kind holds. depth: where its pictures come from, "exact" or "teacher"."""
    arrays = {"photos": np.empty((len(seeds), SIZE, SIZE, 3), np.uint8)}
    for further in ("pictures", "depth_m"):
        if further in {field.name for field in dataclasses.fields(kind)}:
            arrays[further] = np.empty((len(seeds), SIZE, SIZE), np.float32)
    for i, seed in enumerate(tqdm(seeds, desc=f"draw {name}", unit="scene")):
        scene = draw(seed, look)
        arrays["photos"][i] = scene.photo
        if "pictures" in arrays:
            exact = depth == "exact"
            arrays["pictures"][i] = _picture(scene.depth_m) if exact else teacher(scene.depth_m, seed)
        if "depth_m" in arrays:
            arrays["depth_m"][i] = scene.depth_m
    return arrays

"""Photos with exact depth, metres: a folder of RGB-D pairs, or scenes rendered from seeds no training sees.

A folder holds pairs NAME_rgb.jpg (or .png) and NAME_depth_mm.png (16-bit millimetres, 0 = no reading).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fiffdepth_rt.files import read_photo

MIN_M = 1e-3
RGBD_MAX_M = 10.0
SEEDS_BEYOND = 1 << 20
"""As far beyond the seeds of nano's own validation scenes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """photo uint8 H×W×3; truth_m float32 H×W, scored between MIN_M and max_m. group: its line in a table."""

    name: str
    group: str
    photo: NDArray[np.uint8]
    truth_m: NDArray[np.float32]
    max_m: float

    @property
    def valid(self) -> NDArray[np.bool_]:
        return (self.truth_m > MIN_M) & (self.truth_m < self.max_m)


def read_truth(path: Path) -> NDArray[np.float32]:
    """16-bit millimetres -> float32 metres, 0 = no reading. Raises ValueError for anything else."""
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.ndim != 2:
        raise ValueError(f"{path} is not a 16-bit grey PNG of millimetres.")
    return raw.astype(np.float32) / 1000


def beside(folder: Path, suffix: str) -> Iterator[tuple[str, Path, Path]]:
    """(NAME, NAME_rgb.jpg or .png, NAME`suffix`) by name, with progress.

    Raises SystemExit where there are none, or one has no photo.
    """
    truths = sorted(folder.glob(f"*{suffix}"))
    if not truths:
        raise SystemExit(f"No NAME{suffix} in {folder}: see --help for the layout.")
    for truth in tqdm(truths, unit="frame"):
        name = truth.name.removesuffix(suffix)
        photo = next((p for ext in ("jpg", "png") if (p := folder / f"{name}_rgb.{ext}").exists()), None)
        if photo is None:
            raise SystemExit(f"No {name}_rgb.jpg or .png beside {truth}: every truth needs its photo.")
        yield name, photo, truth


def rgbd(folder: Path) -> Iterator[Frame]:
    """The pairs of a folder by name; the group is what stands before NAME's last "_"."""
    for name, photo, truth in beside(folder, "_depth_mm.png"):
        yield Frame(
            name=name,
            group=name.rsplit("_", 1)[0],
            photo=read_photo(photo),
            truth_m=read_truth(truth),
            max_m=RGBD_MAX_M,
        )


def scenes(count: int, *, scale: int = 1) -> Iterator[Frame]:
    """Rendered scenes that no training has seen, at `scale` times training's SHAPES. With progress.

    Needs the extra [training], whose renderer it is: pairs do not. Raises SystemExit where count or scale is
    not positive.
    """
    from training.data.procedural import HELD_OUT_SEED, SHAPES
    from training.scenes.layouts import FAR_M
    from training.scenes.render import render_scene

    if count < 1 or scale < 1:
        raise SystemExit(f"{count} scenes at {scale} times the size: both are at least 1.")
    for i in tqdm(range(count), unit="scene"):
        h, w = SHAPES[i % len(SHAPES)]
        scene = render_scene(HELD_OUT_SEED + SEEDS_BEYOND + i, (scale * h, scale * w))
        yield Frame(
            name=f"scene_{i:04d}", group="scenes", photo=scene.photo, truth_m=scene.depth_m, max_m=FAR_M
        )

"""Copies of sets with depth edges or mattes in two images, in the layout and encoding of the published ones.

Every truth is a square of 2 m, or of foreground, before 4 m, or background.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HW = (32, 48)
FOCAL_PX, BASELINE_M = 1000.0, 0.065


def truth_m() -> NDArray[np.float32]:
    depth = np.full(HW, 4, np.float32)
    depth[10:16, 20:28] = 2
    return depth


def foreground() -> NDArray[np.bool_]:
    return truth_m() < 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeTiny:
    """title: in tables. folder: in the folder of all data. photos, truths, predictions: paths in it.

    images: of the whole set.

    save: writes a truth; others: writes what else belongs to the set into its folder.
    """

    name: str
    title: str
    folder: str
    photos: tuple[str, ...]
    truths: tuple[str, ...]
    predictions: tuple[str, ...]
    images: int
    save: Callable[[Path], None]
    others: Callable[[Path], None] = lambda folder: None


def _dpt(path: Path) -> None:
    header = struct.pack("<fii", 202021.25, HW[1], HW[0])
    path.write_bytes(header + truth_m().astype("<f4").tobytes())


def _dsp5(path: Path) -> None:
    """Disparity in px of the photo, at twice its size: the pixels between are others'."""
    disparity = np.full((2 * HW[0], 2 * HW[1]), np.nan, np.float32)
    disparity[::2, ::2] = FOCAL_PX * BASELINE_M / truth_m()
    with h5py.File(path, "w") as file:
        file.create_dataset("disparity", data=disparity, compression="gzip")


def _ibims(path: Path) -> None:
    Image.fromarray(np.rint(truth_m() * 65535 / 50).astype(np.uint16)).save(path)
    for mask in ("mask_invalid", "mask_transp"):
        file = path.parent.parent / mask / path.name
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ones(HW, bool)).save(file)  # 1-bit, as published


def _alpha(path: Path) -> None:
    Image.fromarray((foreground() * 255).astype(np.uint8)).save(path)


def _spring_camera(folder: Path) -> None:
    camera = folder / "train/0001/cam_data/intrinsics.txt"
    camera.parent.mkdir(parents=True)
    camera.write_text(f"{FOCAL_PX} {FOCAL_PX} 960.0 540.0\n" * 2)


def _two(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(i) for i in (1, 2))


_DIS = "12#Non-motor Vehicle#4#Cart#8245751856_o"  # names hold blanks
_SPLITS = ("DIS-TE1", "DIS-VD")

IBIMS = EdgeTiny(
    name="ibims",
    title="iBims",
    folder="ibims1/ibims1_core_raw",
    photos=_two("rgb/corridor_0{}.png"),
    truths=_two("depth/corridor_0{}.png"),
    predictions=_two("corridor_0{}.npy"),
    images=100,
    save=_ibims,
    others=lambda folder: (folder / "imagelist.txt").write_text("corridor_01\ncorridor_02\n"),
)
DEPTH_SETS = (
    EdgeTiny(
        name="sintel",
        title="Sintel",
        folder="sintel",
        photos=_two("training/final/alley_1/frame_000{}.png"),
        truths=_two("training/depth/alley_1/frame_000{}.dpt"),
        predictions=_two("alley_1/frame_000{}.npy"),
        images=1064,
        save=_dpt,
    ),
    EdgeTiny(
        name="spring",
        title="Spring",
        folder="spring",
        photos=_two("train/0001/frame_left/frame_left_000{}.png"),
        truths=_two("train/0001/disp1_left/disp1_left_000{}.dsp5"),
        predictions=_two("0001/frame_left_000{}.npy"),
        images=5000,
        save=_dsp5,
        others=_spring_camera,
    ),
    IBIMS,
)
MATTE_SETS = (
    EdgeTiny(
        name="am2k",
        title="AM-2k",
        folder="am2k",
        photos=_two("validation/original/m_{}.jpg"),
        truths=_two("validation/mask/m_{}.png"),
        predictions=_two("validation/original/m_{}.npy"),
        images=200,
        save=_alpha,
    ),
    EdgeTiny(
        name="p3m10k",
        title="P3M-10k",
        folder="p3m10k",
        photos=("validation/P3M-500-P/blurred_image/p_1.jpg", "validation/P3M-500-NP/original_image/p_2.jpg"),
        truths=("validation/P3M-500-P/mask/p_1.png", "validation/P3M-500-NP/mask/p_2.png"),
        predictions=(
            "validation/P3M-500-P/blurred_image/p_1.npy",
            "validation/P3M-500-NP/original_image/p_2.npy",
        ),
        images=1000,
        save=_alpha,
    ),
    EdgeTiny(
        name="dis5k",
        title="DIS-5k",
        folder="dis5k",
        photos=tuple(f"{split}/im/{_DIS}.jpg" for split in _SPLITS),
        truths=tuple(f"{split}/gt/{_DIS}.png" for split in _SPLITS),
        predictions=tuple(f"{split}/im/{_DIS}.npy" for split in _SPLITS),
        images=200,
        save=_alpha,
    ),
)


def write(tiny: EdgeTiny, root: Path) -> None:
    """The set in ROOT/<folder>; DIS-5k's list of samples in ROOT/data_split."""
    folder = root / tiny.folder
    for photo, truth in zip(tiny.photos, tiny.truths, strict=True):
        for path in (folder / photo, folder / truth):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*HW, 3), 90, np.uint8)).save(folder / photo)
        tiny.save(folder / truth)
    tiny.others(folder)
    if tiny.name == "dis5k":
        (root / "data_split").mkdir()
        lines = "".join(f"DIS5K/{photo}\n" for photo in tiny.photos)
        (root / "data_split" / "dis5k_sample_list.txt").write_text(lines)


def write_predictions(tiny: EdgeTiny, folder: Path, maps: NDArray[np.float32]) -> None:
    """The same map for every image."""
    for path in tiny.predictions:
        file = folder / tiny.name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, maps)

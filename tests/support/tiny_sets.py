"""Copies of datasets in a few images, in the layout and encoding of the published ones, with known errors.

Every truth is 2 m in the left half of its valid region and 4 m in the right half. `prediction` strays from
it by half a metre, up in even rows and down in odd ones, so that least squares in depth gives, over the
four kinds of pixels (with the variance of the truth 1 and that of the error 1/4):

    scale 1 / (1 + 1/4) = 0.8, shift 3 (1 − 0.8) = 0.6: 1.8 and 2.6 for 2 m, 3.4 and 4.2 for 4 m
    AbsRel = (0.2/2 + 0.6/2 + 0.6/4 + 0.2/4) / 4 = 0.15, δ1 = 3/4 (2.6 / 2 = 1.3 alone is off)

Outside of the valid region, predictions are far off: a mask that leaks shows.
"""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Save = Callable[[Path, Floats], None]

ABS_REL, DELTA1, SCALE, SHIFT = 0.15, 0.75, 0.8, 0.6
STRAY = 1000.0
"""What predictions say outside of the valid region."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinySet:
    """hw: of the photos. rows, columns: of the valid region. outside: truth beyond it, metres.

    photo, truth: paths of image i. line: of the list. prediction: its path, in Marigold's layout.
    """

    name: str
    hw: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    outside: float
    photos: tuple[str, ...]
    truths: tuple[str, ...]
    lines: tuple[str, ...]
    predictions: tuple[str, ...]
    list_name: str
    save: Save
    tar: str
    images: int
    offset: tuple[int, int] = (0, 0)
    """Where the region of the protocol begins in the photo: rows, columns."""

    @property
    def region(self) -> NDArray[np.bool_]:
        """H×W, of the photo as it is compared."""
        mask = np.zeros(self.hw, bool)
        mask[slice(*self.rows), slice(*self.columns)] = True
        return mask

    def truth(self) -> Floats:
        middle = sum(self.columns) // 2
        depth = np.full(self.hw, self.outside, np.float32)
        depth[slice(*self.rows), self.columns[0] : middle] = 2
        depth[slice(*self.rows), middle : self.columns[1]] = 4
        return depth

    def prediction(self) -> Floats:
        rows = np.arange(self.hw[0])[:, None]
        strayed = self.truth() + np.where(rows % 2 == 0, np.float32(0.5), np.float32(-0.5))
        return np.where(self.region, strayed, np.float32(STRAY)).astype(np.float32)


def _png16(factor: float) -> Save:
    def save(path: Path, depth_m: Floats) -> None:
        Image.fromarray(np.rint(depth_m * factor).astype(np.uint16)).save(path)

    return save


def _raw(path: Path, depth_m: Floats) -> None:
    path.write_bytes(np.where(depth_m > 0, depth_m, np.inf).astype("<f4").tobytes())


def _npy(path: Path, depth_m: Floats) -> None:
    np.save(path, depth_m[..., None])  # H×W×1, as DIODE has it


def _named(pattern: str, count: int = 2) -> tuple[str, ...]:
    return tuple(pattern.replace("{}", "{0}").format(i) for i in range(1, count + 1))


_KITTI = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/000000006{}.png"
_KITTI_TRUTH = "2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/000000006{}.png"
_ETH3D = "rgb/office/images/dslr_images/DSC_021{}.JPG"
_ETH3D_TRUTH = "depth/office_dslr_depth/office/ground_truth_depth/dslr_images/DSC_021{}.JPG"
_DIODE = "indoors/scene_00021/scan_00189/00021_00189_indoors_210_0{}0"

NYUV2 = TinySet(
    name="nyuv2",
    hw=(480, 640),
    rows=(45, 471),
    columns=(41, 601),
    outside=7.0,
    photos=_named("test/kitchen_0004/rgb_000{}.png"),
    truths=_named("test/kitchen_0004/depth_000{}.png"),
    lines=_named("test/kitchen_0004/rgb_000{0}.png test/kitchen_0004/depth_000{0}.png unused"),
    predictions=_named("test/kitchen_0004/pred_000{}.npy"),
    list_name="nyu_depth/labeled/filename_list_test.txt",
    save=_png16(1000),
    tar="nyu_labeled_extracted.tar",
    images=654,
)
KITTI = TinySet(  # the benchmark's crop of 375×1242 begins at row 23, column 13
    name="kitti",
    hw=(352, 1216),
    rows=(117, 321),
    columns=(43, 1171),  # and column 1171 has no reading: an even number of columns is left
    outside=0.0,
    photos=_named(_KITTI),
    truths=_named(_KITTI_TRUTH),
    lines=(*_named(f"{_KITTI} {_KITTI_TRUTH} 721.5377"), f"{_KITTI.format(9)} None 721.5377"),
    predictions=_named("2011_09_26/2011_09_26_drive_0002_sync/image_02/data/pred_000000006{}.npy"),
    list_name="kitti_depth/eigen_test_files_with_gt.txt",
    save=_png16(256),
    tar="kitti_eigen_split_test.tar",
    images=652,
    offset=(23, 13),
)
ETH3D = TinySet(
    name="eth3d",
    hw=(48, 72),
    rows=(8, 48),
    columns=(0, 72),
    outside=0.0,
    photos=_named(_ETH3D),
    truths=_named(_ETH3D_TRUTH),
    lines=_named(f"{_ETH3D} {_ETH3D_TRUTH}"),
    predictions=_named("rgb/office/images/dslr_images/pred_DSC_021{}.npy"),
    list_name="eth3d_depth/eth3d_filename_list.txt",
    save=_raw,
    tar="eth3d.tar",
    images=454,
)
SCANNET = TinySet(
    name="scannet",
    hw=(480, 640),
    rows=(40, 440),
    columns=(0, 640),
    outside=12.0,
    photos=_named("scene0406_02/color/00030{}.jpg"),
    truths=_named("scene0406_02/depth/00030{}.png"),
    lines=_named("scene0406_02/color/00030{0}.jpg scene0406_02/depth/00030{0}.png"),
    predictions=_named("scene0406_02/color/pred_00030{}.npy"),
    list_name="scannet_depth/scannet_val_sampled_list_800_1.txt",
    save=_png16(1000),
    tar="scannet_val_sampled_800_1.tar",
    images=800,
)
DIODE = TinySet(
    name="diode",
    hw=(768, 1024),
    rows=(20, 768),
    columns=(0, 1024),
    outside=0.0,
    photos=_named(f"{_DIODE}.png"),
    truths=_named(f"{_DIODE}_depth.npy"),
    lines=_named(f"{_DIODE}.png {_DIODE}_depth.npy {_DIODE}_depth_mask.npy"),
    predictions=_named("indoors/scene_00021/scan_00189/pred_00021_00189_indoors_210_0{}0.npy"),
    list_name="diode_depth/diode_val_all_filename_list.txt",
    save=_npy,
    tar="diode_val.tar",
    images=771,
)
LISTED = (NYUV2, KITTI, ETH3D, SCANNET, DIODE)


def write(tiny: TinySet, root: Path) -> None:
    """The set in ROOT/<name>, its list in ROOT/data_split."""
    h, w = (side + 2 * at for side, at in zip(tiny.hw, tiny.offset, strict=True))
    h, w = (375, 1242) if tiny.name == "kitti" else (h, w)
    top, left = tiny.offset
    whole = np.full((h, w), tiny.outside, np.float32)
    whole[top : top + tiny.hw[0], left : left + tiny.hw[1]] = tiny.truth()
    if tiny.name == "diode":  # the mask decides, and what it leaves out looks like the rest
        whole[: tiny.rows[0]] = whole[tiny.rows[0]]
    photo = np.broadcast_to(np.linspace(0, 255, w).astype(np.uint8)[None, :, None], (h, w, 3))
    for path, truth in zip(tiny.photos, tiny.truths, strict=True):
        for file in (root / tiny.name / path, root / tiny.name / truth):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(photo)).save(root / tiny.name / path)
        tiny.save(root / tiny.name / truth, whole)
        if tiny.name == "diode":
            mask = tiny.region.astype(np.float64)
            np.save(root / tiny.name / truth.replace("_depth.npy", "_depth_mask.npy"), mask)
    listed = root / "data_split" / tiny.list_name
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(tiny.lines) + "\n")


def write_predictions(tiny: TinySet, folder: Path, maps: Floats) -> None:
    """The same map for every image, as Marigold's infer.py would leave it."""
    for path in tiny.predictions:
        file = folder / tiny.name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, maps)


def pack(tiny: TinySet, root: Path) -> None:
    """The extracted set -> the tar it came as, and no folder."""
    folder = root / tiny.name
    with tarfile.open(root / tiny.tar, "w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, arcname=f"./{path.relative_to(folder)}", recursive=False)
    shutil.rmtree(folder)
    folder.mkdir()
    (root / tiny.tar).rename(folder / tiny.tar)

"""The table of sets with depth in metres: Table 1's five, any folder of RGB-D pairs, rendered scenes.

To add a dataset whose files a list names: one row of SETS. Everything that differs from set to set, and from
protocol to protocol, stands in it.

Source of all rows: prs-eth/Marigold, src/dataset/*_dataset.py (encodings, ranges, crops),
config/dataset_depth/*.yaml and data_split/ (lists), script/depth/eval_old/*.sh (processing resolutions,
alignment_max_res). Of the fields `ppd`: huawei-bayerlab/marigold-v2, evaluation/depth/eval.py, which repeats
Pixel-Perfect Depth's.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.sets import encodings
from benchmarks.sets.lists import Line, SplitList
from benchmarks.sets.store import Store
from fiffdepth_rt.space import Space
from training.data import rgbd
from training.data.samples import DataError, MetricPair, SampleError

MARIGOLD = "github.com/prs-eth/Marigold"
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Decoded = tuple[Pixels, Floats, Mask]
"""Photo; depth in metres of the photo's size; which pixels may count, before the range is asked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PpdRules:
    """What the protocol of Pixel-Perfect Depth does otherwise on this set.

    valid_m: truth must also lie strictly between these. steepest: pixels count where |Sobel in x| + |Sobel in
    y| of the truth is at most this (None: everywhere). size_hw: truth, mask and prediction are brought to
    this size first, by nearest neighbours (None: the truth's own).
    """

    valid_m: tuple[float, float]
    steepest: float | None = None
    size_hw: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How a set is scored.

    name: on the command line. title: in tables.
    clip_m: aligned predictions are clipped to this range (Marigold's protocol).
    processing_px: the longer side at which models see the photo; 0: the photo's own; None: the model's own
        default.
    ppd: what the protocol of Pixel-Perfect Depth does otherwise.
    fit_max_px: where the truth's longer side has more, the line is fitted to fewer columns, as if the
        longer side had so many: Marigold's alignment_max_res, whose torch.nn.Upsample of a 3-D tensor takes
        columns away and no rows. None: always to all.
    prediction_name: photo's path -> stem of the prediction's file, in Marigold's layout.
    """

    name: str
    title: str
    clip_m: tuple[float, float]
    processing_px: int | None
    ppd: PpdRules
    fit_max_px: int | None = None
    prediction_name: Callable[[str], str] = lambda path: f"pred_{Path(path).stem}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedSet(Rules):
    """One row: all that is known of a set without its files.

    folder, tar: in the folder of all data: `folder` extracted, or `tar` in `folder` as it was downloaded.
    valid_m: truth strictly between these is valid; None where a mask file alone decides.
    decode: (files, a line of the list) -> Decoded.
    """

    folder: str
    tar: str
    split: SplitList
    valid_m: tuple[float, float] | None
    decode: Callable[[Store, Line], Decoded]


class Frames(Protocol):
    """An opened set, to be pickled. expected: how many images the whole set has."""

    @property
    def rules(self) -> Rules: ...
    @property
    def expected(self) -> int: ...
    def __len__(self) -> int: ...
    def name(self, index: int) -> str:
        """The photo's path within the set, without opening anything."""

    def frame(self, index: int) -> MetricPair:
        """Raises SampleError for one that cannot be used."""


class ListedFrames:
    """The images of a row's list. Raises DataError: no such folder or list, a list of another length."""

    def __init__(self, row: ListedSet, root: Path, *, splits: Path | None, subset: bool) -> None:
        self.rules, self._row, self.expected = row, row, row.split.images
        folder = root / row.folder
        if not folder.is_dir():
            raise DataError(
                f"No {folder}: {row.title} lies there, extracted or as {row.tar} (docs/evaluate.md says what "
                "to download)."
            )
        folders = [splits] if splits is not None else [root / "data_split", folder, root]
        self._lines = row.split.read(row.split.find(folders), subset=subset)
        tar = folder / row.tar
        extracted = (folder / self._lines[0][0]).exists()
        self._store = Store(tar if tar.is_file() and not extracted else folder)

    def __len__(self) -> int:
        return len(self._lines)

    def name(self, index: int) -> str:
        return self._lines[index][0]

    def frame(self, index: int) -> MetricPair:
        line = self._lines[index]
        photo, depth_m, mask = self._row.decode(self._store, line)
        if photo.shape[:2] != depth_m.shape or mask.shape != depth_m.shape:
            sizes = " and ".join(f"{h}×{w}" for h, w in (photo.shape[:2], depth_m.shape))
            raise SampleError(line[0], f"photo and truth are of different sizes, {sizes}")
        finite = np.isfinite(depth_m) & (depth_m > 0)
        if self._row.valid_m is not None:
            near, far = self._row.valid_m
            mask = mask & (depth_m > near) & (depth_m < far)
        return MetricPair(
            photo=photo,
            depth_m=np.where(finite, depth_m, np.float32(0)),
            valid=mask & finite,
            farthest_m=self._row.clip_m[1],
            name=line[0],
            group=line[0].split("/")[0],
        )


class FolderFrames:
    """Pairs NAME_rgb.jpg (or .png), NAME_depth_mm.png of a folder. Raises DataError where there are none."""

    def __init__(self, folder: Path) -> None:
        self.rules = FOLDER
        self._names = [name for name, _, _ in rgbd.photos_beside(folder, rgbd.DEPTH_SUFFIX)]
        self._pairs = rgbd.RgbdFolder(folder, space=Space.DEPTH)
        self.expected = len(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def frame(self, index: int) -> MetricPair:
        return self._pairs.metric(index)


def _millimetres(photo: str, depth: str, store: Store, crop: Callable[[tuple[int, int]], Mask]) -> Decoded:
    depth_m = encodings.png16(store.read(depth), name=depth).astype(np.float32) / np.float32(1000)
    return encodings.photo(store.read(photo), name=photo), depth_m, crop(depth_m.shape)


def _everywhere(hw: tuple[int, int]) -> Mask:
    return np.ones(hw, bool)


def _inside(hw: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> Mask:
    mask = np.zeros(hw, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def nyu_eigen_crop(hw: tuple[int, int]) -> Mask:
    """Rows 45 … 470 and columns 41 … 600 of 480×640 (Eigen et al.; nyu_dataset.py)."""
    return _inside(hw, (45, 471), (41, 601))


def kitti_eigen_crop(hw: tuple[int, int]) -> Mask:
    """Rows 117 … 320 and columns 43 … 1171 of 352×1216 (Eigen et al.; kitti_dataset.py, "eigen")."""
    h, w = hw
    rows = int(0.3324324 * h), int(0.91351351 * h)
    return _inside(hw, rows, (int(0.0359477 * w), int(0.96405229 * w)))


def kitti_benchmark_crop(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """H×W[×3] -> the lower, middle 352×1216 (kitti_dataset.py, kitti_benchmark_crop)."""
    top, left = pixels.shape[0] - 352, int((pixels.shape[1] - 1216) / 2)
    return np.ascontiguousarray(pixels[top : top + 352, left : left + 1216])


def _nyuv2(store: Store, line: Line) -> Decoded:
    return _millimetres(line[0], line[1], store, nyu_eigen_crop)  # raw depth; line[2] is filled


def _scannet(store: Store, line: Line) -> Decoded:
    return _millimetres(line[0], line[1], store, _everywhere)


def _kitti(store: Store, line: Line) -> Decoded:
    photo = encodings.photo(store.read(line[0]), name=line[0])
    depth = encodings.png16(store.read(line[1]), name=line[1])
    for pixels, name in ((photo, line[0]), (depth, line[1])):
        if pixels.shape[0] < 352 or pixels.shape[1] < 1216:
            size = "×".join(map(str, pixels.shape[:2]))
            raise SampleError(name, f"{size} is smaller than KITTI's benchmark crop, 352×1216")
    depth_m = kitti_benchmark_crop(depth).astype(np.float32) / np.float32(256)
    return kitti_benchmark_crop(photo).astype(np.uint8), depth_m, kitti_eigen_crop(depth_m.shape)


def _eth3d(store: Store, line: Line) -> Decoded:
    photo = encodings.photo(store.read(line[0]), name=line[0])
    depth_m = encodings.raw_floats(store.read(line[1]), photo.shape[:2], name=line[1])
    return photo, depth_m, _everywhere(depth_m.shape)


def _diode(store: Store, line: Line) -> Decoded:
    if len(line) < 3:
        raise SampleError(line[0], "its line names no mask: photo, depth, mask")
    photo = encodings.photo(store.read(line[0]), name=line[0])
    depth_m = encodings.npy(store.read(line[1]), name=line[1]).astype(np.float32)
    return photo, depth_m, encodings.npy(store.read(line[2]), name=line[2]).astype(bool)


def _listed(name: str, old: str, *, lines: int, images: int, fields: str) -> SplitList:
    return SplitList(names=(name, old), lines=lines, images=images, fields=fields, source=MARIGOLD)


SETS = (
    ListedSet(
        name="nyuv2",
        title="NYUv2",
        folder="nyuv2",
        tar="nyu_labeled_extracted.tar",
        split=_listed(
            "nyu_depth/labeled/filename_list_test.txt",
            "nyu/labeled/filename_list_test.txt",
            lines=654,
            images=654,
            fields="photo, depth, filled depth",
        ),
        valid_m=(1e-3, 10.0),
        clip_m=(1e-3, 10.0),
        processing_px=0,
        decode=_nyuv2,
        ppd=PpdRules(valid_m=(0.1, 10.0)),
        prediction_name=lambda path: f"pred_{Path(path).stem.split('_')[1]}",  # rgb_0001 -> pred_0001
    ),
    ListedSet(
        name="kitti",
        title="KITTI",
        folder="kitti",
        tar="kitti_eigen_split_test.tar",
        split=_listed(
            "kitti_depth/eigen_test_files_with_gt.txt",
            "kitti/eigen_test_files_with_gt.txt",
            lines=697,
            images=652,
            fields="photo, depth, focal length",
        ),
        valid_m=(1e-5, 80.0),
        clip_m=(1e-5, 80.0),
        processing_px=0,
        decode=_kitti,
        ppd=PpdRules(valid_m=(0.1, 80.0)),
    ),
    ListedSet(
        name="eth3d",
        title="ETH3D",
        folder="eth3d",
        tar="eth3d.tar",
        split=_listed(
            "eth3d_depth/eth3d_filename_list.txt",
            "eth3d/eth3d_filename_list.txt",
            lines=454,
            images=454,
            fields="photo, depth",
        ),
        valid_m=(1e-5, float("inf")),
        clip_m=(1e-5, float("inf")),
        processing_px=756,
        decode=_eth3d,
        ppd=PpdRules(valid_m=(0.01, float("inf")), size_hw=(1360, 2048)),
        fit_max_px=1024,
    ),
    ListedSet(
        name="scannet",
        title="ScanNet",
        folder="scannet",
        tar="scannet_val_sampled_800_1.tar",
        split=_listed(
            "scannet_depth/scannet_val_sampled_list_800_1.txt",
            "scannet/scannet_val_sampled_list_800_1.txt",
            lines=800,
            images=800,
            fields="photo, depth",
        ),
        valid_m=(1e-3, 10.0),
        clip_m=(1e-3, 10.0),
        processing_px=0,
        decode=_scannet,
        ppd=PpdRules(valid_m=(0.01, 10.0)),
    ),
    ListedSet(
        name="diode",
        title="DIODE",
        folder="diode",
        tar="diode_val.tar",
        split=_listed(
            "diode_depth/diode_val_all_filename_list.txt",
            "diode/diode_val_all_filename_list.txt",
            lines=771,
            images=771,
            fields="photo, depth, mask",
        ),
        valid_m=None,
        clip_m=(0.6, 350.0),
        processing_px=640,
        decode=_diode,
        ppd=PpdRules(valid_m=(0.6, 350.0), steepest=0.3),
    ),
)

FOLDER = Rules(
    name="folder",
    title="folder",
    clip_m=(rgbd.NEAREST_M, rgbd.FARTHEST_M),
    processing_px=None,
    ppd=PpdRules(valid_m=(rgbd.NEAREST_M, rgbd.FARTHEST_M)),
    prediction_name=lambda name: name,
)


def row_of(name: str) -> ListedSet:
    """Raises DataError for a name that is not in the table."""
    names = [row.name for row in SETS]
    for row in SETS:
        if row.name == name:
            return row
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    raise DataError(
        f'There is no dataset "{name}": say {", ".join(names)}, folder:DIR or scenes:N. '
        f'Did you mean "{near}"?'
    )

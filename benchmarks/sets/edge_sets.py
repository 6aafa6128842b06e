"""Sets with depth whose edges are scored: Table 2's Sintel, Spring and iBims-1.

Sources: MPI Sintel's depth training data (sdk/python/sintel_io.py); Spring (Mehl et al., CVPR 2023) and its
reader flow_IO, baseline 0.065 m; iBims-1 (Koch et al., ECCVW 2018), ibims1_core_raw. Depth Pro says neither
which frames nor which size it took: here every frame at its own size. Sintel's 1,064 frames with truth:
Ranftl et al., MiDaS (TPAMI 2020), section on test data. Spring's count is UNVERIFIED.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.sets import encodings
from benchmarks.sets.depth_sets import PpdRules, Rules
from training.data.samples import DataError, MetricPair, SampleError

SPRING_BASELINE_M = 0.065
IBIMS_FACTOR = 50 / 65535
"""Metres per unit of a depth PNG of ibims1_core_raw."""

Named = tuple[str, ...]
"""Name, photo, truth and whatever else belongs to a frame; paths within the set's folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeSet(Rules):
    """One row. find: the set's folder -> its frames; expected: how many there are.

    decode: (folder, frame) -> photo uint8 H×W×3, depth in metres, where it is known.
    """

    folder: str
    expected: int
    find: Callable[[Path], list[Named]]
    decode: Callable[[Path, Named], tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]]


class EdgeFrames:
    """An opened set, to be pickled. Raises DataError: no such folder, another layout, other frames."""

    def __init__(self, row: EdgeSet, root: Path, *, subset: bool) -> None:
        self.rules, self._row, self.expected = row, row, row.expected
        self._folder = root / row.folder
        if not self._folder.is_dir():
            raise DataError(
                f"No {self._folder}: {row.title} lies there (docs/evaluate.md says what to download)."
            )
        self._named = row.find(self._folder)
        if not self._named:
            raise DataError(f"{self._folder} holds no frame of {row.title}: is it the right dataset?")
        count = len(self._named)
        if count != row.expected and not subset:
            raise DataError(
                f"{self._folder} holds {count} frames of {row.title}, and there are {row.expected}: unpack "
                "it again, or say --subset for a result that says how many images it stands for."
            )

    def __len__(self) -> int:
        return len(self._named)

    def name(self, index: int) -> str:
        return self._named[index][0]

    def frame(self, index: int) -> MetricPair:
        named = self._named[index]
        photo, depth_m, known = self._row.decode(self._folder, named)
        if photo.shape[:2] != depth_m.shape or known.shape != depth_m.shape:
            sizes = " and ".join(f"{h}×{w}" for h, w in (photo.shape[:2], depth_m.shape))
            raise SampleError(named[0], f"photo and truth are of different sizes, {sizes}")
        known = known & np.isfinite(depth_m) & (depth_m > 0)
        return MetricPair(
            photo=photo,
            depth_m=np.where(known, depth_m, np.float32(0)).astype(np.float32),
            valid=known,
            farthest_m=self._row.clip_m[1],
            name=named[0],
            group=named[0].split("/")[0],
        )


def _read(folder: Path, path: str, name: str) -> bytes:
    try:
        return (folder / path).read_bytes()
    except OSError as error:
        raise SampleError(name, f"{path} cannot be read ({error.strerror})") from error


def _list_sintel(folder: Path) -> list[Named]:
    photos = sorted((folder / "training" / "final").glob("*/frame_*.png"))
    names = [f"{photo.parent.name}/{photo.stem}" for photo in photos]
    return [(name, f"training/final/{name}.png", f"training/depth/{name}.dpt") for name in names]


def _decode_sintel(
    folder: Path, named: Named
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    name, photo, truth = named
    depth_m = encodings.dpt(_read(folder, truth, name), name=name)
    return encodings.photo(_read(folder, photo, name), name=name), depth_m, np.ones(depth_m.shape, bool)


def _list_spring(folder: Path) -> list[Named]:
    found: list[Named] = []
    for photo in sorted((folder / "train").glob("*/frame_left/frame_left_*.png")):
        scene, number = photo.parent.parent.name, photo.stem.rsplit("_", 1)[1]
        truth = f"train/{scene}/disp1_left/disp1_left_{number}.dsp5"
        camera = f"train/{scene}/cam_data/intrinsics.txt"
        found.append((f"{scene}/{photo.stem}", photo.relative_to(folder).as_posix(), truth, camera, number))
    return found


def _decode_spring(
    folder: Path, named: Named
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    name, photo, truth, camera, number = named
    disparity = encodings.dsp5(_read(folder, truth, name), name=name)
    rows = _read(folder, camera, name).decode("ascii", "replace").split("\n")
    try:
        focal_px = float(rows[int(number) - 1].split()[0])
    except (IndexError, ValueError) as error:
        raise SampleError(name, f"{camera} has no line {number} of fx fy cx cy") from error
    known = np.isfinite(disparity) & (disparity > 0)  # a sky has none
    depth_m = focal_px * SPRING_BASELINE_M / np.where(known, disparity, np.float32(1))
    return encodings.photo(_read(folder, photo, name), name=name), depth_m.astype(np.float32), known


def _list_ibims(folder: Path) -> list[Named]:
    try:
        text = (folder / "imagelist.txt").read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"No imagelist.txt in {folder}: it is part of ibims1_core_raw and has 100 lines."
        ) from error
    names = [Path(line.strip()).stem for line in text.splitlines() if line.strip()]
    parts = ("rgb", "depth", "mask_invalid", "mask_transp")
    return [(name, *(f"{part}/{name}.png" for part in parts)) for name in names]


def _decode_ibims(
    folder: Path, named: Named
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    name, photo, truth, *masks = named
    raw = encodings.png16(_read(folder, truth, name), name=name)
    known = np.ones(raw.shape, bool)
    for mask in masks:
        usable = encodings.grey(_read(folder, mask, name), name=name) > 0
        if usable.shape != raw.shape:
            raise SampleError(name, f"{mask} is of another size than the depth")
        known &= usable
    depth_m = (raw.astype(np.float64) * IBIMS_FACTOR).astype(np.float32)
    return encodings.photo(_read(folder, photo, name), name=name), depth_m, known


_BEYOND = float("inf")
SETS = (
    EdgeSet(
        name="sintel",
        title="Sintel",
        folder="sintel",
        expected=1064,
        find=_list_sintel,
        decode=_decode_sintel,
        clip_m=(1e-3, 70.0),  # Video-Depth-Anything's farthest for Sintel, benchmark/eval/eval.py
        processing_px=None,
        ppd=PpdRules(valid_m=(1e-3, 70.0)),
        prediction_name=lambda name: Path(name).name,
    ),
    EdgeSet(
        name="spring",
        title="Spring",
        folder="spring",
        expected=5000,
        find=_list_spring,
        decode=_decode_spring,
        clip_m=(1e-3, _BEYOND),
        processing_px=None,
        ppd=PpdRules(valid_m=(1e-3, _BEYOND)),
        prediction_name=lambda name: Path(name).name,
    ),
    EdgeSet(
        name="ibims",
        title="iBims",
        folder="ibims1/ibims1_core_raw",
        expected=100,
        find=_list_ibims,
        decode=_decode_ibims,
        clip_m=(1e-3, 50.0),
        processing_px=None,
        ppd=PpdRules(valid_m=(1e-3, 50.0)),
        prediction_name=lambda name: name,
    ),
)

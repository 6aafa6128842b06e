"""Posed RGB-D video in three layouts: 7-Scenes, ScanNet (as its SensReader exports it), TUM RGB-D.

    7scenes:DIR    DIR/frame-000000.color.png, .depth.png (mm, 65535 = none), .pose.txt (camera to world)
    scannet:DIR    DIR/color/0.jpg, depth/0.png (mm), pose/0.txt, intrinsic/intrinsic_depth.txt
    tum:DIR        DIR/rgb.txt, depth.txt, groundtruth.txt and what they list (depth: 1/5000 m)

Sources: Shotton et al. (CVPR 2013) and the data set's page (focal length 585 px, principal point 320, 240);
ScanNet/ScanNet, SensReader; Sturm et al. (IROS 2012) and the data set's page "file formats" (factor 5000; for
registered depth the ROS default intrinsics 525, 525, 319.5, 239.5; associate.py: at most 0.02 s apart).
ScanNet's border of 8 rows and 11 columns has no truth (Video-Depth-Anything, benchmark/eval/eval_tae.py).
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.sets import encodings
from training.data.samples import DataError, SampleError

Array = NDArray[np.float64]
Camera = tuple[float, float, float, float]
"""fx, fy, cx, cy in px."""

SEVEN_SCENES: Camera = (585.0, 585.0, 320.0, 240.0)
TUM: Camera = (525.0, 525.0, 319.5, 239.5)
TUM_UNITS_PER_M = 5000
TUM_APART_S = 0.02
NO_READING = 65535
SCANNET_BORDER = (8, 11)
"""Rows, columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """N frames of one scene. Camera coordinates: x right, y down, z forward, metres.

    names: of the photos, as paths within the clip. photos: N of H×W×3 RGB. depth_m: N×h×w along the optical
    axis, 0 = no reading. pose: N×4×4, camera -> world.
    intrinsics: 3×3, px of the depth.
    """

    names: tuple[str, ...]
    photos: list[NDArray[np.uint8]]
    depth_m: NDArray[np.float32]
    pose: Array
    intrinsics: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Frame:
    photo: Path
    depth: Path
    pose: Array


def open_clip(word: str, *, frames: int, camera: Camera | None = None) -> Clip:
    """A word of the table above -> its first `frames` frames that have a pose.

    camera: instead of the layout's own. Raises DataError: no such layout, no frames, files that are damaged.
    """
    layout, _, rest = word.partition(":")
    readers: dict[str, Callable[[Path, Camera | None], tuple[list[_Frame], Camera, float]]] = {
        "7scenes": _seven_scenes,
        "scannet": _scannet,
        "tum": _tum,
    }
    if layout not in readers or not rest:
        raise DataError(f'"{word}" is no video: say {", ".join(f"{name}:DIR" for name in readers)}.')
    folder = Path(rest).expanduser()
    found, own, units = readers[layout](folder, camera)
    if len(found) < 2:
        raise DataError(f"{folder} holds {len(found)} frames with pose and depth in the layout {layout}.")
    found = found[:frames]
    try:
        photos = [_photo(one.photo) for one in tqdm(found, desc=layout, unit="frame")]
        depth = np.stack([_depth(one.depth, units) for one in found])
    except (SampleError, ValueError) as error:  # ValueError: depths of several sizes
        raise DataError(f"{folder}: {error}") from error
    if layout == "scannet":
        rows, columns = SCANNET_BORDER
        inside = np.zeros(depth.shape[1:], bool)
        inside[rows:-rows, columns:-columns] = True
        depth[:, ~inside] = 0
    fx, fy, cx, cy = camera or own
    return Clip(
        names=tuple(one.photo.relative_to(folder).as_posix() for one in found),
        photos=photos,
        depth_m=depth,
        pose=np.stack([one.pose for one in found]),
        intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
    )


def _seven_scenes(folder: Path, camera: Camera | None) -> tuple[list[_Frame], Camera, float]:
    found = []
    for photo in sorted(folder.glob("frame-*.color.png")):
        stem = photo.name.removesuffix(".color.png")
        pose = _matrix(folder / f"{stem}.pose.txt")
        if pose is not None:
            found.append(_Frame(photo=photo, depth=folder / f"{stem}.depth.png", pose=pose))
    return found, SEVEN_SCENES, 1000


def _scannet(folder: Path, camera: Camera | None) -> tuple[list[_Frame], Camera, float]:
    found = []
    for photo in sorted((folder / "color").glob("*.jpg"), key=lambda path: int(path.stem)):
        pose = _matrix(folder / "pose" / f"{photo.stem}.txt")
        if pose is not None:
            found.append(_Frame(photo=photo, depth=folder / "depth" / f"{photo.stem}.png", pose=pose))
    own = _matrix(folder / "intrinsic" / "intrinsic_depth.txt") if camera is None else np.eye(4)
    if own is None:
        raise DataError(f"No intrinsic/intrinsic_depth.txt in {folder}: export it, or say --camera.")
    return found, (own[0, 0], own[1, 1], own[0, 2], own[1, 2]), 1000


def _tum(folder: Path, camera: Camera | None) -> tuple[list[_Frame], Camera, float]:
    photos, depths, poses = (_table(folder / name) for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))
    found = []
    for stamp, fields in photos:
        depth, pose = _nearest(depths, stamp), _nearest(poses, stamp)
        if depth is not None and pose is not None:
            found.append(
                _Frame(photo=folder / fields[0], depth=folder / depth[0], pose=_from_quaternion(pose))
            )
    return found, TUM, TUM_UNITS_PER_M


def _photo(path: Path) -> NDArray[np.uint8]:
    try:
        return encodings.photo(path.read_bytes(), name=path.name)
    except OSError as error:
        raise SampleError(path.name, f"cannot be read ({error.strerror})") from error


def _depth(path: Path, units_per_m: float) -> NDArray[np.float32]:
    try:
        units = encodings.png16(path.read_bytes(), name=path.name)
    except OSError as error:
        raise SampleError(path.name, f"cannot be read ({error.strerror})") from error
    return np.where(units == NO_READING, 0, units).astype(np.float32) / np.float32(units_per_m)


def _matrix(path: Path) -> Array | None:
    """4×4 of a text file; None where there is none, or it is not finite (a frame that was not tracked)."""
    try:
        matrix = np.loadtxt(path, dtype=np.float64)
    except (OSError, ValueError):
        return None
    return matrix if matrix.shape == (4, 4) and np.isfinite(matrix).all() else None


def _table(path: Path) -> list[tuple[float, list[str]]]:
    """Lines "time field…" of a TUM file, by time. Raises DataError."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        return sorted((float(line[0]), line[1:]) for line in lines if len(line) > 1 and line[0] != "#")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no list of times as TUM RGB-D has it ({error}).") from error


def _nearest(lines: list[tuple[float, list[str]]], stamp: float) -> list[str] | None:
    """The fields whose time is nearest; None where that is more than TUM_APART_S away."""
    place = bisect.bisect(lines, stamp, key=lambda line: line[0])
    near = [(abs(lines[i][0] - stamp), lines[i][1]) for i in (place - 1, place) if 0 <= i < len(lines)]
    best = min(near, key=lambda one: one[0], default=None)
    return best[1] if best is not None and best[0] <= TUM_APART_S else None


def _from_quaternion(fields: list[str]) -> Array:
    """tx ty tz qx qy qz qw -> 4×4, camera to world."""
    tx, ty, tz, x, y, z, w = (float(field) for field in fields)
    x, y, z, w = np.array([x, y, z, w]) / np.sqrt(x * x + y * y + z * z + w * w)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = tx, ty, tz
    return pose

"""Sets with mattes: Table 2's three, by their folders, and any folder of pairs NAME_rgb, NAME_matte.png.

Sources of the layouts: JizhiziLi/GFM, core/config.py (AM-2k); JizhiziLi/P3M, README (P3M-10k); xuebinqin/DIS
(DIS5K), of which apple/ml-depth-pro, src/depth_pro/eval/dis5k_sample_list.txt names 200 images. Depth Pro
does not say which images of the other two it took: here it is their validation images. That AM-2k has 200 of
them is what others count who score on it; its own page gives no number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.sets import encodings
from benchmarks.sets.lists import SplitList
from training.data.rgbd import photos_beside
from training.data.samples import DataError, SampleError

FOREGROUND_ALPHA = 0.1
"""Of 1; what has more belongs to the foreground (Depth Pro, eval/boundary_metrics.py)."""
DIS5K_LIST = SplitList(
    names=("dis5k_sample_list.txt",),
    lines=200,
    images=200,
    fields="photo",
    source="github.com/apple/ml-depth-pro, src/depth_pro/eval/",
)

Pair = tuple[str, Path, Path]
"""Name, photo, matte."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matte:
    """photo: uint8 H×W×3 RGB. foreground: bool H×W. name: unique in its set. group: of the set's subset."""

    name: str
    group: str
    photo: NDArray[np.uint8]
    foreground: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatteSet:
    """One row. pairs: (the set's folder, the folder of lists, whether another number of images will do) ->
    its pairs; expected: how many there are."""

    name: str
    title: str
    folder: str
    expected: int
    pairs: Callable[[Path, Path, bool], list[Pair]]


class MatteFrames:
    """An opened set of mattes, to be pickled. Raises DataError as its `pairs` does."""

    def __init__(self, name: str, pairs: list[Pair], expected: int) -> None:
        self.set_name, self._pairs, self.expected = name, pairs, expected

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        return self._pairs[index][0]

    def frame(self, index: int) -> Matte:
        """Raises SampleError for files that are missing, damaged, or of two sizes."""
        name, photo_path, matte_path = self._pairs[index]
        photo = encodings.photo(_bytes(photo_path, name), name=name)
        alpha = encodings.grey(_bytes(matte_path, name), name=name)
        if photo.shape[:2] != alpha.shape:
            sizes = " and ".join(f"{h}×{w}" for h, w in (photo.shape[:2], alpha.shape))
            raise SampleError(name, f"photo and matte are of different sizes, {sizes}")
        foreground = alpha > FOREGROUND_ALPHA * 255
        if foreground.all() or not foreground.any():
            raise SampleError(name, "the matte is all foreground or all background: it has no outline")
        return Matte(name=name, group=name.split("/")[0], photo=photo, foreground=foreground)


def beside(folder: Path) -> MatteFrames:
    """NAME_rgb.jpg (or .png) with NAME_matte.png. Raises DataError where there are none."""
    pairs = photos_beside(folder, "_matte.png")
    return MatteFrames("mattes", pairs, len(pairs))


def open_mattes(row: MatteSet, root: Path, *, splits: Path | None, subset: bool) -> MatteFrames:
    """Raises DataError: no such folder, other files than the set's, another number of images."""
    folder = root / row.folder
    if not folder.is_dir():
        raise DataError(f"No {folder}: {row.title} lies there (docs/evaluate.md says what to download).")
    pairs = row.pairs(folder, splits if splits is not None else root / "data_split", subset)
    if len(pairs) != row.expected and not subset:
        raise DataError(
            f"{folder} holds {len(pairs)} images of {row.title}, and there are {row.expected}: unpack it "
            "again, or say --subset for a result that says how many images it stands for."
        )
    return MatteFrames(row.name, pairs, row.expected)


def _bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SampleError(name, f"{path.name} cannot be read ({error.strerror})") from error


def _folders(*places: tuple[str, str]) -> Callable[[Path, Path, bool], list[Pair]]:
    """Pairs of a folder of photos and one of PNG mattes of the same stems, within the set's folder."""

    def pairs(folder: Path, lists: Path, subset: bool) -> list[Pair]:
        found: list[Pair] = []
        for photos, masks in places:
            for photo in sorted((folder / photos).glob("*")):
                name = photo.relative_to(folder).as_posix()
                found.append((name, photo, folder / masks / f"{photo.stem}.png"))
        if not found:
            wanted = " or ".join(photos for photos, _ in places)
            raise DataError(f"{folder} holds no photos in {wanted}: is it the right dataset?")
        return found

    return pairs


def _dis5k(folder: Path, lists: Path, subset: bool) -> list[Pair]:
    path = DIS5K_LIST.find([lists, folder])
    names = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(names) != DIS5K_LIST.lines and not subset:
        raise DataError(
            f"{path} has {len(names)} lines, and {DIS5K_LIST.source}'s has {DIS5K_LIST.lines}: copy it "
            "again, or say --subset for a result that says how many images it stands for."
        )
    found = []
    for name in (line.strip().removeprefix("DIS5K/") for line in names):  # names hold blanks
        photo = folder / name
        found.append((name, photo, photo.parent.parent / "gt" / f"{photo.stem}.png"))
    return found


SETS = (
    MatteSet(
        name="am2k",
        title="AM-2k",
        folder="am2k",
        expected=200,
        pairs=_folders(("validation/original", "validation/mask")),
    ),
    MatteSet(
        name="p3m10k",
        title="P3M-10k",
        folder="p3m10k",
        expected=1000,
        pairs=_folders(
            ("validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask"),
            ("validation/P3M-500-NP/original_image", "validation/P3M-500-NP/mask"),
        ),
    ),
    MatteSet(name="dis5k", title="DIS-5k", folder="dis5k", expected=200, pairs=_dis5k),
)

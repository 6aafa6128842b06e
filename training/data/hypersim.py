"""Hypersim, rooms of 1024×768, as `python -m training.data prepare hypersim RAW OUT` leaves it.

    OUT/
      dataset.json                              licence, source, how it was made
      train/  val/  test/
        filename_list_train.txt                 the frames to use, "rgb depth" per line (Marigold's form)
        filename_meta_train.csv                 every frame: statistics, and why it is not in the list
        ai_001_001/rgb_cam_00_fr0000.png        8-bit RGB, tone mapped
        ai_001_001/depth_plane_cam_00_fr0000.png   16-bit, millimetres along the optical axis; 0 = invalid,
                                                65535 = 65.535 m or more

Licence: CC BY-SA 3.0. A folder made by Marigold's own script reads the same (its pixels beyond 65.535 m are
wrapped around to small depths; nothing can tell them from real ones any more).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from fiffdepth_rt.space import Space
from training.data import reading
from training.data.normalise import to_pair
from training.data.samples import DataError, MetricPair, Pair, SampleError

LICENCE = "CC BY-SA 3.0"
SOURCE = "Hypersim (apple/ml-hypersim)"
SIZE_HW = (480, 640)
"""What Marigold, and hence the paper, trains at."""
NEAREST_M, FARTHEST_M = 1e-5, 65.0
"""Valid depths lie strictly between these; 65.535 m, where the PNG ends, is therefore invalid."""

Split = Literal["train", "val", "test"]


class Hypersim:
    """Prepared frames of one split -> Pair, in a fixed order.

    frames: another list of frames, such as Marigold's filename_list_train_filtered.txt; None: the own one.
    Raises DataError if the folder or the list cannot be used.
    """

    name = "hypersim"
    licence = LICENCE

    def __init__(
        self, folder: str | Path, *, space: Space, split: Split = "train", frames: str | Path | None = None
    ) -> None:
        self._folder = Path(folder) / split
        self.space = space
        self._frames = _read_list(Path(frames) if frames else self._folder / f"filename_list_{split}.txt")

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Pair:
        return to_pair(self.metric(index), space=self.space)

    def metric(self, index: int) -> MetricPair:
        """Depth in metres; valid: NEAREST_M < depth_m < FARTHEST_M. Raises SampleError."""
        rgb, depth = self._frames[index]
        photo = reading.photo(self._folder / rgb, name=rgb)
        depth_m = reading.png16(self._folder / depth, name=rgb).astype(np.float32) / np.float32(1000)
        if depth_m.shape != photo.shape[:2]:
            raise SampleError(rgb, f"photo of {photo.shape[:2]}, depth of {depth_m.shape} pixels")
        valid = (depth_m > NEAREST_M) & (depth_m < FARTHEST_M)
        return MetricPair(photo=photo, depth_m=depth_m, valid=valid, farthest_m=FARTHEST_M, name=rgb)


def _read_list(path: Path) -> list[tuple[str, str]]:
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): prepare the folder with `python -m training.data prepare "
            "hypersim RAW OUT`, or name a list of frames."
        ) from error
    if not lines:
        raise DataError(f"{path} lists no frames: prepare more scenes, or name another list.")
    for number, words in enumerate(lines, 1):
        if len(words) != 2 or any(Path(word).is_absolute() or ".." in Path(word).parts for word in words):
            raise DataError(
                f'{path}, line {number}: not "rgb depth", two paths inside of the split\'s folder.'
            )
    return [(rgb, depth) for rgb, depth in lines]

"""A folder of photos with depth beside them, in metres: what an RGB-D camera leaves, or any exact truth.

    FOLDER/
      hall_1_rgb.jpg (or .png)      the photo NAME; "hall", before its last "_", is its group
      hall_1_depth_mm.png           16-bit grey, millimetres along the optical axis; 0 = no reading

To score on (benchmarks.accuracy, validation.set), so all of it is the split "test".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.space import Space
from training.data import reading
from training.data.normalise import to_pair
from training.data.samples import DataError, MetricPair, Pair

NEAREST_M, FARTHEST_M = 1e-3, 10.0
"""Valid depths lie strictly between these: beyond, RGB-D cameras guess."""
DEPTH_SUFFIX = "_depth_mm.png"


class RgbdFolder:
    """The pairs of a folder -> Pair, by name. Raises DataError where there is none, or one has no photo."""

    name = "rgbd"
    licence = "as the frames' owners say; not recorded"

    def __init__(self, folder: str | Path, *, space: Space) -> None:
        self.space = space
        self._pairs = photos_beside(Path(folder), DEPTH_SUFFIX)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return to_pair(self.metric(index), space=self.space)

    def metric(self, index: int) -> MetricPair:
        """Depth in metres; valid: NEAREST_M < depth_m < FARTHEST_M. Raises SampleError."""
        name, photo, truth = self._pairs[index]
        depth_m = read_millimetres(truth)
        return MetricPair(
            photo=reading.photo(photo, name=name),
            depth_m=depth_m,
            valid=(depth_m > NEAREST_M) & (depth_m < FARTHEST_M),
            farthest_m=FARTHEST_M,
            name=name,
            group=name.rsplit("_", 1)[0],
        )


def read_millimetres(path: Path) -> NDArray[np.float32]:
    """16-bit millimetres -> float32 H×W metres, 0 = no reading. Raises SampleError for anything else."""
    return reading.png16(path, name=path.name).astype(np.float32) / np.float32(1000)


def photos_beside(folder: Path, suffix: str) -> list[tuple[str, Path, Path]]:
    """(NAME, NAME_rgb.jpg or .png, NAME`suffix`), by name.

    Raises DataError where the folder holds no NAME`suffix`, or one of them has no photo.
    """
    truths = sorted(folder.glob(f"*{suffix}"))
    if not truths:
        raise DataError(f"No NAME{suffix} in {folder}: name a folder of NAME_rgb.jpg and NAME{suffix}.")
    found = []
    for truth in truths:
        name = truth.name.removesuffix(suffix)
        photo = next((p for ext in ("jpg", "png") if (p := folder / f"{name}_rgb.{ext}").exists()), None)
        if photo is None:
            raise DataError(f"No {name}_rgb.jpg or .png beside {truth}: every truth needs its photo.")
        found.append((name, photo, truth))
    return found

"""Virtual KITTI 2.0.3, as published: streets, 375×1242, read without preparation.

    ROOT/
      vkitti_2.0.3_rgb/Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
      vkitti_2.0.3_depth/Scene01/clone/frames/depth/Camera_0/depth_00000.png     16-bit, centimetres

The two may also be called rgb/ and depth/, or both archives may lie unpacked in ROOT itself.
Licence: CC BY-NC-SA 3.0: what is trained on it is not for commercial use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fiffdepth_rt.space import Space
from training.data import reading
from training.data.normalise import to_pair
from training.data.samples import DataError, MetricPair, Pair, SampleError

LICENCE = "CC BY-NC-SA 3.0"
SOURCE = "Virtual KITTI 2.0.3 (Naver Labs Europe)"
SIZE_HW = (352, 1216)
"""KITTI's benchmark crop: the bottom rows, the middle columns."""
NEAREST_M, FARTHEST_M = 1e-5, 80.0
"""Valid depths lie strictly between these: the sky (655.35 m) and what is far are not learnt from here."""

SCENES = {"train": ("Scene02", "Scene06", "Scene18", "Scene20"), "val": ("Scene01",)}
VARIATIONS = ("clone", "morning", "overcast", "sunset", "15-deg-left", "15-deg-right")
"""Marigold's choice: 20,148 frames for training, 5,364 for validation. Left out: fog, rain, 30-deg-*."""
CAMERAS = (0, 1)


class VirtualKitti:
    """Frames of a split -> Pair of SIZE_HW, in a fixed order.

    scenes, variations, cameras: other than the split's. Raises DataError if one of them is not there, or for
    another split than those of SCENES.
    """

    name = "vkitti"
    licence = LICENCE

    def __init__(
        self,
        root: str | Path,
        *,
        space: Space,
        split: Literal["train", "val"] = "train",
        scenes: Sequence[str] | None = None,
        variations: Sequence[str] = VARIATIONS,
        cameras: Sequence[int] = CAMERAS,
    ) -> None:
        if scenes is None and split not in SCENES:
            raise DataError(f'Virtual KITTI has no split "{split}": say {" or ".join(SCENES)}.')
        self._photos = _part(Path(root), "rgb")
        self._depths = _part(Path(root), "depth")
        self.space = space
        self._frames = [
            frame
            for scene in (SCENES[split] if scenes is None else scenes)
            for variation in variations
            for camera in cameras
            for frame in _frames(self._photos, f"{scene}/{variation}", camera)
        ]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Pair:
        return to_pair(self.metric(index), space=self.space)

    def metric(self, index: int) -> MetricPair:
        """Depth in metres, cropped; valid: NEAREST_M < depth_m < FARTHEST_M. Raises SampleError."""
        place, camera, number = self._frames[index]
        name = f"{place}/Camera_{camera}/{number}"
        photo = self._photos / place / f"frames/rgb/Camera_{camera}/rgb_{number}.jpg"
        depth = self._depths / place / f"frames/depth/Camera_{camera}/depth_{number}.png"
        pixels = reading.photo(photo, name=name)
        depth_m = reading.png16(depth, name=name).astype(np.float32) / np.float32(100)
        height, width = depth_m.shape
        if pixels.shape[:2] != (height, width) or height < SIZE_HW[0] or width < SIZE_HW[1]:
            raise SampleError(name, f"photo of {pixels.shape[:2]}, depth of {depth_m.shape} pixels")
        top, left = height - SIZE_HW[0], (width - SIZE_HW[1]) // 2
        rows, columns = slice(top, None), slice(left, left + SIZE_HW[1])
        depth_m = depth_m[rows, columns]
        valid = (depth_m > NEAREST_M) & (depth_m < FARTHEST_M)
        return MetricPair(
            photo=pixels[rows, columns], depth_m=depth_m, valid=valid, farthest_m=FARTHEST_M, name=name
        )


def _part(root: Path, kind: str) -> Path:
    for folder in (root / f"vkitti_2.0.3_{kind}", root / kind, root):
        if any(folder.glob(f"Scene*/*/frames/{kind}")):
            return folder
    raise DataError(
        f"{root} holds no {kind} pictures of Virtual KITTI 2 ({kind}/Scene01/clone/frames/{kind}/...): "
        f"unpack vkitti_2.0.3_{kind}.tar into {root / f'vkitti_2.0.3_{kind}'}."
    )


def _frames(photos: Path, place: str, camera: int) -> list[tuple[str, int, str]]:
    folder = photos / place / f"frames/rgb/Camera_{camera}"
    if not folder.is_dir():
        raise DataError(f"{folder} is not there: unpack all of the archive, or name what you have.")
    return [(place, camera, path.stem.removeprefix("rgb_")) for path in sorted(folder.glob("rgb_*.jpg"))]

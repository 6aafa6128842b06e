"""Bags that lie: bytes of the file flipped and moved, or fields of a message. Read, or refused."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np

from fiffdepth_rt.errors import MessageError
from fiffdepth_rt.ros.bags import IMAGES, Bag
from fiffdepth_rt.ros.cameras import scaled_camera_info
from fiffdepth_rt.ros.clouds import to_points
from fiffdepth_rt.ros.images import to_photo
from fiffdepth_rt.ros.plan import Asked, plan_of
from tests.fuzz.mutations import mutated_bytes
from tests.fuzz.trial import Kind
from tests.support.ros.bags import (
    CAMERA,
    KINDS,
    camera_info_entry,
    cloud_entry,
    image_entry,
    tf_entry,
    write_bag,
)

NUMBERS = (0, 1, 2, 3, 47, 48, 49, 143, 144, 145, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
TEXTS = ("", "rgb8", "mono16", "bayer_rggb16", "yuv422", "32FC1", "x" * 5000, "\x1b]52;c;eA==\x07", "é")
DEPTH_M = np.linspace(1, 5, 32 * 48, dtype=np.float32).reshape(32, 48)


class Fuzzed(Kind):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: dict[str, bytes] = {}
        for kind in KINDS:
            entries = [tf_entry(kind=kind)]
            for number in range(2):
                entries += [make(number, kind=kind) for make in (camera_info_entry, image_entry)]
                entries.append(cloud_entry(number, DEPTH_M, kind=kind))
            path = write_bag(folder / f"whole_{kind}.bag", entries, kind=kind)
            file = next(path.glob("whole*")) if path.is_dir() else path
            self._whole[file.suffix] = file.read_bytes()
        self._messages = [
            image_entry(0).message,
            camera_info_entry(0).message,
            cloud_entry(0, DEPTH_M).message,
        ]

    def attempt(self, chance: random.Random) -> None:
        if chance.random() < 0.3:
            _use(_lying(copy.deepcopy(chance.choice(self._messages)), chance))
            return
        ending = chance.choice(sorted(self._whole))
        file = self._folder / f"case{ending}"
        file.write_bytes(mutated_bytes(self._whole[ending], chance))
        wrong: list[MessageError] = []
        with Bag(file) as bag:
            plan_of(bag, Asked(image_topic="/camera/image_rect", lidar_topic="/lidar/points"))
            for record in bag.messages():
                try:
                    _use(bag.decode(record))
                except MessageError as error:  # such a message is left out, and the rest is done
                    wrong.append(error)
        if wrong:
            raise wrong[0]


def _use(message: Any) -> None:
    name = type(message).__msgtype__
    if name in IMAGES:
        photo = to_photo(message)
        assert photo.dtype == np.uint8 and photo.shape == (message.height, message.width, 3)
    elif name.endswith("PointCloud2"):
        points = to_points(message)
        assert points.shape[1] == 3 and np.isfinite(points).all()
    elif name.endswith("CameraInfo"):
        assert (
            scaled_camera_info(message, CAMERA.photo_hw, header=message.header).height == CAMERA.photo_hw[0]
        )


def _lying(message: Any, chance: random.Random) -> Any:
    """One to three fields have another value of their type."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = message
        if hasattr(message, "fields") and chance.random() < 0.5:
            place = chance.choice(message.fields)
        elif hasattr(message, "roi") and chance.random() < 0.5:
            place = message.roi
        name = chance.choice([field for field in vars(place) if field not in ("header", "fields", "roi")])
        value = getattr(place, name)
        if isinstance(value, str):
            setattr(place, name, chance.choice(TEXTS))
        elif isinstance(value, np.ndarray):
            cut = value[: chance.randrange(len(value) + 1)] if value.dtype == np.uint8 else value
            wild = chance.choice([0, 1, np.inf, np.nan, -1e300])
            setattr(place, name, cut if value.dtype == np.uint8 else np.full_like(value, wild))
        else:
            setattr(place, name, chance.choice(NUMBERS))
    return message

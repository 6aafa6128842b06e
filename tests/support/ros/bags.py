"""Bags for tests, written by rosbags: a camera, its camera_info, a lidar, tf_static and words, as wished."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.geometry.camera import Intrinsics, to_points
from fiffdepth_rt.ros.transforms import from_pose
from tests.support.ros.messages import ROS2, camera_info, cloud, header, image, static

ROS1 = get_typestore(Stores.ROS1_NOETIC)
ROS1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
KINDS = ("mcap", "sqlite3", "ros1")
SENSOR_QOS = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    QosTime(2147483647, 4294967295),
    QosTime(2147483647, 4294967295),
    QosLiveliness.AUTOMATIC,
    QosTime(2147483647, 4294967295),
    False,
)
STEP_NS = 100_000_000
FIRST_NS = 1_700_000_000_000_000_007


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A message of a bag. recorded_ns: when it was recorded."""

    topic: str
    type: str
    message: Any
    recorded_ns: int


def store_of(kind: str) -> Any:
    return ROS1 if kind == "ros1" else ROS2


def write_bag(
    path: Path,
    entries: Iterable[Entry],
    *,
    kind: str = "mcap",
    topics: Iterable[tuple[str, str]] = (),
    qos: tuple[Qos, ...] = (),
) -> Path:
    """Entries, in the order in which they lie -> a bag. topics: (name, type) of topics without messages."""
    store, connections = store_of(kind), {}
    writer: Any
    if kind == "ros1":
        writer = Writer1(path)
    else:
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        writer = Writer2(path, version=9, storage_plugin=plugin)
    with writer:

        def connection(name: str, type_: str) -> Any:
            if name not in connections:
                said = {"latching": 1} if kind == "ros1" else {"offered_qos_profiles": qos}
                connections[name] = writer.add_connection(name, type_, typestore=store, **said)
            return connections[name]

        for name, type_ in topics:
            connection(name, type_)
        for entry in entries:
            encode = store.serialize_ros1 if kind == "ros1" else store.serialize_cdr
            data = encode(entry.message, entry.type)
            writer.write(connection(entry.topic, entry.type), entry.recorded_ns, data)
    return path


def photo(number: int, hw: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A ramp, dark on the left and bright on the right; to the toy, bright is far."""
    ramp = np.linspace(30 + 5 * number, 200, hw[1]).astype(np.uint8)
    return np.repeat(np.repeat(ramp[None, :, None], hw[0], 0), 3, 2)


def image_entry(
    number: int, *, kind: str = "mcap", topic: str = "/camera/image_rect", pixels: Any = None
) -> Entry:
    """Measured at FIRST_NS + number · STEP_NS, recorded 3 ms later."""
    at = FIRST_NS + number * STEP_NS
    store = store_of(kind)
    message = image(
        photo(number) if pixels is None else pixels, "rgb8", head=header(at, store=store), store=store
    )
    return Entry(topic=topic, type="sensor_msgs/msg/Image", message=message, recorded_ns=at + 3_000_000)


def text_entry(number: int, *, kind: str = "mcap") -> Entry:
    message = store_of(kind).types["std_msgs/msg/String"](data=f"word {number}")
    at = FIRST_NS + number * STEP_NS + 5_000_000
    return Entry(topic="/words", type="std_msgs/msg/String", message=message, recorded_ns=at)


HW = (32, 48)
"""Of the camera's pictures."""
CAMERA = Intrinsics(fx=40.0, fy=42.0, cx=23.5, cy=15.0, photo_hw=HW)
LIDAR_IN_CAMERA = (-0.05, -0.1, 0.02, 0.5, -0.5, 0.5, 0.5)
"""x, y, z and quaternion: the lidar's x is forward, y left and z up, as REP-103 has it."""
METRES_PER_UNIT, METRES_AT_ZERO = 6.0, 1.5
"""What the toy's values are in metres, in these bags."""


def camera_info_entry(
    number: int, *, kind: str = "mcap", topic: str = "/camera/camera_info", late_ns: int = 0
) -> Entry:
    at = FIRST_NS + number * STEP_NS
    message = camera_info(CAMERA, head=header(at + late_ns, store=store_of(kind)), store=store_of(kind))
    return Entry(
        topic=topic, type="sensor_msgs/msg/CameraInfo", message=message, recorded_ns=at + 1_000_000 + late_ns
    )


def cloud_entry(
    number: int,
    depth_m: np.ndarray,
    *,
    kind: str = "mcap",
    late_ns: int = 0,
    wrong: int = 0,
    frame: str = "lidar",
) -> Entry:
    """Every third pixel's point as the lidar sees it, of which the first `wrong` are somewhere else."""
    at = FIRST_NS + number * STEP_NS + late_ns
    points = to_points(depth_m.astype(np.float32), CAMERA).reshape(-1, 3)[::3].astype(np.float64)
    points[:wrong] *= np.linspace(0.3, 3, wrong)[:, None]
    seen = from_pose(*LIDAR_IN_CAMERA).inverse()(points)
    message = cloud(
        seen, dtype="f4", names="xyzi", head=header(at, frame, store=store_of(kind)), store=store_of(kind)
    )
    return Entry(
        topic="/lidar/points", type="sensor_msgs/msg/PointCloud2", message=message, recorded_ns=at + 2_000_000
    )


def tf_entry(*, kind: str = "mcap", parent: str = "camera_optical", child: str = "lidar") -> Entry:
    message = static(parent, child, *LIDAR_IN_CAMERA, store=store_of(kind))
    return Entry(
        topic="/tf_static", type="tf2_msgs/msg/TFMessage", message=message, recorded_ns=FIRST_NS - STEP_NS
    )


def true_m(depth: Depth, number: int) -> np.ndarray:
    """float32 H×W metres: what the world is, were the toy right about photo `number`."""
    return METRES_PER_UNIT * depth.infer(photo(number)).values + METRES_AT_ZERO


def drive(depth: Depth, frames: int = 4, *, kind: str = "mcap", late_ns: int = 0) -> list[Entry]:
    """A camera with camera_info, a lidar whose clouds are `late_ns` behind its images, tf_static, words."""
    entries = [tf_entry(kind=kind)]
    for number in range(frames):
        metres = true_m(depth, number)
        entries += [
            camera_info_entry(number, kind=kind),
            cloud_entry(number, metres, kind=kind, late_ns=late_ns, wrong=50),
            image_entry(number, kind=kind),
            text_entry(number, kind=kind),
        ]
    return entries

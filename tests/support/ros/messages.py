"""ROS messages for tests: made by rosbags' classes, and by classes that check their fields as rclpy's do."""

from __future__ import annotations

import array
from typing import Any, ClassVar

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from fiffdepth_rt.ros.messages import MessageTypes, as_array_of_octets, rosbags_types

ROS2 = get_typestore(Stores.ROS2_HUMBLE)
TYPES = rosbags_types(ROS2)


def header(stamp_ns: int = 1_500_000_007, frame: str = "camera_optical", *, store: Typestore = ROS2) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
    )
    seq = {"seq": 0} if store is not ROS2 and "seq" in _fields(store, "std_msgs/msg/Header") else {}
    return store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame, **seq)


def image(
    pixels: np.ndarray,
    encoding: str,
    *,
    padding: int = 0,
    big: bool = False,
    head: Any = None,
    store: Typestore = ROS2,
) -> Any:
    """Pixels H×W or H×W×C -> sensor_msgs/Image with `padding` bytes behind each row."""
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")))
    octets = rows.view(np.uint8).reshape(len(pixels), -1)
    octets = np.pad(octets, ((0, 0), (0, padding)), constant_values=0xAB)
    return store.types["sensor_msgs/msg/Image"](
        header=header(store=store) if head is None else head,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=octets.shape[1],
        data=octets.reshape(-1),
    )


def compressed(data: bytes, format_: str, *, head: Any = None, store: Typestore = ROS2) -> Any:
    return store.types["sensor_msgs/msg/CompressedImage"](
        header=header(store=store) if head is None else head,
        format=format_,
        data=np.frombuffer(data, np.uint8),
    )


def _fields(store: Typestore, name: str) -> set[str]:
    return {field for field, _ in store.fielddefs[name][1]}


class Strict:
    """A message that takes the fields it knows, each of its type, as the classes that rosidl makes."""

    KINDS: ClassVar[dict[str, type]]

    def __init__(self, **fields: Any) -> None:
        assert fields.keys() <= self.KINDS.keys(), fields.keys() - self.KINDS.keys()
        for name, value in fields.items():
            assert type(value) is self.KINDS[name], f"{name} is a {type(value)}"
            setattr(self, name, value)


class StrictImage(Strict):
    KINDS: ClassVar[dict[str, type]] = {
        "header": object,
        "height": int,
        "width": int,
        "encoding": str,
        "is_bigendian": int,
        "step": int,
        "data": array.array,
    }


class StrictField(Strict):
    KINDS: ClassVar[dict[str, type]] = {"name": str, "offset": int, "datatype": int, "count": int}


class StrictCloud(Strict):
    KINDS: ClassVar[dict[str, type]] = {
        "header": object,
        "height": int,
        "width": int,
        "fields": list,
        "is_bigendian": bool,
        "point_step": int,
        "row_step": int,
        "data": array.array,
        "is_dense": bool,
    }


RCLPY_LIKE = MessageTypes(
    image=StrictImage, point_cloud=StrictCloud, point_field=StrictField, octets=as_array_of_octets
)

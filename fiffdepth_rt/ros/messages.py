"""What messages are made of: rosbags' classes or a ROS installation's, which share their fields' names."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

Octets = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MessageTypes:
    """The classes of the messages that are made, each called with its fields by name.

    image, point_cloud, point_field: sensor_msgs/Image, /PointCloud2 and /PointField.
    octets: one-dimensional uint8 array -> what these classes hold in a field uint8[].
    """

    image: Callable[..., Any]
    point_cloud: Callable[..., Any]
    point_field: Callable[..., Any]
    octets: Callable[[Octets], Any]


def rosbags_types(typestore: Typestore) -> MessageTypes:
    """The classes of a typestore of rosbags, for bags without a ROS installation."""
    types: Any = typestore.types
    return MessageTypes(
        image=types["sensor_msgs/msg/Image"],
        point_cloud=types["sensor_msgs/msg/PointCloud2"],
        point_field=types["sensor_msgs/msg/PointField"],
        octets=lambda octets: octets,
    )


def as_array_of_octets(octets: Octets) -> array.array[int]:
    """For rclpy's classes: they copy an array.array, and look at each byte of anything else."""
    return array.array("B", octets.tobytes())


def stamp_ns(message: Any) -> int:
    """When a message with a header was measured, in ns. 0 where nobody said."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def octets_of(message: Any) -> Octets:
    """The field `data` of a message, whatever holds it -> the same memory as uint8."""
    return np.frombuffer(message.data, dtype=np.uint8)

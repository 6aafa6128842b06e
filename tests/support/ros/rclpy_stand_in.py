"""What the example's node asks of rclpy: enough to run its file where there is no ROS.

Messages are the strict classes of messages.py; what is published is kept by topic.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from tests.support.ros.messages import ROS2, StrictCloud, StrictField, StrictImage


class Node:
    parameters: dict[str, Any] = {}  # noqa: RUF012 - what the launch file would give

    def __init__(self, name: str) -> None:
        self.name = name
        self.published: dict[str, list[Any]] = {}
        self.subscribed: dict[str, tuple[type, Callable[[Any], None], Any]] = {}
        self.said: list[str] = []

    def declare_parameter(self, name: str, default: Any) -> types.SimpleNamespace:
        value = self.parameters.get(name, default)
        assert type(value) is type(default), f"{name} is {value!r}: ROS parameters keep their type"
        return types.SimpleNamespace(value=value)

    def create_publisher(self, type_: type, topic: str, qos: Any) -> Any:
        kept = self.published.setdefault(topic, [])
        return types.SimpleNamespace(publish=kept.append)

    def create_subscription(self, type_: type, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        self.subscribed[topic] = (type_, callback, qos)

    def get_logger(self) -> Any:
        return types.SimpleNamespace(
            info=self.said.append, warning=lambda text, *, throttle_duration_sec: self.said.append(text)
        )


def modules() -> dict[str, types.ModuleType]:
    """By name, for sys.modules."""
    policy = types.SimpleNamespace(KEEP_LAST="keep last", BEST_EFFORT="best effort", VOLATILE="volatile")
    content = {
        "rclpy": {},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {
            "QoSDurabilityPolicy": policy,
            "QoSHistoryPolicy": policy,
            "QoSReliabilityPolicy": policy,
            "QoSProfile": lambda **said: said,
        },
        "sensor_msgs": {},
        "sensor_msgs.msg": {
            "CameraInfo": ROS2.types["sensor_msgs/msg/CameraInfo"],
            "Image": StrictImage,
            "PointCloud2": StrictCloud,
            "PointField": StrictField,
        },
    }
    made = {}
    for name, names in content.items():
        made[name] = types.ModuleType(name)
        vars(made[name]).update(names)
    return made

"""Images of a camera -> depth, as ROS 2 topics. Written, never run under ROS.

Subscribes to `image` and `camera_info`. Publishes `~/relative_depth`; and where the parameter `calibration`
names a file that `fiffdepth calibrate` saved, or `camera_height` says how many metres the camera is above
flat ground, `~/depth_image` in metres, its `~/camera_info`, and `~/points`. What is in the messages,
fiffdepth_rt.ros.frames decides.
"""

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from fiffdepth_rt import Depth
from fiffdepth_rt.errors import MessageError
from fiffdepth_rt.geometry.calibration import Calibration
from fiffdepth_rt.ros.frames import Publishing, messages_of
from fiffdepth_rt.ros.messages import MessageTypes, as_array_of_octets
from fiffdepth_rt.ros.metric import CalibratedMetres, GroundMetres

# Sensor data, of which one message waits: of the images that come while one is computed, the latest stays.
LATEST = QoSProfile(
    history=QoSHistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=QoSReliabilityPolicy.BEST_EFFORT,
    durability=QoSDurabilityPolicy.VOLATILE,
)
RELATIVE = {"relative_depth": Image}
METRIC = {"depth_image": Image, "camera_info": CameraInfo, "points": PointCloud2}


class FiffDepth(Node):
    def __init__(self):
        super().__init__("fiffdepth")

        def said(name, default):
            return self.declare_parameter(name, default).value

        calibration, height_m = said("calibration", ""), said("camera_height", 0.0)
        self._metres = None
        if calibration:
            self._metres = CalibratedMetres(calibration=Calibration.read(calibration))
        elif height_m:
            self._metres = GroundMetres(camera_height_m=height_m)
        self._publishing = Publishing(
            types=MessageTypes(
                image=Image, point_cloud=PointCloud2, point_field=PointField, octets=as_array_of_octets
            ),
            encoding=said("depth_encoding", "32FC1"),
            point_stride=said("point_stride", 4),
        )
        self._depth = Depth(
            said("engine_dir", "") or None,
            backend=said("backend", "auto"),
            device=said("device", "") or None,
            precision=said("precision", "") or None,
            size=said("size", 0) or None,
            threads=said("threads", 0) or None,
        )
        topics = RELATIVE if self._metres is None else RELATIVE | METRIC
        self._topics = {
            name: self.create_publisher(type_, f"~/{name}", LATEST) for name, type_ in topics.items()
        }
        self._camera_info = None
        self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, LATEST)
        self.create_subscription(Image, "image", self._on_image, LATEST)
        self.get_logger().info(self._depth.output_space.sentence)

    def _on_camera_info(self, camera_info):
        self._camera_info = camera_info

    def _on_image(self, image):
        try:
            messages = messages_of(
                self._depth,
                image,
                publishing=self._publishing,
                metres=self._metres,
                camera_info=self._camera_info,
                tell=self._warn,
            )
        except MessageError as error:
            self._warn(str(error))
            return
        for name, message in messages.items():
            self._topics[name].publish(message)

    def _warn(self, sentence):
        self.get_logger().warning(sentence, throttle_duration_sec=5.0)


def main():
    rclpy.init()
    try:
        rclpy.spin(FiffDepth())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()

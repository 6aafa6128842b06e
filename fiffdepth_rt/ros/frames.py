"""START HERE. An image of a camera -> the messages that say how deep it is, in bags and on a robot."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import AlignmentError, MessageError
from fiffdepth_rt.geometry.camera import to_points
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.ros.cameras import intrinsics_of, scaled_camera_info
from fiffdepth_rt.ros.clouds import to_cloud
from fiffdepth_rt.ros.images import DepthEncoding, Metres, metric_image, relative_image, to_photo
from fiffdepth_rt.ros.messages import MessageTypes, stamp_ns
from fiffdepth_rt.ros.metric import MetresOf

_log = logging.getLogger(__name__)

TYPES: Mapping[str, str] = {
    "relative_depth": "sensor_msgs/msg/Image",
    "depth_image": "sensor_msgs/msg/Image",
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "points": "sensor_msgs/msg/PointCloud2",
}
"""What may be published, by the last part of its topic's name. Only metres become depth_image and points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publishing:
    """How depth is written.

    types: the classes of the messages. encoding: of depth_image, metres or millimetres.
    point_stride: points are those of every so many pixels, across and down; 1 for all.
    """

    types: MessageTypes
    encoding: DepthEncoding = "32FC1"
    point_stride: int = 4

    def relative(self, depth_map: DepthMap, *, header: Any) -> dict[str, Any]:
        """Depth map, its photo's header -> {"relative_depth": Image}."""
        return {"relative_depth": relative_image(depth_map, header=header, types=self.types)}

    def metric(
        self, depth_m: Metres, photo: Pixels, *, header: Any, camera_info: Any | None
    ) -> dict[str, Any]:
        """Metres, float32 H×W, of a photo H×W×3 -> {"depth_image": Image, "camera_info": …, "points": …}.

        camera_info: the camera's, None where it is not known: there are no points then, since nobody knows
        through which pixel a ray goes. Raises MessageError: a camera_info of other pictures.
        """
        messages = {
            "depth_image": metric_image(depth_m, header=header, types=self.types, encoding=self.encoding)
        }
        if camera_info is None:
            return messages
        hw = depth_m.shape[0], depth_m.shape[1]
        points = to_points(depth_m, intrinsics_of(camera_info, hw))
        first, stride = self.point_stride // 2, self.point_stride
        points, colors = points[first::stride, first::stride], photo[first::stride, first::stride]
        seen = np.isfinite(points[..., 2])
        messages["camera_info"] = scaled_camera_info(camera_info, hw, header=header)
        messages["points"] = to_cloud(points[seen], colors[seen], header=header, types=self.types)
        return messages


def messages_of(
    depth: Depth,
    image: Any,
    *,
    publishing: Publishing,
    metres: MetresOf | None = None,
    camera_info: Any | None = None,
    tell: Callable[[str], object] = _log.warning,
) -> dict[str, Any]:
    """An image of a running camera -> what is published for it, by the names in TYPES: relative_depth; with
    metres, depth_image; and with a camera_info too, camera_info and points.

    metres: such as CalibratedMetres or GroundMetres. tell: called with a sentence where they fail for this
    image, which then has its relative_depth alone.

    Raises MessageError: an image that cannot be used; and what Depth.infer raises.
    """
    photo = to_photo(image)
    depth_map = depth.infer(photo)
    messages = publishing.relative(depth_map, header=image.header)
    if metres is not None:
        try:
            depth_m = metres(depth_map, image=image, time_ns=stamp_ns(image), camera_info=camera_info)
            messages |= publishing.metric(depth_m, photo, header=image.header, camera_info=camera_info)
        except (AlignmentError, MessageError) as error:
            tell(str(error))
    return messages

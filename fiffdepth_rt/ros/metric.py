"""Where metres come from: a calibration of the camera, its height above the ground, or a lidar in the bag."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import AlignmentError, BagError, MessageError
from fiffdepth_rt.geometry.calibration import Calibration
from fiffdepth_rt.geometry.camera import sparse_from_points
from fiffdepth_rt.ros.bags import TRANSFORMS, Bag, Record, Topic
from fiffdepth_rt.ros.cameras import intrinsics_of
from fiffdepth_rt.ros.clouds import to_points
from fiffdepth_rt.ros.images import Metres
from fiffdepth_rt.ros.messages import stamp_ns
from fiffdepth_rt.ros.transforms import FrameTree, Transform

NS_PER_S = 1_000_000_000


def measured_ns(message: Any, record: Record) -> int:
    """When a message was measured, by its header; when it was recorded, where its driver leaves that out."""
    return stamp_ns(message) or record.recorded_ns


class Nearest:
    """The messages of a topic by when they were measured. Holds a few numbers for each, and one message.

    seen: called for each message, since all of them are read once. Raises BagError where the bag is damaged.
    """

    def __init__(self, bag: Bag, topic: Topic, *, seen: Callable[[], object]) -> None:
        self.topic = topic
        self._bag = bag
        times = []
        for record in bag.messages(topic.name):
            seen()
            try:
                times.append((measured_ns(bag.decode(record), record), record.recorded_ns))
            except MessageError:
                continue  # whoever asks for this time gets a neighbour, or none
        self._times = sorted(times)
        self._held: tuple[tuple[int, int], Any] | None = None

    def at(self, time_ns: int) -> tuple[Any, int]:
        """The message measured nearest to a time, and by how much it is off, in ns.

        Raises MessageError: no message of the topic can be decoded.
        """
        after = bisect.bisect_left(self._times, (time_ns, 0))
        around = self._times[max(0, after - 1) : after + 1]
        if not around:
            raise MessageError(f"No message of {self.topic.name} can be decoded.")
        nearest = min(around, key=lambda times: abs(times[0] - time_ns))
        if self._held is None or self._held[0] != nearest:
            self._held = nearest, self._read(*nearest)
        return self._held[1], abs(nearest[0] - time_ns)

    def _read(self, measured: int, recorded_ns: int) -> Any:
        for record in self._bag.recorded_at(self.topic.name, recorded_ns):
            message = self._bag.decode(record)
            if measured_ns(message, record) == measured:
                return message
        raise AssertionError("a message that was there is gone")


class MetresOf(Protocol):
    """Where metres come from."""

    def __call__(self, depth_map: DepthMap, *, image: Any, time_ns: int, camera_info: Any | None) -> Metres:
        """Depth map of an image message -> float32 H×W metres.

        Raises AlignmentError or MessageError: this frame has none, and why.
        """

    def check(self, depth_map: DepthMap) -> None:
        """Raises AlignmentError where no depth map of this model gets metres."""

    def summary(self) -> str:
        """How it went, for people."""


@dataclasses.dataclass(kw_only=True)
class CalibratedMetres:
    """By the scale and shift that `fiffdepth calibrate` saved."""

    calibration: Calibration

    def __call__(self, depth_map: DepthMap, *, image: Any, time_ns: int, camera_info: Any | None) -> Metres:
        return self.calibration.apply(depth_map)

    def check(self, depth_map: DepthMap) -> None:
        self.calibration.apply(depth_map)

    def summary(self) -> str:
        return "by the calibration, one scale and shift for all frames"


@dataclasses.dataclass(kw_only=True)
class GroundMetres:
    """By the camera's height above flat ground, frame by frame: `DepthMap.align_ground` says what is assumed.

    camera_height_m: from the ground to the lens. pitch_deg: by how much it looks down; None: found in the
        photo.
    """

    camera_height_m: float
    pitch_deg: float | None = None

    def __call__(self, depth_map: DepthMap, *, image: Any, time_ns: int, camera_info: Any | None) -> Metres:
        if camera_info is None:
            raise MessageError(
                "No camera_info has come, and metres by the ground want to know where each pixel looks to: "
                "does the camera's driver publish it, and under the name that this node subscribes to?"
            )
        camera = intrinsics_of(camera_info, depth_map.photo_hw)
        return depth_map.align_ground(camera, self.camera_height_m, pitch_deg=self.pitch_deg).depth_m

    def check(self, depth_map: DepthMap) -> None:
        pass

    def summary(self) -> str:
        return f"by the ground, {self.camera_height_m:g} m below the camera"


@dataclasses.dataclass(kw_only=True)
class LidarMetres:
    """By the cloud that was measured nearest in time, frame by frame: the photo sees its points somewhere.

    clouds: of the lidar. to_camera: points of the lidar in the camera's optical frame; None: by `tree`.
    max_lag_s: by how much a cloud and an image may be apart.
    """

    clouds: Nearest
    tree: FrameTree
    to_camera: Transform | None
    max_lag_s: float
    _rms_m: list[float] = dataclasses.field(default_factory=list)

    def __call__(self, depth_map: DepthMap, *, image: Any, time_ns: int, camera_info: Any | None) -> Metres:
        assert camera_info is not None  # plan.py asks for it
        cloud, lag_ns = self.clouds.at(time_ns)
        if lag_ns > self.max_lag_s * NS_PER_S:
            raise AlignmentError(
                f"The nearest cloud of {self.clouds.topic.name} is {lag_ns / NS_PER_S:.3f} s away: beyond "
                f"--max-lag {self.max_lag_s:g}."
            )
        points = self.transform(cloud, image)(to_points(cloud))
        sparse_m = sparse_from_points(points, intrinsics_of(camera_info, depth_map.photo_hw))
        alignment = depth_map.align(sparse_m)
        self._rms_m.append(alignment.rms_m)
        return alignment.depth_m

    def transform(self, cloud: Any, image: Any) -> Transform:
        """Raises MessageError: no static transforms join the two frames."""
        if self.to_camera is not None:
            return self.to_camera
        return self.tree.between(source=cloud.header.frame_id, target=image.header.frame_id)

    def check(self, depth_map: DepthMap) -> None:
        pass

    def summary(self) -> str:
        ordered = sorted(self._rms_m)
        median = f", off by {ordered[len(ordered) // 2]:.3g} m rms in the median frame" if ordered else ""
        return f"by {self.clouds.topic.name}{median}, at the points that agree"


def static_transforms(bag: Bag) -> FrameTree:
    """What the bag says on topics named tf_static. Raises BagError, MessageError."""
    names = [
        topic.name
        for topic in bag.topics.values()
        if topic.type == TRANSFORMS and topic.name.endswith("tf_static") and topic.count
    ]
    return FrameTree(bag.decode(record) for record in bag.messages(*names)) if names else FrameTree()


def check_transform(metres: LidarMetres, image: Any, image_topic: str) -> None:
    """Before any work: raises BagError where the lidar's frame and the camera's are not joined."""
    try:
        cloud, _ = metres.clouds.at(0)
        metres.transform(cloud, image)
    except MessageError as error:
        raise BagError(
            f"The points of {metres.clouds.topic.name} cannot be seen from the camera of {image_topic}. "
            f"{error} Say where the lidar is, by --lidar-to-camera X,Y,Z,QX,QY,QZ,QW: its pose in the "
            "camera's optical frame, as tf2_echo CAMERA LIDAR prints it."
        ) from error

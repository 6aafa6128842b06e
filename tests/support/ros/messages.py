"""ROS messages for tests: made by rosbags' classes, and by classes that check their fields as rclpy's do."""

from __future__ import annotations

import array
from typing import Any, ClassVar

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from fiffdepth_rt.geometry.camera import Intrinsics
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


DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def cloud(
    points: np.ndarray,
    *,
    dtype: str = "f4",
    order: str = "<",
    names: str = "xyzi",
    gap: int = 0,
    rows: int = 1,
    pad: int = 0,
    head: Any = None,
    store: Typestore = ROS2,
) -> Any:
    """Points N×3 -> PointCloud2 with the fields `names`, each `gap` bytes behind the one before."""
    size = np.dtype(dtype).itemsize + gap
    layout = np.dtype(
        {
            "names": list(names),
            "formats": [order + dtype] * len(names),
            "offsets": [gap + size * number for number in range(len(names))],
            "itemsize": gap + size * len(names),
        }
    )
    packed = np.zeros(len(points), layout)
    for name in names:
        packed[name] = points[:, "xyz".index(name)] if name in "xyz" else 77
    octets = packed.view(np.uint8).reshape(rows, -1)
    octets = np.pad(octets, ((0, 0), (0, pad)), constant_values=0xEE)
    fields = [
        store.types["sensor_msgs/msg/PointField"](
            name=name, offset=layout.fields[name][1], datatype=DATATYPES[dtype], count=1
        )
        for name in names
    ]
    return store.types["sensor_msgs/msg/PointCloud2"](
        header=header(frame="lidar") if head is None else head,
        height=rows,
        width=len(points) // rows,
        fields=fields,
        is_bigendian=order == ">",
        point_step=layout.itemsize,
        row_step=octets.shape[1],
        data=octets.reshape(-1),
        is_dense=True,
    )


def static(parent: str, child: str, *pose: float, store: Typestore = ROS2) -> Any:
    """tf2_msgs/TFMessage: x, y, z and quaternion of the child in the parent."""
    make = store.types
    x, y, z, qx, qy, qz, qw = pose
    transform = make["geometry_msgs/msg/Transform"](
        translation=make["geometry_msgs/msg/Vector3"](x=x, y=y, z=z),
        rotation=make["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
    )
    stamped = make["geometry_msgs/msg/TransformStamped"](
        header=header(frame=parent, store=store), child_frame_id=child, transform=transform
    )
    return make["tf2_msgs/msg/TFMessage"](transforms=[stamped])


def camera_info(
    intrinsics: Intrinsics, *, head: Any = None, store: Typestore = ROS2, d: tuple[float, ...] = (0.0,) * 5
) -> Any:
    """CameraInfo of a camera that was calibrated alone: P is K."""
    k = np.array([[intrinsics.fx, 0, intrinsics.cx], [0, intrinsics.fy, intrinsics.cy], [0, 0, 1]])
    names = "dkrp" if store is ROS2 else "DKRP"
    matrices = (np.array(d), k.ravel(), np.eye(3).ravel(), np.hstack([k, np.zeros((3, 1))]).ravel())
    return store.types["sensor_msgs/msg/CameraInfo"](
        header=header(store=store) if head is None else head,
        height=intrinsics.photo_hw[0],
        width=intrinsics.photo_hw[1],
        distortion_model="plumb_bob",
        binning_x=0,
        binning_y=0,
        roi=store.types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
        **dict(zip(names, matrices, strict=True)),
    )


def _fields(store: Typestore, name: str) -> set[str]:
    return {field for field, _ in store.fielddefs[name][1]}


class Strict:
    """A message that takes the fields it knows, each of its type, as the classes that rosidl makes."""

    KINDS: ClassVar[dict[str, type]]

    def __init__(self, **fields: Any) -> None:
        assert fields.keys() <= self.KINDS.keys(), fields.keys() - self.KINDS.keys()
        for name, value in fields.items():
            assert self.KINDS[name] in (object, type(value)), f"{name} is a {type(value)}"
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

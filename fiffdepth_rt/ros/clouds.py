"""sensor_msgs/PointCloud2 -> points, points -> sensor_msgs/PointCloud2."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import MessageError, shortened
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.ros.messages import MessageTypes, octets_of

FLOAT32 = 7
"""PointField's number for it."""

_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", FLOAT32: "f4", 8: "f8"}


def to_points(cloud: Any) -> npt.NDArray[np.float64]:
    """PointCloud2 -> float64 N×3, its x, y, z in metres; those that are not finite are left out.

    Any layout: fields in any order and of any type, padding in points and rows, either byte order, organised
    as a picture or not. Raises MessageError: no x, y and z, fewer bytes than the message's sizes say.
    """
    fields = {field.name: field for field in cloud.fields}
    if not fields.keys() >= {"x", "y", "z"}:
        names = shortened(", ".join(fields) or "none")
        raise MessageError(f"A cloud of points has the fields x, y and z, and this one has: {names}.")
    order = ">" if cloud.is_bigendian else "<"
    height, width = int(cloud.height), int(cloud.width)
    point_step, row_step = int(cloud.point_step), int(cloud.row_step)
    xyz = [fields[axis] for axis in "xyz"]
    if unknown := [field.datatype for field in xyz if int(field.datatype) not in _DTYPES]:
        raise MessageError(f"PointField knows no datatype {unknown[0]}: the cloud's driver is wrong.")
    formats = [np.dtype(order + _DTYPES[int(field.datatype)]) for field in xyz]
    if not height or not width:
        return np.empty((0, 3))
    octets, needed = octets_of(cloud), row_step * (height - 1) + point_step * width
    ends = [int(field.offset) + dtype.itemsize for field, dtype in zip(xyz, formats, strict=True)]
    if max(ends) > point_step or point_step * width > row_step or octets.size < needed:
        raise MessageError(
            f"A cloud of {height}×{width} points of {point_step} bytes in rows of {row_step} needs {needed} "
            f"bytes, and this one holds {octets.size}: it was cut off, or its driver is wrong."
        )
    offsets = [int(field.offset) for field in xyz]
    point = np.dtype({"names": [*"xyz"], "formats": formats, "offsets": offsets, "itemsize": point_step})
    points = np.ndarray((height, width), point, octets, strides=(row_step, point_step))
    stacked = np.stack([points[axis].astype(np.float64).ravel() for axis in "xyz"], axis=1)
    return np.asarray(stacked[np.isfinite(stacked).all(axis=1)])


def to_cloud(points: npt.NDArray[np.float32], colors: Pixels, *, header: Any, types: MessageTypes) -> Any:
    """Points and their colours -> PointCloud2 with the fields x, y, z and rgb, little-endian.

    points: float32 N×3, or H×W×3 for an organised cloud, in metres, in the frame that `header` names.
    colors: uint8 N×3 or H×W×3, RGB; the field rgb holds 0x00RRGGBB in the bits of a float, as PCL has it.

    is_dense says whether all points are finite.
    """
    hw = points.shape[:2] if points.ndim == 3 else (1, points.shape[0])
    packed = np.zeros(hw, np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")]))
    points, rgb = points.reshape(*hw, 3), colors.reshape(*hw, 3).astype(np.uint32)
    for number, axis in enumerate("xyz"):
        packed[axis] = points[..., number]
    packed["rgb"] = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    fields = [
        types.point_field(name=name, offset=4 * number, datatype=FLOAT32, count=1)
        for number, name in enumerate(("x", "y", "z", "rgb"))
    ]
    return types.point_cloud(
        header=header,
        height=int(hw[0]),
        width=int(hw[1]),
        fields=fields,
        is_bigendian=False,
        point_step=packed.itemsize,
        row_step=packed.itemsize * int(hw[1]),
        data=types.octets(packed.reshape(-1).view(np.uint8)),
        is_dense=bool(np.isfinite(points).all()),
    )

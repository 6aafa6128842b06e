"""Intrinsics of a camera; depth in metres -> points, points -> sparse depth.

Convention: the optical frame of ROS (REP-103) and OpenCV: x to the right, y down, z forward, metres. A pixel
(x, y) is (column, row); whole numbers are the middles of pixels, and (0, 0) is the upper left one. Depth is
z, the distance along the optical axis, and not along the ray.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import AlignmentError

Metres = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A pinhole camera without distortion, in px of a photo of (height, width) `photo_hw`.

    fx, fy: focal lengths. cx, cy: the principal point. As in `K` of ROS' CameraInfo and of OpenCV.

    Raises AlignmentError: not finite, or a focal length or a side that is not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    photo_hw: tuple[int, int]

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not (all(map(math.isfinite, numbers)) and min(self.fx, self.fy, *self.photo_hw) > 0):
            raise AlignmentError(
                f"fx, fy, cx, cy = {', '.join(f'{number:g}' for number in numbers)} of a photo of "
                f"{self.photo_hw[0]}x{self.photo_hw[1]} are no camera: all are numbers of pixels, and the "
                "focal lengths fx and fy are positive. A calibration of the camera gives them."
            )

    def scaled(self, photo_hw: tuple[int, int]) -> Intrinsics:
        """The same camera, its picture resized to (height, width). What was cropped needs another cx and cy.

        Middles of pixels are whole numbers, so c becomes (c + ½) · factor − ½.
        """
        down, across = photo_hw[0] / self.photo_hw[0], photo_hw[1] / self.photo_hw[1]
        return Intrinsics(
            fx=self.fx * across,
            fy=self.fy * down,
            cx=(self.cx + 0.5) * across - 0.5,
            cy=(self.cy + 0.5) * down - 0.5,
            photo_hw=photo_hw,
        )

    def rays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x / z of each column, float64 W, and y / z of each row, float64 H."""
        height, width = (np.arange(side, dtype=np.float64) for side in self.photo_hw)
        return (width - self.cx) / self.fx, (height - self.cy) / self.fy


def to_points(depth_m: Metres, intrinsics: Intrinsics) -> NDArray[np.float32]:
    """float H×W metres along the optical axis -> float32 H×W×3, the point (x, y, z) that each pixel sees.

    NaN where the depth is NaN or not positive. Pixel by pixel as the photo, which is therefore their colour:
    `points[valid]`, `photo[valid]` with `valid = np.isfinite(points[..., 2])`.

    Raises AlignmentError: a DepthMap, whose values are not metres; another size than the intrinsics are of.
    """
    z = checked_depth(depth_m, intrinsics)
    across, down = intrinsics.rays()
    points = np.empty((*z.shape, 3), np.float32)
    points[..., 0] = z * across.astype(np.float32)
    points[..., 1] = z * down.astype(np.float32)[:, None]
    points[..., 2] = z
    return points


def checked_depth(depth_m: Any, intrinsics: Intrinsics) -> Metres:
    """depth_m as float32 with NaN where it is not positive and finite. Raises what `to_points` says."""
    if hasattr(depth_m, "space"):  # a DepthMap, which numpy would take for an array
        raise AlignmentError(
            "A depth map is known up to scale and shift, so it holds no points: without them a wall becomes "
            "a bent surface. Give it metres first, by d.align(sparse_m), d.align_ground(…) or a Calibration, "
            "and pass the depth_m that comes of it."
        )
    z = np.asarray(depth_m)
    if z.ndim != 2 or z.dtype.kind != "f":
        raise AlignmentError("Depth is a float array of height×width, in metres.")
    if z.shape != intrinsics.photo_hw:
        raise AlignmentError(
            f"The depth has {z.shape[0]}x{z.shape[1]} pixels, and the intrinsics are of a photo of "
            f"{intrinsics.photo_hw[0]}x{intrinsics.photo_hw[1]}: pass intrinsics.scaled({z.shape})."
        )
    with np.errstate(over="ignore"):
        z = z.astype(np.float32)
    z[~(np.isfinite(z) & (z > 0))] = np.nan
    return z


def sparse_from_points(points_m: NDArray[np.floating[Any]], intrinsics: Intrinsics) -> Metres:
    """Points N×3 in the camera's optical frame, such as a lidar's -> float32 H×W metres, NaN where none is.

    What lies behind the camera or beside the picture is left out, and so are NaN and infinity. Of the points
    that one pixel sees, the nearest is taken. A point far behind the surface that hides it from the camera
    (the lidar sits elsewhere) is an outlier, which `align` leaves out.

    Raises AlignmentError for another shape.
    """
    points = _n_by_3(points_m, "x, y, z in metres")
    points = points[np.isfinite(points).all(axis=1)]
    points = points[points[:, 2] > 0]
    with np.errstate(over="ignore"):
        columns = points[:, 0] / points[:, 2] * intrinsics.fx + intrinsics.cx
        rows = points[:, 1] / points[:, 2] * intrinsics.fy + intrinsics.cy
    height, width = intrinsics.photo_hw
    inside = (columns >= -0.5) & (columns < width - 0.5) & (rows >= -0.5) & (rows < height - 0.5)
    return _nearest_by_pixel(columns[inside], rows[inside], points[inside, 2], intrinsics.photo_hw)


def sparse_from_pixels(points_xym: NDArray[np.floating[Any]], photo_hw: tuple[int, int]) -> Metres:
    """Rows of (x px, y px, metres) -> float32 H×W metres, NaN where none is. Of equal pixels, the nearest.

    Raises AlignmentError: another shape, a point outside the photo, a distance that is not positive.
    """
    points = _n_by_3(points_xym, "x px, y px, metres")
    height, width = photo_hw
    columns, rows, metres = points.T
    for number, (x, y, z) in enumerate(points):
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            raise AlignmentError(
                f"Point {number} lies at x={x:g}, y={y:g}, outside the photo of {width} px across and "
                f"{height} px down: x is the column, y the row, from 0."
            )
        if not 0 < z < math.inf:
            raise AlignmentError(f"Point {number} has the distance {z:g}: distances are positive metres.")
    return _nearest_by_pixel(columns, rows, metres, photo_hw)


def _n_by_3(points: Any, what: str) -> NDArray[np.float64]:
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        raise AlignmentError(f"Points are an array of N×3 numbers, {what}; this one is {array.shape}.")
    return array.astype(np.float64)


def _nearest_by_pixel(
    columns: NDArray[np.float64], rows: NDArray[np.float64], metres: NDArray[np.float64], hw: tuple[int, int]
) -> Metres:
    sparse = np.full(hw, np.inf, np.float32)
    at = np.floor(rows + 0.5).astype(np.intp), np.floor(columns + 0.5).astype(np.intp)
    np.minimum.at(sparse, at, metres.astype(np.float32))
    sparse[np.isinf(sparse)] = np.nan
    return sparse

"""Depth in metres -> surface: triangles between neighbouring pixels, cut where depth jumps."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.camera import Intrinsics, Metres, to_points

JUMP = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Triangles in the camera's optical frame (camera.py), their fronts towards the camera.

    vertices: float32 N×3, metres. faces: int32 M×3, indices of vertices, counter-clockwise seen from the
    camera. pixels: int64 N, which pixel of the photo each vertex is: `photo.reshape(-1, 3)[mesh.pixels]`
    are the colours of the vertices.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    pixels: NDArray[np.int64]


def to_mesh(depth_m: Metres, intrinsics: Intrinsics, *, jump: float = JUMP) -> Mesh:
    """float H×W metres -> Mesh: two triangles for each square of four neighbouring pixels.

    A triangle is left out where one of its depths is NaN, or the farthest of them is more than (1 + jump)
    times the nearest: it would join what stands before something with what is behind it. With jump = 0.05 and
    500 px of focal length a surface is cut where it is seen at less than about 2° (atan(1 / (500 · 0.05))).
    jump=math.inf cuts nothing. Pixels of no triangle become no vertices.

    Raises what `to_points` raises, and AlignmentError for a jump that is not positive.
    """
    if not jump > 0:
        raise AlignmentError(f"jump={jump!r} is not possible: say a positive share of depth, such as 0.05.")
    points = to_points(depth_m, intrinsics)
    height, width = intrinsics.photo_hw
    index = np.arange(height * width, dtype=np.int64).reshape(height, width)
    corners = (index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:])
    upper_left, lower_left, upper_right, lower_right = (corner.ravel() for corner in corners)
    triangles = np.concatenate(
        [
            np.stack([upper_left, lower_left, upper_right], axis=1),
            np.stack([upper_right, lower_left, lower_right], axis=1),
        ]
    )
    z = points[..., 2].ravel()[triangles]
    triangles = triangles[z.max(axis=1) <= z.min(axis=1) * (1 + jump)]  # NaN is at most nothing
    pixels, faces = np.unique(triangles, return_inverse=True)
    return Mesh(
        vertices=points.reshape(-1, 3)[pixels],
        faces=faces.reshape(-1, 3).astype(np.int32),
        pixels=pixels,
    )

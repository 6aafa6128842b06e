"""A drawn scene whose metres are known in closed form, and the relative depth map of a perfect model of it.

A camera CAMERA_HEIGHT_M above flat ground looks level at a wall WALL_M away, before which a box stands.
"""

from __future__ import annotations

import numpy as np

from fiffdepth_rt import DepthMap, Intrinsics, Space

HW = (90, 120)
CAMERA = Intrinsics(fx=100.0, fy=100.0, cx=59.5, cy=44.5, photo_hw=HW)
CAMERA_HEIGHT_M, WALL_M, BOX_M = 1.2, 12.0, 3.2
BOX = np.s_[30:80, 20:45]


def scene_m(pitch_deg: float = 0.0, *, box: bool = True) -> np.ndarray:
    """float64 H×W metres along the optical axis; the camera looks down by `pitch_deg`, the wall and the box's
    front are square to it."""
    pitch = np.radians(pitch_deg)
    below = (np.arange(HW[0])[:, None] - CAMERA.cy) / CAMERA.fy * np.cos(pitch) + np.sin(pitch)
    ground_m = CAMERA_HEIGHT_M / np.maximum(below, CAMERA_HEIGHT_M / WALL_M)
    depth_m = np.repeat(ground_m, HW[1], axis=1)
    if box:
        depth_m[BOX] = np.minimum(depth_m[BOX], BOX_M)
    return depth_m


def as_seen(depth_m: np.ndarray, space: str, *, floor: float | None = None, **labels: str) -> DepthMap:
    """The depth map of a model that is never wrong: T(z) put into [0, 1].

    floor: what T(z) has the value 0; None for the least T(z).
    """
    t = depth_m if space == "depth" else 1 / depth_m
    low = float(t.min()) if floor is None else floor
    values = (t - low) / (t.max() - low)
    return DepthMap(values=values.astype(np.float32), space=Space(space), **labels)


def some_of(depth_m: np.ndarray, count: int, *, wrong: int = 0, seed: int = 0) -> np.ndarray:
    """float32 H×W: `count` random distances of the scene, of which `wrong` are drawn from 0.3 to 30 m; else
    NaN."""
    random = np.random.default_rng(seed)
    at = random.permutation(depth_m.size)[:count]
    sparse = np.full(depth_m.size, np.nan, np.float32)
    sparse[at] = depth_m.ravel()[at]
    sparse[at[:wrong]] = random.uniform(0.3, 30, wrong)
    return sparse.reshape(depth_m.shape)

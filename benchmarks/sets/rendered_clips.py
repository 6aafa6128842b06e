"""A camera that swings through a procedural room: exact depth, poses and intrinsics. Needs the renderer."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from benchmarks.sets.posed import Clip
from training.scenes.layouts import make_scene
from training.scenes.render import render_view
from training.scenes.scene import Camera, Scene

Array = NDArray[np.float64]

SIZE_HW = (384, 512)


def pose_of(camera: Camera) -> Array:
    """Camera -> 4×4 matrix, camera coordinates to world; the rotation that `render` gives its rays."""
    cr, sr = np.cos(camera.roll), np.sin(camera.roll)
    cp, sp, cy, sy = np.cos(camera.pitch), np.sin(camera.pitch), np.cos(camera.yaw), np.sin(camera.yaw)
    about_axis = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])  # right, up, forward
    tilted = np.array([[1, 0, 0], [0, -sp, cp], [0, cp, sp]])  # -> x, y, z of a camera that looks along y
    turned = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = turned @ tilted @ about_axis @ np.diag([1, -1, 1])
    pose[:3, 3] = camera.eye
    return pose


def intrinsics_of(camera: Camera, size_hw: tuple[int, int]) -> Array:
    """Camera -> 3×3 pinhole matrix in px."""
    (height, width), focal_px = size_hw, camera.focal * max(size_hw)
    return np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])


def render_clip(seed: int, frames: int, size_hw: tuple[int, int] = SIZE_HW) -> Clip:
    """seed -> Clip: a room, and a camera that swings once around its place; noise is new in each frame."""
    scene = _room(seed)
    views, poses = [], []
    for step in range(frames):
        moved = dataclasses.replace(scene, camera=_swung(scene.camera, 2 * np.pi * step / frames))
        views.append(render_view(moved, size_hw, _camera_rng(seed)))
        poses.append(pose_of(moved.camera))
    noise = np.random.default_rng([13, seed])
    return Clip(
        names=tuple(f"frame_{step:04d}.png" for step in range(frames)),
        photos=[
            np.clip(view.photo + noise.normal(0, 2, view.photo.shape), 0, 255).astype(np.uint8)
            for view in views
        ],
        depth_m=np.stack([view.depth_m for view in views]),
        pose=np.stack(poses),
        intrinsics=intrinsics_of(scene.camera, size_hw),
    )


def _room(seed: int) -> Scene:
    rng = np.random.default_rng([11, seed])
    while (scene := make_scene(rng)).kind != "room":
        pass
    return scene


def _camera_rng(seed: int) -> np.random.Generator:
    """The same for all frames of a clip: one camera, one setting; only its automatic exposure follows."""
    return np.random.default_rng([12, seed])


def _swung(camera: Camera, angle: float) -> Camera:
    """Up to 15 cm to the sides and forward, 10° to the sides, 3° up and down."""
    right = np.array([np.cos(camera.yaw), np.sin(camera.yaw), 0])
    ahead = np.array([-np.sin(camera.yaw), np.cos(camera.yaw), 0])
    eye = np.asarray(camera.eye) + 0.15 * np.sin(angle) * right + 0.075 * (1 - np.cos(angle)) * ahead
    return dataclasses.replace(
        camera,
        eye=(float(eye[0]), float(eye[1]), float(eye[2])),
        yaw=camera.yaw + np.radians(10) * np.sin(angle),
        pitch=camera.pitch + np.radians(3) * np.sin(2 * angle),
    )

"""primitives -> triangles. A Solid is a unit primitive, an affine frame and a material."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.float64]
"""3×4 affine map [A | t], local -> world, metres."""


def frame(
    *,
    at: tuple[float, float, float] = (0, 0, 0),
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    scale: tuple[float, float, float] | float = 1.0,
) -> Frame:
    """Scale, then roll (about y), pitch (about x), yaw (about z), then translate. Radians."""
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    linear = about_z @ about_x @ about_y * np.broadcast_to(np.asarray(scale, dtype=float), 3)
    return np.hstack([linear, np.asarray(at, dtype=float)[:, None]])


def compose(outer: Frame, inner: Frame) -> Frame:
    """Apply `inner`, then `outer`."""
    return np.hstack([outer[:, :3] @ inner[:, :3], outer[:, :3] @ inner[:, 3:] + outer[:, 3:]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triangles:
    """A triangle soup. T triangles; `normals` are unit and smooth across a curved primitive."""

    corners: NDArray[np.float32]  # T×3×3, metres
    normals: NDArray[np.float32]  # T×3×3
    material: NDArray[np.int32]  # T
    solid: NDArray[np.int32]  # T, which solid it belongs to


class Builder:
    """Collects solids, then turns them into triangles in one go per kind of primitive."""

    def __init__(self) -> None:
        self._frames: dict[str, list[Frame]] = {kind: [] for kind in PRIMITIVES}
        self._materials: dict[str, list[int]] = {kind: [] for kind in PRIMITIVES}
        self._soups: list[tuple[NDArray[np.float64], NDArray[np.float64], int]] = []

    def add(self, kind: str, at: Frame, material: int) -> None:
        """One unit primitive, within ±0.5 on every axis; see PRIMITIVES for the kinds."""
        self._frames[kind].append(at)
        self._materials[kind].append(material)

    def add_sheet(self, points: NDArray[np.float64], material: int) -> None:
        """A grid of points R×C×3 as a smooth surface (terrain, curtain, cloth)."""
        p = points
        du, dv = np.gradient(p, axis=1), np.gradient(p, axis=0)
        n = np.cross(du, dv)
        n /= np.linalg.norm(n, axis=-1, keepdims=True) + 1e-12

        def faces(a: NDArray[np.float64]) -> NDArray[np.float64]:
            a00, a01, a10, a11 = a[:-1, :-1], a[:-1, 1:], a[1:, :-1], a[1:, 1:]
            both = np.stack([np.stack([a00, a01, a11], -2), np.stack([a00, a11, a10], -2)], 2)
            return both.reshape(-1, 3, 3)

        self._soups.append((faces(p), faces(n), material))

    def triangles(self) -> Triangles:
        corners, normals, material, solid, count = [], [], [], [], 0
        for kind, frames in self._frames.items():
            if not frames:
                continue
            unit_corners, unit_normals = PRIMITIVES[kind]()
            a = np.stack(frames)
            inverse_transpose = np.linalg.inv(a[:, :, :3]).transpose(0, 2, 1)
            c = np.einsum("nij,tkj->ntki", a[:, :, :3], unit_corners) + a[:, None, None, :, 3]
            n = np.einsum("nij,tkj->ntki", inverse_transpose, unit_normals)
            n /= np.linalg.norm(n, axis=-1, keepdims=True) + 1e-12
            corners.append(c.reshape(-1, 3, 3))
            normals.append(n.reshape(-1, 3, 3))
            material.append(np.repeat(self._materials[kind], len(unit_corners)))
            solid.append(np.repeat(np.arange(count, count + len(frames)), len(unit_corners)))
            count += len(frames)
        for c, n, m in self._soups:
            corners.append(c)
            normals.append(n)
            material.append(np.full(len(c), m))
            solid.append(np.full(len(c), count))
            count += 1
        return Triangles(
            corners=np.concatenate(corners).astype(np.float32),
            normals=np.concatenate(normals).astype(np.float32),
            material=np.concatenate(material).astype(np.int32),
            solid=np.concatenate(solid).astype(np.int32),
        )


UnitMesh = tuple[NDArray[np.float64], NDArray[np.float64]]


@functools.cache
def _box() -> UnitMesh:
    corners, normals = [], []
    for axis in range(3):
        for sign in (-0.5, 0.5):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            quad = np.zeros((4, 3))
            quad[:, axis] = sign
            quad[:, u] = [-0.5, 0.5, 0.5, -0.5]
            quad[:, v] = [-0.5, -0.5, 0.5, 0.5]
            n = np.zeros(3)
            n[axis] = np.sign(sign)
            corners += [quad[[0, 1, 2]], quad[[0, 2, 3]]]
            normals += [np.tile(n, (3, 1))] * 2
    return np.array(corners), np.array(normals)


def _lathe(radius: NDArray[np.float64], z: NDArray[np.float64], sides: int, smooth: bool) -> UnitMesh:
    """Revolve a profile (radius, z) about the z axis."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    p = np.concatenate(
        [radius[:, None, None] * ring[None], np.broadcast_to(z[:, None, None], (len(z), sides + 1, 1))], -1
    )
    slope = (
        np.gradient(radius, z) if smooth else np.diff(radius) / np.where(np.diff(z) == 0, 1e-9, np.diff(z))
    )
    corners, normals = [], []
    for i in range(len(z) - 1):
        lo, hi = (slope[i], slope[i + 1]) if smooth else (slope[i], slope[i])
        n_lo = np.concatenate([ring, np.full((sides + 1, 1), -lo)], -1)
        n_hi = np.concatenate([ring, np.full((sides + 1, 1), -hi)], -1)
        for j in range(sides):
            corners += [[p[i, j], p[i, j + 1], p[i + 1, j + 1]], [p[i, j], p[i + 1, j + 1], p[i + 1, j]]]
            normals += [[n_lo[j], n_lo[j + 1], n_hi[j + 1]], [n_lo[j], n_hi[j + 1], n_hi[j]]]
    return np.array(corners, dtype=float), np.array(normals, dtype=float)


@functools.cache
def _cylinder() -> UnitMesh:
    side = _lathe(np.array([0.5, 0.5]), np.array([-0.5, 0.5]), 14, smooth=False)
    cap_c, cap_n = _lathe(np.array([0.5, 1e-6]), np.array([0.5, 0.5 + 1e-6]), 14, smooth=False)
    cap_n[:] = [0, 0, 1]
    return np.concatenate([side[0], cap_c, cap_c * [1, 1, -1]]), np.concatenate([side[1], cap_n, -cap_n])


@functools.cache
def _cone() -> UnitMesh:
    return _lathe(np.array([0.5, 1e-6]), np.array([-0.5, 0.5]), 14, smooth=False)


@functools.cache
def _sphere() -> UnitMesh:
    a = np.linspace(-np.pi / 2 + 1e-3, np.pi / 2 - 1e-3, 10)
    corners, _ = _lathe(0.5 * np.cos(a), 0.5 * np.sin(a), 16, smooth=False)
    return corners, corners * 2


@functools.cache
def _vase() -> UnitMesh:
    z = np.linspace(-0.5, 0.5, 9)
    radius = 0.28 + 0.2 * np.sin((z + 0.35) * 5.5)
    return _lathe(np.clip(radius, 0.08, 0.5), z, 14, smooth=True)


@functools.cache
def _blade() -> UnitMesh:
    """A thin leaf, bent: stands on z = -0.5."""
    z = np.linspace(-0.5, 0.5, 6)
    bend, half = 0.5 * (z + 0.5) ** 2, 0.06 * np.sqrt(np.clip(0.5 - z, 0.0, 1)) + 0.005
    left, right = np.stack([-half, bend, z], -1), np.stack([half, bend, z], -1)
    corners = []
    for i in range(len(z) - 1):
        corners += [[left[i], right[i], right[i + 1]], [left[i], right[i + 1], left[i + 1]]]
    c = np.array(corners)
    return c, np.broadcast_to([0.0, -1.0, 0.4], c.shape).copy()


PRIMITIVES = {
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "sphere": _sphere,
    "vase": _vase,
    "blade": _blade,
}

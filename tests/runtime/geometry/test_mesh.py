"""Promises about surfaces: closed where depth is, cut where it jumps, fronts towards the camera."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fiffdepth_rt import Mesh, to_mesh, to_points
from fiffdepth_rt.errors import AlignmentError
from tests.runtime.geometry.scene import BOX_M, CAMERA, HW, as_seen, scene_m

DEPTH_M = scene_m().astype(np.float32)


def area(mesh: Mesh) -> float:
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(np.float64), 1, 0)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_a_wall_is_a_rectangle_of_its_true_size() -> None:
    mesh = to_mesh(np.full(HW, 4.0, np.float32), CAMERA)
    assert (mesh.vertices.shape, mesh.faces.shape) == ((90 * 120, 3), (89 * 119 * 2, 3))
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int32)
    assert area(mesh) == pytest.approx(89 * 119 * (4 / 100) ** 2, rel=1e-5)


def test_fronts_look_at_the_camera() -> None:
    mesh = to_mesh(DEPTH_M, CAMERA)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.sum(normals * corners.mean(axis=1), axis=1) < 0).all()  # against the ray


def test_no_triangle_joins_the_box_with_the_wall_behind_it() -> None:
    mesh = to_mesh(DEPTH_M, CAMERA)
    z = mesh.vertices[mesh.faces][..., 2]
    assert (z.max(axis=1) <= z.min(axis=1) * 1.05 + 1e-6).all()
    joined = to_mesh(DEPTH_M, CAMERA, jump=math.inf)
    assert len(joined.faces) == 89 * 119 * 2
    z = joined.vertices[joined.faces][..., 2]
    on_the_box, behind = z.min(axis=1) == np.float32(BOX_M), z.max(axis=1) > 10
    assert np.count_nonzero(on_the_box & behind) > 50


def test_a_hole_stays_a_hole_and_its_pixels_are_no_vertices() -> None:
    depth_m = np.full(HW, 2.0, np.float32)
    depth_m[10:20, 30:50] = np.nan
    mesh = to_mesh(depth_m, CAMERA)
    assert len(mesh.vertices) == 90 * 120 - 200
    assert np.isfinite(mesh.vertices).all()
    assert len(mesh.faces) == (89 * 119 - 11 * 21) * 2 + 2  # two corners of the hole keep half a square


def test_vertices_know_their_pixels() -> None:
    mesh = to_mesh(DEPTH_M, CAMERA)
    np.testing.assert_array_equal(mesh.vertices, to_points(DEPTH_M, CAMERA).reshape(-1, 3)[mesh.pixels])
    assert mesh.faces.max() == len(mesh.vertices) - 1


def test_depth_without_any_surface_is_an_empty_mesh() -> None:
    mesh = to_mesh(np.full(HW, np.nan, np.float32), CAMERA)
    assert (mesh.vertices.shape, mesh.faces.shape, mesh.pixels.shape) == ((0, 3), (0, 3), (0,))


def test_what_is_no_surface_is_refused() -> None:
    with pytest.raises(AlignmentError, match="up to scale and shift"):
        to_mesh(as_seen(scene_m(), "depth"), CAMERA)  # type: ignore[arg-type]
    for jump in (0, -1, math.nan):
        with pytest.raises(AlignmentError, match="a positive share of depth"):
            to_mesh(DEPTH_M, CAMERA, jump=jump)

"""Promises about cameras and points: the optical frame, the middles of pixels, what has no place."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fiffdepth_rt import Intrinsics, sparse_from_pixels, sparse_from_points, to_points
from fiffdepth_rt.errors import AlignmentError
from tests.runtime.geometry.scene import CAMERA, CAMERA_HEIGHT_M, HW, as_seen, scene_m


def test_points_are_right_down_and_forward_of_the_camera() -> None:
    camera = Intrinsics(fx=2.0, fy=4.0, cx=1.0, cy=1.0, photo_hw=(3, 3))
    points = to_points(np.full((3, 3), 8.0, np.float32), camera)
    assert (points.dtype, points.shape) == (np.float32, (3, 3, 3))
    assert points[1, 1].tolist() == [0, 0, 8]
    assert points[1, 2].tolist() == [4, 0, 8]  # a pixel to the right: 8 m · 1 px / 2 px
    assert points[2, 1].tolist() == [0, 2, 8]  # a pixel down


def test_the_ground_lies_at_the_cameras_height() -> None:
    points = to_points(scene_m().astype(np.float32), CAMERA)
    np.testing.assert_allclose(points[60:, 60:, 1], CAMERA_HEIGHT_M, rtol=1e-5)


def test_a_pixel_without_depth_has_no_point() -> None:
    depth_m = np.full(HW, 2.0, np.float32)
    depth_m[0, :4] = (np.nan, 0, -1, np.inf)
    points = to_points(depth_m, CAMERA)
    assert np.isnan(points[0, :4]).all() and np.isfinite(points[0, 4:]).all()
    assert depth_m[0, 2] == -1  # the caller's array is as it was


def test_points_come_back_as_the_depth_of_their_pixels() -> None:
    depth_m = scene_m().astype(np.float32)
    back = sparse_from_points(to_points(depth_m, CAMERA).reshape(-1, 3), CAMERA)
    np.testing.assert_array_equal(back, depth_m)


def test_of_points_behind_one_another_the_nearest_is_seen_and_those_out_of_sight_are_left_out() -> None:
    points = np.array(
        [[0, 0, 5], [0, 0, 3], [0, 0, -2], [9, 0, 1], [np.nan, 0, 1], [0, 0, np.inf]], np.float64
    )
    sparse_m = sparse_from_points(points, CAMERA)
    seen = np.argwhere(np.isfinite(sparse_m)).tolist()
    assert seen == [[45, 60]] and sparse_m[45, 60] == 3


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_a_resized_photo_has_a_camera_that_sees_the_same(factor: float) -> None:
    """The middle of the picture stays on its ray, whatever the number of pixels."""
    hw = (round(HW[0] * factor), round(HW[1] * factor))
    scaled = CAMERA.scaled(hw)
    assert scaled.photo_hw == hw
    assert scaled.fx == pytest.approx(CAMERA.fx * factor)
    corner, same = ((-0.5 - one.cx) / one.fx for one in (CAMERA, scaled))
    assert corner == pytest.approx(same)
    back = scaled.scaled(HW)
    assert (back.fx, back.fy, back.cx, back.cy) == pytest.approx((100, 100, 59.5, 44.5))


@hypothesis.given(
    st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 100), st.floats(10, 1000), st.floats(-50, 50)
)
@hypothesis.settings(max_examples=50)
def test_for_every_camera_a_point_is_seen_where_its_pixel_is(
    height: int, width: int, depth: float, focal: float, off: float
) -> None:
    camera = Intrinsics(fx=focal, fy=2 * focal, cx=width / 2 + off, cy=off, photo_hw=(height, width))
    points = to_points(np.full((height, width), depth, np.float32), camera).astype(np.float64)
    columns = points[..., 0] / points[..., 2] * camera.fx + camera.cx
    rows = points[..., 1] / points[..., 2] * camera.fy + camera.cy
    np.testing.assert_allclose(columns, np.broadcast_to(np.arange(width), (height, width)), atol=1e-3)
    np.testing.assert_allclose(rows, np.broadcast_to(np.arange(height)[:, None], (height, width)), atol=1e-3)


def test_pixels_with_distances_become_sparse_depth() -> None:
    sparse_m = sparse_from_pixels(np.array([[3, 7, 2.5], [3.4, 6.6, 2.0], [119, 89, 4]]), HW)
    assert (sparse_m.dtype, sparse_m.shape) == (np.float32, HW)
    assert sparse_m[7, 3] == 2.0 and sparse_m[89, 119] == 4.0  # x is the column, and the nearest is taken
    assert np.count_nonzero(np.isfinite(sparse_m)) == 2


@pytest.mark.parametrize(
    ("point", "why"),
    [
        ([120, 0, 1], "Point 0 lies at x=120, y=0, outside the photo of 120 px across and 90"),
        ([0, -1, 1], "outside"),
        ([np.nan, 0, 1], "outside"),
        ([0, 0, 0], "distances are positive"),
        ([0, 0, np.nan], "distances are positive"),
        ([0, 0], r"N×3 numbers, x px, y px, metres; this one is \(1, 2\)"),
    ],
)
def test_a_pixel_that_cannot_be_is_refused(point: list[float], why: str) -> None:
    with pytest.raises(AlignmentError, match=why):
        sparse_from_pixels(np.array([point]), HW)


def test_a_relative_depth_map_has_no_points_and_the_error_says_what_it_lacks() -> None:
    with pytest.raises(AlignmentError, match=r"up to scale and shift.*d\.align\(sparse_m\)"):
        to_points(as_seen(scene_m(), "depth"), CAMERA)  # type: ignore[arg-type]


def test_depth_of_another_size_is_refused_with_the_way_out() -> None:
    with pytest.raises(AlignmentError, match=r"pass intrinsics\.scaled\(\(45, 60\)\)"):
        to_points(np.ones((45, 60), np.float32), CAMERA)
    with pytest.raises(AlignmentError, match="a float array of height×width"):
        to_points(np.ones(HW, np.uint16), CAMERA)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"fx": 0.0}, {"fy": -1.0}, {"cx": float("nan")}, {"photo_hw": (0, 4)}])
def test_what_is_no_camera_is_refused(change: dict[str, object]) -> None:
    fields = {"fx": 100.0, "fy": 100.0, "cx": 1.0, "cy": 1.0, "photo_hw": HW}
    with pytest.raises(AlignmentError, match="are no camera"):
        Intrinsics(**{**fields, **change})  # type: ignore[arg-type]

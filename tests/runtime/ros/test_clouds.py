"""Promises of clouds: points are read whatever their layout, and written as PCL and Nav2 read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiffdepth_rt.errors import MessageError
from fiffdepth_rt.ros.clouds import to_cloud, to_points
from tests.support.ros.messages import RCLPY_LIKE, TYPES, cloud, header

POINTS = np.array([[1.5, -2, 3], [0.25, 0, 4], [-7, 8, 0.5], [2, 2, 2], [3, 3, 3], [4, 4, 4]])


@given(
    dtype=st.sampled_from(["i1", "i2", "i4", "f4", "f8"]),
    order=st.sampled_from("<>"),
    names=st.permutations("xyzir").map("".join),
    gap=st.integers(0, 9),
    rows=st.sampled_from([1, 2, 3]),
    pad=st.integers(0, 5),
)
def test_points_are_read_whatever_their_layout(
    dtype: str, order: str, names: str, gap: int, rows: int, pad: int
) -> None:
    expected = POINTS if dtype[0] == "f" else np.trunc(POINTS)
    found = to_points(cloud(POINTS, dtype=dtype, order=order, names=names, gap=gap, rows=rows, pad=pad))
    np.testing.assert_array_equal(found, expected)


def test_points_that_are_not_finite_are_left_out() -> None:
    holes = POINTS.copy()
    holes[1, 2], holes[3, 0] = np.nan, np.inf
    np.testing.assert_array_equal(to_points(cloud(holes)), POINTS[[0, 2, 4, 5]])


def test_a_cloud_without_points_has_none() -> None:
    assert to_points(cloud(POINTS[:0])).shape == (0, 3)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("width", 7, "cut off"),
        ("height", 2, "cut off"),
        ("row_step", 1 << 20, "cut off|needs"),
        ("point_step", 8, "cut off"),
        ("fields", [], "has: none"),
    ],
)
def test_a_cloud_that_claims_more_than_it_holds_is_refused(field: str, value: object, said: str) -> None:
    message = cloud(POINTS)
    setattr(message, field, value)
    if field == "row_step":
        message.height = 2
    with pytest.raises(MessageError, match=said):
        to_points(message)


def test_a_field_of_an_unknown_type_is_refused() -> None:
    message = cloud(POINTS)
    message.fields[1].datatype = 9
    with pytest.raises(MessageError, match="no datatype 9"):
        to_points(message)


def test_written_points_hold_their_colours_as_pcl_packs_them() -> None:
    points = POINTS.astype(np.float32)
    colors = np.arange(18, dtype=np.uint8).reshape(6, 3) * 10
    head = header()
    message = to_cloud(points, colors, header=head, types=TYPES)
    assert message.header is head
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 6, 16, 96)
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        ("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("rgb", 12, 7, 1),
    ]  # fmt: skip
    assert (message.is_dense, message.is_bigendian) == (True, False)
    np.testing.assert_array_equal(to_points(message), points)
    blue_green_red = message.data.reshape(6, 16)[:, 12:15]
    np.testing.assert_array_equal(blue_green_red[:, ::-1], colors)


def test_an_organised_cloud_keeps_its_picture_and_its_holes() -> None:
    points = POINTS.astype(np.float32).reshape(2, 3, 3).copy()
    points[1, 1] = np.nan
    message = to_cloud(points, np.zeros((2, 3, 3), np.uint8), header=header(), types=TYPES)
    assert (message.height, message.width, message.is_dense) == (2, 3, False)
    assert len(to_points(message)) == 5


def test_classes_that_check_their_fields_as_rclpy_does_are_filled() -> None:
    message = to_cloud(
        POINTS.astype(np.float32), np.zeros((6, 3), np.uint8), header=object(), types=RCLPY_LIKE
    )
    np.testing.assert_array_equal(to_points(message), POINTS)


@pytest.mark.parametrize("field", ["height", "width", "point_step", "row_step"])
def test_a_cloud_with_a_size_of_zero_has_no_points_or_is_refused(field: str) -> None:
    message = cloud(POINTS)
    setattr(message, field, 0)
    if field in ("height", "width"):
        assert to_points(message).shape == (0, 3)
    else:
        with pytest.raises(MessageError, match="its driver is wrong"):
            to_points(message)


def test_no_points_are_a_cloud_too() -> None:
    empty = to_cloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), header=header(), types=TYPES)
    assert (empty.height, empty.width, empty.row_step) == (1, 0, 0)
    assert to_points(empty).shape == (0, 3)

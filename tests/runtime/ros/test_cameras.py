"""Promises of cameras: what camera_info says of the sensor is what holds for the picture that was sent."""

from __future__ import annotations

import numpy as np
import pytest

from fiffdepth_rt.errors import MessageError
from fiffdepth_rt.geometry.camera import Intrinsics
from fiffdepth_rt.ros.cameras import intrinsics_of, is_distorted, scaled_camera_info
from tests.support.ros.bags import ROS1
from tests.support.ros.messages import ROS2, camera_info, header

CAMERA = Intrinsics(fx=500.0, fy=510.0, cx=319.5, cy=230.0, photo_hw=(480, 640))
STORES = pytest.mark.parametrize("store", [ROS1, ROS2], ids=["ros1", "ros2"])


@STORES
def test_a_picture_of_the_sensors_size_has_the_sensors_numbers(store: object) -> None:
    assert intrinsics_of(camera_info(CAMERA, store=store), (480, 640)) == CAMERA


@STORES
def test_a_resized_picture_keeps_its_rays(store: object) -> None:
    message = camera_info(CAMERA, store=store, d=(0.1, 0, 0, 0, 0))
    half = intrinsics_of(message, (240, 320))
    assert half == CAMERA.scaled((240, 320))
    head = header(7, store=store)
    scaled = scaled_camera_info(message, (240, 320), header=head)
    assert scaled.header is head
    assert (scaled.height, scaled.width) == (240, 320)
    assert intrinsics_of(scaled, (240, 320)) == half
    name = {"k": "k", "d": "d"} if store is ROS2 else {"k": "K", "d": "D"}
    np.testing.assert_allclose(
        getattr(scaled, name["k"]).reshape(3, 3), [[250, 0, 159.5], [0, 255, 114.75], [0, 0, 1]]
    )
    np.testing.assert_array_equal(getattr(scaled, name["d"]), [0.1, 0, 0, 0, 0])
    assert message.width == 640  # the camera's own message is as it was


def test_a_region_of_interest_and_binning_are_taken_in() -> None:
    message = camera_info(CAMERA)
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 60, 400, 300
    message.binning_x, message.binning_y = 2, 2
    found = intrinsics_of(message, (150, 200))
    assert found == Intrinsics(fx=250, fy=255, cx=109.5, cy=84.75, photo_hw=(150, 200))
    scaled = scaled_camera_info(message, (150, 200), header=header())
    assert (scaled.roi.width, scaled.binning_x) == (0, 0)
    assert intrinsics_of(scaled, (150, 200)) == found


def test_binning_of_one_axis_changes_the_pictures_shape() -> None:
    message = camera_info(CAMERA)
    message.binning_x = 2
    assert intrinsics_of(message, (480, 320)).fx == 250


def test_the_rectified_matrix_comes_first_and_the_baseline_is_scaled() -> None:
    message = camera_info(CAMERA)
    message.p = np.array([400, 0, 300, -60, 0, 400, 240, 0, 0, 0, 1, 0], np.float64)
    assert intrinsics_of(message, (480, 640)).fx == 400
    assert scaled_camera_info(message, (240, 320), header=header()).p[3] == -30
    message.p = np.zeros(12)
    assert intrinsics_of(message, (480, 640)) == CAMERA


def test_a_camera_without_calibration_is_told() -> None:
    message = camera_info(CAMERA)
    message.k, message.p = np.zeros(9), np.zeros(12)
    with pytest.raises(MessageError, match="holds no calibration"):
        intrinsics_of(message, (480, 640))
    message.height = 0
    with pytest.raises(MessageError, match="no height and width"):
        intrinsics_of(message, (480, 640))


def test_a_picture_of_another_shape_is_of_another_camera() -> None:
    with pytest.raises(MessageError, match="480x640 pixels, and the image has 480x480"):
        intrinsics_of(camera_info(CAMERA), (480, 480))


def test_a_bent_picture_is_known_by_its_coefficients() -> None:
    assert not is_distorted(camera_info(CAMERA))
    assert not is_distorted(camera_info(CAMERA, d=()))
    assert is_distorted(camera_info(CAMERA, d=(0.0, 0.01, 0, 0, 0)))

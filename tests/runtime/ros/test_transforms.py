"""Promises of transforms: a point of one frame is the same point in another."""

from __future__ import annotations

import types

import numpy as np
import pytest

from fiffdepth_rt.errors import MessageError
from fiffdepth_rt.ros.transforms import FrameTree, from_pose
from tests.support.ros.messages import static

HALF = np.sqrt(0.5)


def test_a_pose_turns_and_then_moves_the_points_of_the_child() -> None:
    quarter_about_z = from_pose(1, 2, 3, 0, 0, HALF, HALF)
    turned = quarter_about_z(np.array([[1.0, 0, 0], [0, 1, 5]]))
    np.testing.assert_allclose(turned, [[1, 3, 3], [0, 2, 8]], atol=1e-12)


def test_optical_axes_are_those_of_rep_103() -> None:
    # From a body frame (x forward, y left, z up) to its optical frame (z forward, x right, y down).
    optical_in_body = from_pose(0, 0, 0, -0.5, 0.5, -0.5, 0.5)
    forward, right, down = optical_in_body(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose([forward, right, down], [[1, 0, 0], [0, -1, 0], [0, 0, -1]], atol=1e-12)


def test_frames_are_joined_over_their_common_parent() -> None:
    tree = FrameTree(
        [
            static("base_link", "lidar", 0, 0, 1.5, 0, 0, HALF, HALF),
            static("base_link", "camera", 0.2, 0, 1.0, 0, 0, 0, 1),
            static("/camera", "/camera_optical", 0, 0, 0, -0.5, 0.5, -0.5, 0.5),
        ]
    )
    seen = tree.between(source="lidar", target="camera_optical")
    # 4 m along the lidar's x, which is the robot's y (left): 0.2 m behind the camera, 4 m left, 0.5 m up.
    np.testing.assert_allclose(seen(np.array([[4.0, 0, 0]])), [[-4, -0.5, -0.2]], atol=1e-12)
    back = tree.between(source="camera_optical", target="lidar")
    np.testing.assert_allclose(back(seen(np.eye(3))), np.eye(3), atol=1e-12)


def test_the_last_word_of_a_frame_holds() -> None:
    tree = FrameTree([static("a", "b", 1, 0, 0, 0, 0, 0, 1), static("a", "b", 2, 0, 0, 0, 0, 0, 1)])
    np.testing.assert_allclose(tree.between(source="b", target="a")(np.zeros((1, 3))), [[2, 0, 0]])


def test_frames_that_nothing_joins_are_told_with_those_that_are_known() -> None:
    tree = FrameTree([static("base_link", "camera", 0, 0, 0, 0, 0, 0, 1)])
    with pytest.raises(
        MessageError, match=r"'lidar' and 'camera' \(frames of tf_static: base_link, camera\)"
    ):
        tree.between(source="lidar", target="camera")
    with pytest.raises(MessageError, match="there is no tf_static"):
        FrameTree().between(source="lidar", target="camera")


def test_a_ring_of_frames_ends() -> None:
    tree = FrameTree([static("a", "b", 0, 0, 0, 0, 0, 0, 1), static("b", "a", 0, 0, 0, 0, 0, 0, 1)])
    with pytest.raises(MessageError, match="No static transforms join"):
        tree.between(source="a", target="c")


@pytest.mark.parametrize("pose", [(0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 1, 1, 0, 0), (np.nan, 0, 0, 0, 0, 0, 1)])
def test_what_is_no_rotation_is_refused(pose: tuple[float, ...]) -> None:
    with pytest.raises(MessageError, match="is no pose"):
        from_pose(*pose)


def test_messages_of_rclpy_are_read_by_their_fields() -> None:
    rclpy_like = types.SimpleNamespace(transforms=static("a", "b", 1, 0, 0, 0, 0, 0, 1).transforms)
    assert FrameTree([rclpy_like]).between(source="b", target="a").translation.tolist() == [1, 0, 0]

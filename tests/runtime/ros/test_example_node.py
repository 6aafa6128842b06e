"""Promises of the example for ROS 2: its files fit one another, and its node publishes metres only as metres.

There is no ROS here: a stand-in of rclpy runs the node's own file.
"""

from __future__ import annotations

import runpy
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import fiffdepth_rt
from fiffdepth_rt.errors import CalibrationError
from fiffdepth_rt.ros.clouds import to_points
from fiffdepth_rt.ros.images import to_metres
from tests.runtime.geometry.scene import CAMERA as SCENE_CAMERA
from tests.runtime.geometry.scene import as_seen, scene_m
from tests.support.ros import rclpy_stand_in
from tests.support.ros.bags import CAMERA, photo, true_m
from tests.support.ros.messages import camera_info, image

PACKAGE = Path(fiffdepth_rt.__file__).parents[1] / "examples" / "ros2" / "fiffdepth_ros"


def parameters(name: str) -> Any:
    return YAML(typ="safe").load((PACKAGE / "config" / name).read_text(encoding="utf-8"))


@pytest.fixture
def start(toy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def started(**said: Any) -> Any:
        for name, module in rclpy_stand_in.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        own = parameters("fiffdepth.yaml")["fiffdepth"]["ros__parameters"]
        given = {**own, "engine_dir": str(toy_dir), "threads": 1, **said}
        monkeypatch.setattr(rclpy_stand_in.Node, "parameters", given)
        return runpy.run_path(str(PACKAGE / "fiffdepth_ros" / "node.py"))["FiffDepth"]()

    return started


def send(node: Any, topic: str, message: Any) -> None:
    node.subscribed[topic][1](message)


def test_without_a_calibration_nothing_but_relative_depth_is_published(
    start: Any, depth: fiffdepth_rt.Depth
) -> None:
    node = start()
    assert node.published.keys() == {"~/relative_depth"}
    send(node, "camera_info", camera_info(CAMERA))
    send(node, "image", image(photo(0), "rgb8"))
    (message,) = node.published["~/relative_depth"]
    np.testing.assert_array_equal(to_metres(message), depth.infer(photo(0)).values)


def test_with_a_calibration_metres_and_points_are(
    start: Any, depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    depth.infer(photo(0)).align(true_m(depth, 0)).calibration.save(tmp_path / "camera.json")
    node = start(calibration=str(tmp_path / "camera.json"), point_stride=1)
    send(node, "image", image(photo(1), "rgb8"))
    assert (len(node.published["~/depth_image"]), node.published["~/points"]) == (1, [])
    send(node, "camera_info", camera_info(CAMERA))
    send(node, "image", image(photo(1), "rgb8"))
    message, cloud = node.published["~/depth_image"][1], node.published["~/points"][0]
    np.testing.assert_allclose(to_metres(message), true_m(depth, 1), rtol=1e-4)
    np.testing.assert_allclose(to_points(cloud)[:, 2], true_m(depth, 1).ravel(), rtol=1e-4)
    assert node.published["~/camera_info"][0].header is message.header is cloud.header


def test_with_the_cameras_height_metres_are_those_of_the_ground_and_without_ground_relative_depth_stays(
    start: Any, depth: fiffdepth_rt.Depth
) -> None:
    node = start(camera_height=1.2, point_stride=1)
    values = as_seen(scene_m(box=False), "depth").values
    floor = np.repeat(np.rint(255 * values).astype(np.uint8)[..., None], 3, axis=2)
    send(node, "image", image(floor, "rgb8"))
    assert "No camera_info has come" in node.said[-1]
    send(node, "camera_info", camera_info(SCENE_CAMERA))
    send(node, "image", image(floor, "rgb8"))
    send(node, "image", image(np.zeros_like(floor), "rgb8"))
    assert "No ground can be used" in node.said[-1]
    assert [len(node.published[name]) for name in ("~/relative_depth", "~/depth_image", "~/points")] == [
        3,
        1,
        1,
    ]
    known = depth.infer(floor).align_ground(SCENE_CAMERA, 1.2)
    np.testing.assert_array_equal(to_metres(node.published["~/depth_image"][0]), known.depth_m)


def test_an_image_that_cannot_be_used_is_told_and_the_next_one_is_done(start: Any) -> None:
    node = start()
    send(node, "image", image(np.zeros((32, 48), np.float32), "32FC1"))
    assert "it is a depth or infrared image" in node.said[-1]
    send(node, "image", image(photo(0), "rgb8"))
    assert len(node.published["~/relative_depth"]) == 1


def test_a_calibration_that_is_not_there_ends_the_node_at_its_start(start: Any) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        start(calibration="nowhere.json")


def test_an_image_waits_alone_so_that_the_latest_frame_wins(start: Any) -> None:
    _, _, qos = start().subscribed["image"]
    assert (qos["depth"], qos["history"], qos["reliability"]) == (1, "keep last", "best effort")


def test_the_parameter_file_names_the_nodes_parameters_and_their_defaults(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = {}

    def declare(self: Any, name: str, default: Any) -> Any:
        declared[name] = default
        return type("Parameter", (), {"value": self.parameters.get(name, default)})

    monkeypatch.setattr(rclpy_stand_in.Node, "declare_parameter", declare)
    start()
    assert parameters("fiffdepth.yaml") == {"fiffdepth": {"ros__parameters": declared}}


def test_the_launch_file_starts_the_node_with_topics_that_it_has(start: Any, tmp_path: Path) -> None:
    launch = ElementTree.parse(PACKAGE / "launch" / "fiffdepth.launch.xml").getroot()
    (node,) = launch.findall("node")
    names = {argument.get("name"): argument.get("default") for argument in launch.findall("arg")}
    assert names["params_file"].endswith("/config/fiffdepth.yaml")
    assert names["points"] == "/pipeline/points"
    running = start()
    known = {*running.subscribed, *(f"~/{name}" for name in ("relative_depth", "depth_image", "points"))}
    for remap in node.findall("remap"):
        assert remap.get("from") in known
        assert remap.get("to").removeprefix("$(var ").removesuffix(")") in names
    setup = (PACKAGE / "setup.py").read_text(encoding="utf-8")
    assert f'"{node.get("exec")} = {node.get("pkg")}.node:main"' in setup
    assert ElementTree.parse(PACKAGE / "package.xml").findtext("name") == node.get("pkg")
    for file in ("launch/fiffdepth.launch.xml", "config/fiffdepth.yaml", "config/nav2_voxel_layer.yaml"):
        assert f'"{file}"' in setup


def test_only_points_in_metres_reach_the_costmap() -> None:
    costmap = parameters("nav2_voxel_layer.yaml")["local_costmap"]["local_costmap"]["ros__parameters"]
    layer = costmap["voxel_layer"]
    assert "voxel_layer" in costmap["plugins"]
    assert layer["plugin"] == "nav2_costmap_2d::VoxelLayer"
    (source,) = layer["observation_sources"].split()
    assert (layer[source]["topic"], layer[source]["data_type"]) == ("/pipeline/points", "PointCloud2")
    assert layer[source]["obstacle_max_range"] < layer[source]["raytrace_max_range"]
    assert layer["z_voxels"] <= 16  # all that the layer holds
    assert layer["z_voxels"] * layer["z_resolution"] >= layer["max_obstacle_height"]


def test_every_file_of_the_example_says_that_it_never_ran_under_ros() -> None:
    for name in ("fiffdepth_ros/node.py", "launch/fiffdepth.launch.xml", "config/nav2_voxel_layer.yaml"):
        assert "Written, never run under ROS" in (PACKAGE / name).read_text(encoding="utf-8")

"""Promises about PLY and GLB: points and triangles where they are, in the frame of each format, in colour."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from fiffdepth_rt import to_mesh, to_points
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.geometry.scene_files import write_mesh, write_points
from tests.runtime.geometry.scene import CAMERA, HW, scene_m

DEPTH_M = scene_m().astype(np.float32)
DEPTH_M[:10] = np.nan
POINTS = to_points(DEPTH_M, CAMERA)
PHOTO = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _trimesh() -> None:
    pytest.importorskip("trimesh")


def read_ply(path: Path) -> np.ndarray:
    """The vertices of a binary PLY, read by its own header."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    kinds = {"float": "<f4", "double": "<f8", "uchar": "u1"}
    properties = [line.split() for line in lines if line.startswith("property") and "list" not in line]
    return np.frombuffer(body, [(name, kinds[kind]) for _, kind, name in properties], count)


def read_glb(path: Path) -> tuple[dict, bytes]:
    """The JSON and the binary chunk of a glTF 2.0 binary."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def accessor(content: dict, binary: bytes, index: int) -> np.ndarray:
    one = content["accessors"][index]
    view = content["bufferViews"][one["bufferView"]]
    dtype = {5126: "<f4", 5125: "<u4", 5121: "u1"}[one["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[one["type"]]
    start = view.get("byteOffset", 0) + one.get("byteOffset", 0)
    return np.frombuffer(binary, dtype, one["count"] * width, start).reshape(-1, width)


def test_a_ply_holds_each_point_with_its_colour_in_the_cameras_frame(tmp_path: Path) -> None:
    write_points(tmp_path / "a.ply", POINTS, photo=PHOTO)
    vertices = read_ply(tmp_path / "a.ply")
    there = np.isfinite(DEPTH_M)
    assert len(vertices) == np.count_nonzero(there) == 80 * 120
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(vertices[name], POINTS[there][:, axis])
    for channel, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(vertices[name], PHOTO[there][:, channel])


def test_a_glb_has_y_up_and_looks_along_minus_z(tmp_path: Path) -> None:
    mesh = to_mesh(DEPTH_M, CAMERA)
    write_mesh(tmp_path / "a.glb", mesh, photo=PHOTO)
    content, binary = read_glb(tmp_path / "a.glb")
    (primitive,) = content["meshes"][0]["primitives"]
    vertices = accessor(content, binary, primitive["attributes"]["POSITION"])
    np.testing.assert_array_equal(vertices, mesh.vertices * np.float32([1, -1, -1]))
    faces = accessor(content, binary, primitive["indices"]).reshape(-1, 3)
    np.testing.assert_array_equal(faces, mesh.faces)
    colors = accessor(content, binary, primitive["attributes"]["COLOR_0"])[:, :3]
    np.testing.assert_array_equal(colors, PHOTO.reshape(-1, 3)[mesh.pixels])
    assert vertices[:, 2].max() < 0  # all before the camera
    assert vertices[:, 1].min() == pytest.approx(-1.2, rel=1e-4)  # the ground is down


def test_a_surface_is_a_ply_too_and_points_are_a_glb(tmp_path: Path) -> None:
    mesh = to_mesh(DEPTH_M, CAMERA)
    write_mesh(tmp_path / "a.PLY", mesh)
    vertices = read_ply(tmp_path / "a.PLY")
    np.testing.assert_array_equal(vertices["z"], mesh.vertices[:, 2])
    assert f"element face {len(mesh.faces)}".encode() in (tmp_path / "a.PLY").read_bytes()[:600]
    write_points(tmp_path / "b.glb", POINTS)
    content, _ = read_glb(tmp_path / "b.glb")
    assert content["meshes"][0]["primitives"][0]["mode"] == 0  # POINTS


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.ply or \.glb"):
        write_points(tmp_path / "a.obj", POINTS)
    with pytest.raises(OutputError, match="would be empty: no pixel has a depth"):
        write_points(tmp_path / "a.ply", np.full_like(POINTS, np.nan))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.ply").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_points(tmp_path / "a.ply", POINTS)


def test_a_missing_trimesh_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(OutputError, match=r"pip install 'fiffdepth-rt\[geometry\]'"):
        write_points(tmp_path / "a.ply", POINTS)

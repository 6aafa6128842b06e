"""Promises about files of depth in metres: what their readers expect, by value, and what was not known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.geometry import depth_files
from fiffdepth_rt.geometry.depth_files import PngFactor

DEPTH_M = np.array([[0.5, 2.0, np.nan], [13.2, 70.0, 300.0]], np.float32)


@pytest.mark.parametrize(
    ("factor", "levels", "beyond"),
    [
        (PngFactor.MILLIMETRES, [[500, 2000, 0], [13200, 0, 0]], 2 / 6),
        (PngFactor.TUM, [[2500, 10000, 0], [0, 0, 0]], 3 / 6),
        (PngFactor.KITTI, [[128, 512, 0], [3379, 17920, 0]], 1 / 6),
    ],
)
def test_a_picture_holds_metres_by_its_factor_and_says_so(
    tmp_path: Path, factor: PngFactor, levels: list[list[int]], beyond: float
) -> None:
    path = tmp_path / "depth.png"
    share = depth_files.write_metres_png(path, DEPTH_M, factor, model="nano")
    assert share == pytest.approx(beyond)
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16 and found.tolist() == levels
    with Image.open(path) as picture:
        assert picture.text == {
            "Convention": f"depth along the optical axis: metres × {int(factor)}; 0 = none",
            "Model": "nano",
            "Factor": str(int(factor)),
        }


def test_the_factors_are_those_of_the_benchmarks_that_name_them() -> None:
    farthest = {one.name: round(one.farthest_m, 3) for one in PngFactor}
    assert farthest == {"MILLIMETRES": 65.535, "TUM": 13.107, "KITTI": 255.996}


def test_an_array_of_metres_keeps_what_is_not_known(tmp_path: Path) -> None:
    depth_files.write_metres_npy(tmp_path / "depth_m.npy", DEPTH_M)
    np.testing.assert_array_equal(np.load(tmp_path / "depth_m.npy"), DEPTH_M)
    said = json.loads((tmp_path / "depth_m.npy.json").read_text())
    assert said == {"Convention": "depth along the optical axis: metres; NaN = none"}


def test_a_pfm_is_bottom_up_little_endian_and_infinite_where_nothing_is_known(tmp_path: Path) -> None:
    depth_files.write_metres_pfm(tmp_path / "depth.pfm", DEPTH_M)
    kind, size, scale, pixels = (tmp_path / "depth.pfm").read_bytes().split(b"\n", 3)
    assert (kind, size, float(scale)) == (b"Pf", b"3 2", -1.0)
    rows = np.frombuffer(pixels, "<f4").reshape(2, 3)[::-1]
    np.testing.assert_array_equal(rows, np.where(np.isnan(DEPTH_M), np.inf, DEPTH_M))


def test_an_exr_has_the_channel_z_and_says_what_it_holds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    openexr = pytest.importorskip("OpenEXR")
    path = tmp_path / "depth.exr"
    depth_files.write_metres_exr(path, DEPTH_M, model="nano")
    with openexr.File(str(path)) as file:
        assert list(file.channels()) == ["Z"]
        np.testing.assert_array_equal(file.channels()["Z"].pixels, DEPTH_M)
        assert file.header()["comments"] == (
            "Convention: depth along the optical axis: metres; NaN = none; Model: nano"
        )
    assert capfd.readouterr().out == ""


def test_none_of_them_replaces_a_file_unless_told(tmp_path: Path) -> None:
    for name in ("a.png", "a.npy", "a.pfm", "a.exr"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        depth_files.write_metres_png(tmp_path / "a.png", DEPTH_M, PngFactor.TUM)
    with pytest.raises(OutputError, match="exists already"):
        depth_files.write_metres_npy(tmp_path / "a.npy", DEPTH_M)
    with pytest.raises(OutputError, match="exists already"):
        depth_files.write_metres_pfm(tmp_path / "a.pfm", DEPTH_M)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("a.png", "a.npy", "a.pfm", "a.exr"), "mine"
    )
    depth_files.write_metres_pfm(tmp_path / "a.pfm", DEPTH_M, overwrite=True)
    assert (tmp_path / "a.pfm").read_bytes().startswith(b"Pf")


def test_a_missing_library_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(OutputError, match=r"pip install 'fiffdepth-rt\[geometry\]'"):
        depth_files.write_metres_exr(tmp_path / "depth.exr", DEPTH_M)
    assert list(tmp_path.iterdir()) == []

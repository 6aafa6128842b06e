"""Promises about calibrations in files: they come back as they were, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fiffdepth_rt import Calibration
from fiffdepth_rt.errors import CalibrationError, OutputError
from tests.runtime.geometry.scene import as_seen, scene_m, some_of


@pytest.fixture
def calibration() -> Calibration:
    depth_m = scene_m()
    seen = as_seen(depth_m, "disparity", model="nano", model_sha256="ab" * 32)
    return seen.align(some_of(depth_m, 30)).calibration


def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path: Path, calibration: Calibration) -> None:
    calibration.save(tmp_path / "camera.json")
    assert Calibration.read(tmp_path / "camera.json") == calibration
    held = json.loads((tmp_path / "camera.json").read_text())
    assert held == {
        "schema": 1,
        "space": "disparity",
        "scale": calibration.scale,
        "shift": calibration.shift,
        "assumption": "fitted",
        "photo_hw": [90, 120],
        "model": "nano",
        "model_sha256": "ab" * 32,
    }
    read = Calibration.read(tmp_path / "camera.json")
    seen = as_seen(scene_m(), "disparity", model="nano", model_sha256="ab" * 32)
    np.testing.assert_array_equal(read.apply(seen), calibration.apply(seen))


def test_a_calibration_replaces_another_one_only_when_told(tmp_path: Path, calibration: Calibration) -> None:
    path = tmp_path / "camera.json"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        calibration.save(path)
    assert path.read_text() == "mine"
    calibration.save(path, overwrite=True)
    assert Calibration.read(path) == calibration


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, "is of schema 2, and this program reads 1"),
        ({"scale": 0}, "scale should be a number above 0(.0)?, but is 0"),
        ({"scale": -1.5}, "scale should be a number above 0"),
        ({"scale": "big"}, "scale should be a number"),
        ({"scale": 1e999}, "not finite"),
        ({"space": "metres"}, 'space should be one of depth, disparity, but is "metres"'),
        ({"assumption": "hope"}, "assumption should be one of"),
        ({"photo_hw": [1, 2, 3]}, "photo_hw should be a list of 2"),
        ({"photo_hw": [0, 2]}, r"photo_hw\[0\] should be a whole number of at least 1"),
        ({"shfit": 1}, "has unknown shfit .did you mean shift"),
    ],
)
def test_a_damaged_file_is_refused_by_the_place(
    tmp_path: Path, calibration: Calibration, change: dict[str, Any], why: str
) -> None:
    path = tmp_path / "camera.json"
    calibration.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CalibrationError, match=why):
        Calibration.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"a": ' + "1" * 70_000, "\xff"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "camera.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CalibrationError, match="make it again, such as by `fiffdepth calibrate kitchen"):
        Calibration.read(tmp_path / "camera.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"camera\.json cannot be read"):
        Calibration.read(tmp_path / "camera.json")
    with pytest.raises(CalibrationError, match="cannot be read"):
        Calibration.read(tmp_path)

"""Promises about `fiffdepth calibrate`, on the toy engine, for which bright is far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt import Calibration
from fiffdepth_rt.program import program

BRIGHT, GREY, DARK = (50, 80), (150, 240), (150, 100)
"""Places (x, y) in `photo`: the middles of its squares, and of the room around them."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, toy_dir: Path) -> Path:
    Image.fromarray(photo).save(tmp_path / "kitchen.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrate(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["calibrate", *arguments])


def taped(*distances: tuple[tuple[int, int], float]) -> list[str]:
    return [word for (x, y), m in distances for word in ("--at", f"{x},{y}", "--metres", str(m))]


def test_two_distances_are_met_and_kept_beside_the_photo(work: Path, depth: fiffdepth_rt.Depth) -> None:
    result = calibrate("toy", "kitchen.png", *taped((BRIGHT, 5.0), (GREY, 3.0)))
    assert (result.exit_code, result.stderr) == (0, "")
    calibration = Calibration.read("kitchen_calibration.json")
    depth_map = depth.infer("kitchen.png")
    metres = calibration.apply(depth_map)
    assert metres[80, 50] == pytest.approx(5, rel=1e-5) and metres[240, 150] == pytest.approx(3, rel=1e-5)
    assert (calibration.model, calibration.model_sha256) == ("toy", depth_map.model_sha256)
    assert calibration.photo_hw == (320, 200) and calibration.assumption == "fitted"
    assert "Scale and shift both follow from the distances." in result.stdout
    assert "A third distance would show how far the depth map is right" in result.stdout
    assert "in kitchen_calibration.json." in result.stdout


def test_one_distance_says_what_was_assumed_what_is_open_and_asks_for_a_second(work: Path) -> None:
    result = calibrate("toy", "kitchen.png", *taped((GREY, 3.0)), "-o", "one.json")
    assert result.exit_code == 0
    calibration = Calibration.read("one.json")
    assert (calibration.assumption, calibration.shift) == ("zero shift", 0)
    assert "It was assumed that the value 0 is at the camera (shift 0)." in result.stdout
    assert "One distance cannot tell the shift." in result.stdout
    assert "to 3.00 m away, and the farthest 3.00 to " in result.stdout
    assert "add its --at and --metres" in result.stdout


def test_three_distances_say_how_well_they_foretell_one_another(work: Path) -> None:
    result = calibrate("toy", "kitchen.png", *taped((BRIGHT, 5.0), (GREY, 3.0), (DARK, 1.5)))
    assert result.exit_code == 0
    assert "Each distance told from the others alone is off by" in result.stdout


def test_what_the_program_makes_infer_takes(work: Path) -> None:
    assert (
        calibrate("toy", "kitchen.png", *taped((BRIGHT, 5.0), (GREY, 3.0)), "-o", "camera.json").exit_code
        == 0
    )
    words = ["infer", "kitchen.png", "--engine", "toy", "--calibration", "camera.json", "--format", "m"]
    assert CliRunner().invoke(program, words).exit_code == 0
    metres = np.load("kitchen_depth_m.npy")
    assert (metres[80, 50], metres[240, 150]) == pytest.approx((5, 3), rel=1e-5)


def test_with_the_cameras_intrinsics_distances_are_those_of_a_tape(
    work: Path, depth: fiffdepth_rt.Depth
) -> None:
    words = [*taped((BRIGHT, 5.0), (GREY, 3.0)), "--intrinsics", "100,100,50,80", "-o", "camera.json"]
    assert calibrate("toy", "kitchen.png", *words).exit_code == 0
    metres = Calibration.read("camera.json").apply(depth.infer("kitchen.png"))
    assert metres[80, 50] == pytest.approx(5, rel=1e-5)  # in the middle of the picture
    assert metres[240, 150] == pytest.approx(3 / np.sqrt(1 + 1.0**2 + 1.6**2), rel=1e-5)


def test_a_place_where_depth_jumps_is_told(work: Path) -> None:
    result = calibrate("toy", "kitchen.png", *taped(((88, 80), 5.0), (GREY, 3.0)))
    assert "88,80 lies where depth jumps" in result.stderr


def test_an_earlier_calibration_is_kept_unless_told(work: Path) -> None:
    Path("kitchen_calibration.json").write_text("mine")
    words = ["toy", "kitchen.png", *taped((BRIGHT, 5.0), (GREY, 3.0))]
    result = calibrate(*words)
    assert result.exit_code == 1 and "exists already: pass --overwrite" in result.stderr
    assert Path("kitchen_calibration.json").read_text() == "mine"
    assert calibrate(*words, "--overwrite").exit_code == 0
    assert Calibration.read("kitchen_calibration.json").scale > 0


@pytest.mark.parametrize("name", ["kitchen.png", "hard.json", "link.json"])
def test_a_calibration_never_replaces_its_photo(work: Path, name: str) -> None:
    (work / "hard.json").hardlink_to(work / "kitchen.png")
    (work / "link.json").symlink_to("kitchen.png")
    before = Path("kitchen.png").read_bytes()
    result = calibrate("toy", "kitchen.png", *taped((BRIGHT, 5.0), (GREY, 3.0)), "-o", name, "--overwrite")
    assert (result.exit_code, "is the photo kitchen.png itself" in result.stderr) == (1, True)
    assert Path("kitchen.png").read_bytes() == before and (work / "link.json").is_symlink()


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["toy", "", *taped((BRIGHT, 1.0))], 2, "'' is no name"),
        (["", "kitchen.png", *taped((BRIGHT, 1.0))], 2, "'' is no name"),
        (["toy", ".", *taped((BRIGHT, 1.0))], 1, ". is not a regular file: name a photo file."),
        (["toy", "kitchen.png"], 2, "Either distances or the ground: say --at X,Y"),
        (["toy", "a.png", "b.png", *taped((BRIGHT, 1.0))], 2, "name an engine directory and one photo"),
        (
            ["toy", "kitchen.png", *taped((BRIGHT, 5.0)), "--at", "1,1"],
            2,
            "--at was said 2 times, and --metres 1",
        ),
        (["toy", "kitchen.png", "--at", "left", "--metres", "1"], 2, "'left' is no place"),
        (["toy", "kitchen.png", "--at", "1,1", "--metres", "0"], 2, "0"),
        (["toy", "kitchen.png", "--at", "1,1", "--metres", "nan"], 1, "distances are positive"),
        (["toy", "nothing.png", *taped((BRIGHT, 1.0))], 1, "nothing.png"),
        (["toy", "kitchen.png", *taped(((200, 0), 1.0))], 1, "outside the photo of 200 px across"),
        (["toy", "kitchen.png", *taped((BRIGHT, 3.0), (GREY, 5.0))], 1, "what the model calls near is far"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    work: Path, words: list[str], status: int, why: str
) -> None:
    result = calibrate(*words)
    assert result.exit_code == status and why in result.stderr
    assert not list(work.glob("*.json"))


def test_a_photo_whose_calibration_would_have_too_long_a_name_is_refused_before_it_is_measured(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fiffdepth_rt.Depth, "infer", lambda *_: pytest.fail("measured"))
    long = f"{'k' * 240}.png"
    (work / "kitchen.png").rename(work / long)
    result = calibrate("toy", long, *taped((GREY, 3.0)))
    assert result.exit_code == 2
    assert "longer than a name may be, 255 bytes: name the calibration with -o." in result.stderr

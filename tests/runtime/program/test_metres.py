"""Promises about `fiffdepth infer` in metres: --sparse, --calibration, --intrinsics and the metric formats.

On the toy engine; the truth is TRUTH_SCALE · value + TRUTH_SHIFT of its own depth map.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt import Calibration
from fiffdepth_rt.geometry.calibration import Assumption
from fiffdepth_rt.photos.results import FORMATS
from fiffdepth_rt.program import program
from tests.runtime.geometry.scene import CAMERA as CAMERA_OF_SCENE
from tests.runtime.geometry.scene import as_seen, scene_m

TRUTH_SCALE, TRUTH_SHIFT = 4.0, 1.0
CAMERA = "--intrinsics", "300,300,99.5,159.5"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, toy_dir: Path) -> Path:
    """The current folder: kitchen.png, hall.png of its size, wide.png of another, and the engine toy."""
    Image.fromarray(photo).save(tmp_path / "kitchen.png")
    Image.fromarray(255 - photo).save(tmp_path / "hall.png")
    Image.fromarray(np.rot90(photo)).save(tmp_path / "wide.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def truth_m(photo: np.ndarray, depth: fiffdepth_rt.Depth) -> np.ndarray:
    """float32 H×W metres of kitchen.png."""
    return depth.infer(photo).values * np.float32(TRUTH_SCALE) + np.float32(TRUTH_SHIFT)


@pytest.fixture
def points(work: Path, truth_m: np.ndarray) -> Path:
    """points.npy: 60 rows of (x, y, metres), six of them wrong."""
    random = np.random.default_rng(0)
    y, x = np.divmod(random.permutation(truth_m.size)[:60], truth_m.shape[1])
    rows = np.stack([x, y, truth_m[y, x]], axis=1)
    rows[:6, 2] = random.uniform(8, 20, 6)
    np.save("points.npy", rows)
    return Path("points.npy")


@pytest.fixture
def calibration(work: Path, depth: fiffdepth_rt.Depth, photo: np.ndarray) -> Path:
    """camera.json: the truth, as a file."""
    Calibration.of(
        depth.infer(photo), scale=TRUTH_SCALE, shift=TRUTH_SHIFT, assumption=Assumption.FITTED
    ).save("camera.json")
    return Path("camera.json")


def infer(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["infer", "--engine", "toy", *arguments])


def test_a_few_distances_make_metres_of_a_photo(points: Path, truth_m: np.ndarray) -> None:
    result = infer("kitchen.png", "--sparse", "points.npy", "--format", "m,mm")
    assert (result.exit_code, result.stderr) == (0, "")
    np.testing.assert_allclose(np.load("kitchen_depth_m.npy"), truth_m, rtol=1e-4)
    levels = cv2.imread("kitchen_depth_mm.png", cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(levels, truth_m * 1000, atol=1)
    assert "In metres by 54 of the 60 distances in points.npy; they are met to" in result.stdout
    assert "relative" not in result.stdout


def test_distances_may_be_a_picture_of_the_photos_size(work: Path, truth_m: np.ndarray) -> None:
    sparse_m = np.full(truth_m.shape, np.nan, np.float32)
    sparse_m[::40, ::40] = truth_m[::40, ::40]
    np.save("sparse.npy", sparse_m)
    assert infer("kitchen.png", "--sparse", "sparse.npy", "--format", "m").exit_code == 0
    np.testing.assert_allclose(np.load("kitchen_depth_m.npy"), truth_m, rtol=1e-4)


def test_a_result_never_replaces_the_distances_that_it_is_made_of(points: Path) -> None:
    points.rename("kitchen_depth_m.npy")
    Path("others.npy").symlink_to("kitchen_depth_m.npy")
    before = Path("kitchen_depth_m.npy").read_bytes()
    for name in ("kitchen_depth_m.npy", "others.npy"):
        result = infer("kitchen.png", "--sparse", name, "--format", "m", "--overwrite")
        assert (result.exit_code, f"is --sparse {name} itself" in result.stderr) == (1, True)
    assert Path("kitchen_depth_m.npy").read_bytes() == before


def test_a_calibration_serves_every_photo_of_the_camera(
    calibration: Path, truth_m: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    result = infer("kitchen.png", "hall.png", "--calibration", "camera.json", "--format", "m,png16")
    assert (result.exit_code, result.stderr) == (0, "")
    np.testing.assert_allclose(np.load("kitchen_depth_m.npy"), truth_m, rtol=1e-5)
    other = depth.infer("hall.png").values
    np.testing.assert_allclose(np.load("hall_depth_m.npy"), TRUTH_SCALE * other + TRUTH_SHIFT, rtol=1e-5)
    assert result.stdout.count("In metres by camera.json. Scale and shift both follow from") == 1
    assert "relative, not metres" in result.stdout  # of the PNGs


def test_points_and_a_surface_want_the_camera_and_lie_where_they_should(
    calibration: Path, truth_m: np.ndarray
) -> None:
    trimesh = pytest.importorskip("trimesh")
    result = infer("kitchen.png", "--calibration", "camera.json", *CAMERA, "--format", "ply,glb")
    assert (result.exit_code, result.stderr) == (0, "")
    points = trimesh.load("kitchen_points.ply").vertices
    assert len(points) == truth_m.size
    x, y, z = points.reshape(320, 200, 3)[300, 10]
    assert (x, y, z) == pytest.approx(
        ((10 - 99.5) / 300 * z, (300 - 159.5) / 300 * z, truth_m[300, 10]), rel=1e-4
    )
    assert trimesh.load("kitchen_surface.glb").bounds[1, 2] == pytest.approx(-truth_m.min(), rel=1e-4)


def test_every_format_is_written_and_left_out_of_a_folder_the_next_time(
    calibration: Path, work: Path
) -> None:
    for library in ("trimesh", "OpenEXR"):
        pytest.importorskip(library)
    given = ["--calibration", "camera.json", *CAMERA, "--format", ",".join(FORMATS)]
    assert infer("kitchen.png", *given).exit_code == 0
    made = {path.name for path in work.glob("kitchen_*")}
    assert made == {f"kitchen{one.ending}" for one in FORMATS.values()} | {
        "kitchen_depth.npy.json",
        "kitchen_depth_m.npy.json",
    }
    (work / "wide.png").unlink()
    again = infer(".", "--format", "npy", "-o", "out")
    assert again.exit_code == 0 and again.stdout.startswith("2 photos -> 2 files in out\n")


def test_pixels_beyond_what_a_picture_holds_are_said(work: Path, calibration: Path) -> None:
    held = json.loads(calibration.read_text())
    calibration.write_text(json.dumps({**held, "scale": 100.0}))
    result = infer("kitchen.png", "--calibration", "camera.json", "--format", "tum")
    assert result.exit_code == 0
    assert "of the pixels of kitchen_depth_tum.png lie beyond 13.1 m" in result.stderr
    assert cv2.imread("kitchen_depth_tum.png", cv2.IMREAD_UNCHANGED).max() < 65535


# --- what is refused, before any work ---


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ["--format", "mm"],
            "mm holds metres, and a depth map is known up to scale and shift: pass --sparse",
        ),
        (["--format", "ply", *CAMERA], "ply holds metres"),
        (["--format", "ply", "--sparse", "points.npy"], "pass --intrinsics fx,fy,cx,cy"),
        (["--sparse", "points.npy"], "None of the formats holds metres: name one.*--format mm"),
        ([*CAMERA], "None of the formats holds metres"),
        (["--format", "m", "--sparse", "points.npy", "--calibration", "camera.json"], "pass one of them"),
        (["hall.png", "--format", "m", "--sparse", "points.npy"], "of one photo, and there are 2"),
        (["--intrinsics", "1,2,3"], "is not fx,fy,cx,cy"),
        (["--format", "metres"], "'metres' is no format: say one or more of png16,npy,color,m,mm"),
    ],
)
def test_what_does_not_fit_together_is_said_before_any_work(
    points: Path, calibration: Path, work: Path, arguments: list[str], why: str
) -> None:
    before = set(work.iterdir())
    result = infer("kitchen.png", *arguments)
    assert result.exit_code == 2
    assert re.search(why, " ".join(result.stderr.split()))
    assert set(work.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_sha256": "cd" * 32}, "another model, or another precision of it"),
        ({"space": "disparity"}, "speaks disparity, and this one speaks depth"),
        ({"scale": -1}, "is damaged: scale should be a number above 0"),
    ],
)
def test_a_calibration_of_another_model_is_refused_before_any_photo(
    calibration: Path, work: Path, change: dict[str, Any], why: str
) -> None:
    calibration.write_text(json.dumps({**json.loads(calibration.read_text()), **change}))
    result = infer("kitchen.png", "hall.png", "--calibration", "camera.json", "--format", "m")
    assert result.exit_code == 1 and result.stderr.count("Error: ") == 1 and why in result.stderr
    assert "fiffdepth calibrate kitchen.jpg" in result.stderr
    assert not list(work.glob("*.npy"))


def test_a_photo_of_another_aspect_is_skipped_and_the_others_are_done(calibration: Path, work: Path) -> None:
    result = infer("wide.png", "kitchen.png", "--calibration", "camera.json", "--format", "m")
    assert result.exit_code == 1
    assert "Skipped: The calibration is of 320x200 px" in result.stderr
    assert {path.name for path in work.glob("*.npy")} == {"kitchen_depth_m.npy"}


DAMAGES = (
    "empty",
    "text",
    "cut",
    "a huge promise",
    "a promise beyond all numbers",
    "a header of brackets",
    "a zip",
    "pickled",
)


def promising(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    said = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, said)
    return file.getvalue() + bytes(64)


def damaged(name: str, good: bytes) -> bytes:
    return {
        "empty": b"",
        "text": b"x,y,z\n1,2,3\n",
        "cut": good[:-9],
        "a huge promise": good.replace(b"(60, 3)", b"(6e9,3)").replace(b"(6e9,3)", b"(9**9,)"),
        "a promise beyond all numbers": promising((2**63, 3)),
        "a header of brackets": good[:10] + b"(" * (len(good) - 10),
        "a zip": b"PK\x03\x04" + good,
        "pickled": pickle.dumps([1, 2, 3]),
    }[name]


@pytest.mark.parametrize("name", [*DAMAGES])
def test_a_file_that_holds_no_distances_is_refused_in_a_sentence(points: Path, work: Path, name: str) -> None:
    points.write_bytes(damaged(name, points.read_bytes()))
    result = infer("kitchen.png", "--sparse", "points.npy", "--format", "m")
    assert result.exit_code == 1 and "points.npy cannot be read as an NPY file" in result.stderr
    assert "bug of fiffdepth" not in result.stderr and not Path("kitchen_depth_m.npy").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (np.zeros(5), "holds no distances"),
        (np.zeros((4, 3, 2)), "holds no distances"),
        (np.array([["a", "b", "c"]]), "holds no distances"),
        (np.ones((320, 200), np.uint16), "mostly millimetres"),
        (np.ones((32, 20)), "has 32x20 pixels, and the photo 320x200"),
        (np.array([[0, 0, 1.0]]), "1 known distances are too few"),
        (np.array([[0, 0, 1.0], [999, 0, 2.0]]), "Point 1 lies at x=999, y=0, outside the photo"),
    ],
)
def test_distances_that_cannot_be_used_are_refused(work: Path, content: np.ndarray, why: str) -> None:
    np.save("points.npy", content)
    result = infer("kitchen.png", "--sparse", "points.npy", "--format", "m")
    assert result.exit_code == 1 and why in result.stderr
    assert not Path("kitchen_depth_m.npy").exists()


GROUND = ["--camera-height", "1.2", "--intrinsics", "100,100,59.5,44.5"]


@pytest.fixture
def ground(work: Path) -> np.ndarray:
    """ground.png, which the toy sees as a floor before a wall; and its metres."""
    metres = scene_m(box=False)
    values = as_seen(metres, "depth").values
    Image.fromarray(np.rint(255 * values).astype(np.uint8)).convert("RGB").save("ground.png")
    return metres


@pytest.mark.parametrize("pitch", [[], ["--pitch", "0"]])
def test_the_cameras_height_above_the_ground_makes_metres(
    ground: np.ndarray, depth: fiffdepth_rt.Depth, pitch: list[str]
) -> None:
    result = infer("ground.png", *GROUND, *pitch, "--format", "m")
    assert (result.exit_code, result.stderr) == (0, "")
    assumed = "It was assumed that the photo's lower part shows flat ground."
    assert f"In metres by the ground, 1.2 m below the camera. {assumed}\n" in result.stdout
    found = np.load("ground_depth_m.npy")
    known = depth.infer("ground.png").align_ground(CAMERA_OF_SCENE, 1.2, pitch_deg=0 if pitch else None)
    np.testing.assert_array_equal(found, known.depth_m)
    if pitch:  # the toy blurs, which bends its floor
        assert np.median(np.abs(found / ground - 1)[-36:]) < 0.1


def test_a_calibration_by_the_ground_serves_other_photos_and_says_what_it_took_for_true(
    ground: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    words = ["calibrate", "toy", "ground.png", *GROUND, "--pitch", "0", "-o", "ground.json"]
    result = CliRunner().invoke(program, words)
    assert (result.exit_code, result.stderr) == (0, "")
    said = result.stdout.splitlines()
    assert re.match(
        r"In metres by the ground, 1.2 m below the camera: \d+% of the photo's lower part", said[0]
    )
    assert said[1] == "It was assumed that the photo's lower part shows flat ground."
    assert said[-1].startswith("depth in metres = ") and said[-1].endswith(", in ground.json.")
    by_ground = depth.infer("ground.png").align_ground(CAMERA_OF_SCENE, 1.2, pitch_deg=0)
    assert Calibration.read("ground.json") == by_ground.calibration
    assert infer("ground.png", "--calibration", "ground.json", "--format", "m").exit_code == 0
    np.testing.assert_array_equal(np.load("ground_depth_m.npy"), by_ground.depth_m)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["infer", *GROUND[:2], "--format", "m"], "--camera-height measures along rays"),
        (
            ["infer", "--pitch", "3", "--format", "m", "--sparse", "p.npy"],
            "--pitch is for metres by the ground",
        ),
        (["infer", *GROUND, "--sparse", "p.npy", "--format", "m"], "--sparse and --camera-height both give"),
        (["infer", *GROUND], "None of the formats holds metres"),
        (["calibrate"], "Either distances or the ground"),
        (["calibrate", *GROUND, "--at", "3,4", "--metres", "2"], "Either distances or the ground"),
        (["calibrate", *GROUND[:2]], "--camera-height measures along rays"),
    ],
)
def test_what_the_ground_wants_is_said(words: list[str], said: str, ground: np.ndarray) -> None:
    result = CliRunner().invoke(program, [words[0], "ground.png", *words[1:]])
    assert (result.exit_code, said in " ".join(result.stderr.split())) == (2, True), result.stderr


def test_a_photo_without_ground_is_refused_and_says_what_to_do(work: Path) -> None:
    result = infer("kitchen.png", *GROUND, "--format", "m")
    assert result.exit_code == 1
    assert "No ground can be used in the lower 40% of the photo" in result.stderr
    assert not Path("kitchen_depth_m.npy").exists()

"""Promises of the temporal error: known depths on known cameras give the number computed by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import temporal
from benchmarks.evaluation.methods import EngineChoice
from benchmarks.evaluation.options import How
from benchmarks.evaluation.temporal_task import FrameWork
from benchmarks.sets import posed, rendered_clips
from benchmarks.sets.clips import ClipChoice
from benchmarks.sets.posed import Clip
from tests.support.tables import cells
from tests.support.tiny_teachers import save_depth_anything
from training.scenes.scene import Camera

INTRINSICS = np.array([[40.0, 0, 19.5], [0, 40.0, 14.5], [0, 0, 1]])
EVERYWHERE = np.ones((2, 30, 40), dtype=bool)


def poses(*ahead_m: float) -> np.ndarray:
    """Cameras that look along z, each so many metres ahead."""
    matrices = np.stack([np.eye(4)] * len(ahead_m))
    matrices[:, 2, 3] = ahead_m
    return matrices


def walls(*distance_m: float) -> np.ndarray:
    return np.stack([np.full((30, 40), distance) for distance in distance_m])


def test_a_wall_seen_from_nearer_has_no_error() -> None:
    assert temporal.tae(walls(4, 3), EVERYWHERE, poses(0, 1), INTRINSICS) == pytest.approx(0, abs=1e-9)


def test_a_wall_that_is_seen_wrong_has_the_error_computed_by_hand() -> None:
    forwards = abs(3.3 - 3) / 3.3  # the first frame says 3 m, the second 3.3 m
    backwards = abs(4 - 4.3) / 4
    expected = 100 * (forwards + backwards) / 2
    assert temporal.tae(walls(4, 3.3), EVERYWHERE, poses(0, 1), INTRINSICS) == pytest.approx(expected)


def _plain_tae(depth: np.ndarray, valid: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> float:
    """The published definition, pixel by pixel: the last one that falls on a place counts."""
    (fx, _, cx), (_, fy, cy), _ = intrinsics.tolist()
    count, h, w = depth.shape
    total = 0.0
    for i in range(count - 1):
        for a, b in ((i, i + 1), (i + 1, i)):
            seen: dict[tuple[int, int], float] = {}
            for y, x in itertools.product(range(h), range(w)):
                z = float(depth[a, y, x])
                point = np.linalg.inv(pose[b]) @ pose[a] @ [(x - cx) / fx * z, (y - cy) / fy * z, z, 1]
                if z > 0 and point[2] > 1e-6:
                    column = round(fx * point[0] / point[2] + cx)
                    row = round(fy * point[1] / point[2] + cy)
                    seen[row, column] = point[2]
            errors = [
                abs(depth[b, y, x] - seen[y, x]) / depth[b, y, x]
                for y, x in itertools.product(range(h), range(w))
                if valid[b, y, x] and depth[b, y, x] > 0 and (y, x) in seen
            ]
            total += sum(errors) / len(errors) if errors else 0
    return 100 * total / (2 * (count - 1))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_the_error_is_the_published_definition_pixel_by_pixel(seed: int) -> None:
    """Random depths with holes, random masks, and cameras that move and turn."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 5, (3, 6, 8)) * (rng.random((3, 6, 8)) < 0.9)
    valid = rng.random((3, 6, 8)) < 0.8
    pose = np.stack([np.eye(4)] * 3)
    for one in pose:
        axis = rng.normal(size=3)
        one[:3, :3] = cv2.Rodrigues(0.2 * axis / np.linalg.norm(axis))[0]
        one[:3, 3] = rng.normal(0, 0.3, 3)
    intrinsics = np.array([[9.3, 0, 3.6], [0, 8.9, 2.4], [0, 0, 1]])
    found = temporal.tae(depth, valid, pose, intrinsics)
    assert found == pytest.approx(_plain_tae(depth, valid, pose, intrinsics), rel=1e-6, abs=1e-6)


def test_three_frames_are_the_mean_of_two_steps() -> None:
    three = np.ones((3, 30, 40), dtype=bool)
    error = 100 * (abs(2.2 - 2) / 2.2 + abs(2 - 2.2) / 2) / 2
    assert temporal.tae(walls(2, 2.2, 2.2), three, poses(0, 0, 0), INTRINSICS) == pytest.approx(error / 2)


def test_only_valid_pixels_count() -> None:
    depth = walls(2, 2)
    depth[1, :15] = 5
    valid = EVERYWHERE.copy()
    valid[:, :15] = False
    assert temporal.tae(depth, valid, poses(0, 0), INTRINSICS) == 0


def test_one_frame_has_no_temporal_error() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        temporal.tae(walls(2), EVERYWHERE[:1], poses(0), INTRINSICS)


def test_a_level_camera_looks_along_y_with_z_up() -> None:
    camera = Camera(eye=(1.0, 2.0, 3.0), yaw=0.0, pitch=0.0, roll=0.0, focal=1.0)
    expected = [[1, 0, 0, 1], [0, 0, 1, 2], [0, -1, 0, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(rendered_clips.pose_of(camera), expected, atol=1e-12)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return rendered_clips.render_clip(54, frames=6, size_hw=(96, 128))


def test_poses_and_intrinsics_are_those_of_the_rendered_depth(clip: Clip) -> None:
    """Exact depth agrees with itself across frames but for rounding; wrong poses would not."""
    valid, depth = clip.depth_m < temporal.MAX_M, clip.depth_m.astype(np.float64)
    exact = temporal.tae(depth, valid, clip.pose, clip.intrinsics)
    assert exact < 3
    assert temporal.tae(depth, valid, clip.pose[::-1], clip.intrinsics) > 2 * exact


def test_the_score_does_not_depend_on_scale_and_shift(clip: Clip) -> None:
    depth = clip.depth_m.astype(np.float64)
    exact = temporal.score(clip, depth, space="depth")
    assert temporal.score(clip, depth / 80 + 0.05, space="depth") == pytest.approx(exact, abs=1e-6)


def test_flicker_is_measured_and_smoothing_lowers_it(clip: Clip) -> None:
    from fiffdepth_rt.smoothing import Smoother

    rng, smoother = np.random.default_rng(0), Smoother(30)
    steady = np.clip(clip.depth_m / 12, 0, 1)
    jitter = rng.normal(0, 0.04, (6, 1, 1))
    flickering = np.clip(steady * (1 + jitter) + jitter / 2, 0, 1).astype(np.float32)
    exact, before, after = (
        temporal.score(clip, maps, space="depth")
        for maps in (steady, flickering, np.stack([smoother(d) for d in flickering]))
    )
    assert exact < after < before
    assert after - exact < (before - exact) / 2


def test_an_engine_has_rows_with_flicker_and_for_the_smoothing_of_streams(toy_dir: Path) -> None:
    clip = ClipChoice(word="room:54", frames=2)
    work = FrameWork(choice=EngineChoice(folder=toy_dir, threads=1), clip=clip, keep=None)
    rows = temporal.with_means([temporal.truth_row(clip), *temporal.evaluate(work, How(), [10]).rows])
    methods = ("truth", "toy", "toy, smooth=10", "toy + flicker", "toy + flicker, smooth=10")
    assert [(r.scene, r.method) for r in rows] == [(s, m) for s in ("room 54", "mean") for m in methods]
    assert all(0 < row.tae < 100 and row.frames == 2 for row in rows)


@pytest.mark.soak
def test_rooms_are_rendered_where_no_video_is_named(tmp_path: Path) -> None:
    _, result = scored("--model", "ramp", "--frames", "2", "--out", tmp_path)
    scenes = ("room 11", "room 42", "room 54", "room 60", "mean")
    assert [(r["scene"], r["method"]) for r in result["rows"] if r["method"] == "ramp"] == [
        (scene, "ramp") for scene in scenes
    ]


# ---- posed video, as it lies on disk: a wall at 4 m, then at 3.3 m from a camera a metre ahead ----

HW = (30, 40)
CAMERA = (40.0, 40.0, 19.5, 14.5)
TURNED = np.array([[0, 0, 1, 2], [1, 0, 0, 3], [0, 1, 0, 4], [0, 0, 0, 1.0]])
"""World coordinates that are not the first camera's: x y z of the camera are y z x of the world."""


def two_poses() -> list[np.ndarray]:
    ahead = np.eye(4)
    ahead[2, 3] = 1
    return [TURNED, TURNED @ ahead]


def two_depths_m() -> list[np.ndarray]:
    return [np.full(HW, 4.0), np.full(HW, 3.3)]


def save_photo(path: Path, hw: tuple[int, int] = HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*hw, 3), 77, np.uint8)).save(path)


def save_depth(path: Path, depth_m: np.ndarray, factor: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    units = np.rint(depth_m * factor).astype(np.uint16)
    units[0, 0] = 65535 if factor == 1000 else 0  # no reading
    Image.fromarray(units).save(path)


def write_7scenes(folder: Path) -> None:
    for i, (pose, depth) in enumerate(zip(two_poses(), two_depths_m(), strict=True)):
        save_photo(folder / f"frame-00000{i}.color.png")
        save_depth(folder / f"frame-00000{i}.depth.png", depth, 1000)
        np.savetxt(folder / f"frame-00000{i}.pose.txt", pose)


def write_scannet(folder: Path) -> None:
    """Photos of another size than depth, ten frames and names without leading zeros, one that was not
    tracked."""
    lost = np.full((4, 4), -np.inf)
    for number, (pose, depth) in {2: (two_poses()[0], 0), 9: (lost, 0), 10: (two_poses()[1], 1)}.items():
        save_photo(folder / "color" / f"{number}.jpg", (60, 80))
        save_depth(folder / "depth" / f"{number}.png", two_depths_m()[depth], 1000)
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
    (folder / "intrinsic").mkdir()
    fx, fy, cx, cy = CAMERA
    own = np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", own)


def write_tum(folder: Path) -> None:
    """Times that do not agree: depth 10 ms later, poses 5 ms earlier; and a photo that nothing is near to."""
    names = ("1.000000", "1.033000", "1.500000")
    for name, depth in zip(names[:2], two_depths_m(), strict=True):
        save_photo(folder / "rgb" / f"{name}.png")
        save_depth(folder / "depth" / f"{name}.png", depth, 5000)
    listed = "".join(f"{name} rgb/{name}.png\n" for name in names)
    (folder / "rgb.txt").write_text("# color images\n" + listed)
    later = "".join(f"{float(name) + 0.01:.6f} depth/{name}.png\n" for name in names[:2])
    (folder / "depth.txt").write_text("# depth maps\n" + later)
    # The quaternion of TURNED: a third of a turn about (1, 1, 1).
    lines = [
        f"{float(name) - 0.005:.6f} {' '.join(str(x) for x in pose[:3, 3])} 0.5 0.5 0.5 0.5\n"
        for name, pose in zip(names[:2], two_poses(), strict=True)
    ]
    (folder / "groundtruth.txt").write_text("# timestamp tx ty tz qx qy qz qw\n" + "".join(lines))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "7scenes": write_7scenes,
    "scannet": write_scannet,
    "tum": write_tum,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_posed_video_as_published_has_the_error_worked_out_by_hand(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    clip = posed.open_clip(f"{layout}:{tmp_path}", frames=48, camera=CAMERA)
    for found, pose in zip(clip.pose, two_poses(), strict=True):
        np.testing.assert_allclose(found, pose, atol=1e-9)
    assert len(clip.photos) == 2 and clip.depth_m[0, 0, 0] == 0
    if layout == "scannet":
        inside = clip.depth_m[0] > 0
        assert np.flatnonzero(inside.any(1)).tolist() == list(range(8, 22))
        assert np.flatnonzero(inside.any(0)).tolist() == list(range(11, 29))
    valid = clip.depth_m > 0
    error = temporal.tae(clip.depth_m.astype(np.float64), valid, clip.pose, clip.intrinsics)
    expected = 100 * (abs(3.3 - 3) / 3.3 + abs(4 - 4.3) / 4) / 2
    assert error == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("layout", "camera"),
    [("7scenes", (585, 585, 320, 240)), ("scannet", CAMERA), ("tum", (525, 525, 319.5, 239.5))],
)
def test_each_layout_has_its_own_camera(layout: str, camera: tuple[float, ...], tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    found = posed.open_clip(f"{layout}:{tmp_path}", frames=2).intrinsics
    assert (found[0, 0], found[1, 1], found[0, 2], found[1, 2]) == camera


def scored(*words: str | Path) -> tuple[Result, dict[str, Any]]:
    """`--out`, the last word, holds the result."""
    ended = CliRunner().invoke(temporal.main, [str(word) for word in words])
    assert ended.exit_code == 0, ended.output
    return ended, json.loads((Path(words[-1]) / "result.json").read_text())


def test_a_video_is_scored_by_the_command_beside_the_ramp(tmp_path: Path) -> None:
    write_scannet(tmp_path / "scene")
    words = ("--video", f"scannet:{tmp_path / 'scene'}", "--smooth", "10", "--size", "64")
    ended, _ = scored(*words, "--keep", tmp_path / "kept", "--out", tmp_path / "out")
    rows = [line for line in cells(ended.output) if line[0] == "scannet:scene"]
    variants = ["nano", "nano, smooth=10", "nano + flicker", "nano + flicker, smooth=10"]
    assert [row[1] for row in rows] == ["truth", *variants, "ramp"] and {row[2] for row in rows} == {"2"}
    assert len(list((tmp_path / "kept").rglob("*.npy"))) == 1  # both photos have the same pixels


PREDICTIONS = {
    "7scenes": "frame-00000{}.npy",
    "scannet": "color/{}.npy",
    "tum": "rgb/{}.npy",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_predictions_in_files_have_the_truths_error_in_every_layout(layout: str, tmp_path: Path) -> None:
    """Disparity of the walls, scaled and shifted; where nothing is valid, the truth and they differ."""
    LAYOUTS[layout](tmp_path / "clip")
    names = {"7scenes": (0, 1), "scannet": (2, 10), "tum": ("1.000000", "1.033000")}[layout]
    hw = (60, 80) if layout == "scannet" else HW  # of the photos
    for name, depth_m in zip(names, (4.0, 3.3), strict=True):
        file = tmp_path / "maps" / "clip" / PREDICTIONS[layout].format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full(hw, 0.7 / depth_m + 0.1, np.float32))
    words = ("--video", f"{layout}:{tmp_path / 'clip'}", "--camera", ",".join(map(str, CAMERA)))
    words = (*words, "--predictions", tmp_path / "maps", "--space", "disparity", "--out", tmp_path / "out")
    _, result = scored(*words)
    truth, maps, *means = result["rows"]
    expected = 100 * (abs(3.3 - 3) / 3.3 + abs(4 - 4.3) / 4) / 2
    assert (truth["method"], truth["tae"]) == ("truth", pytest.approx(expected, rel=1e-5))
    assert (maps["method"], maps["tae"]) == ("maps", pytest.approx(expected, rel=1e-5))
    assert [row["scene"] for row in means] == ["mean", "mean"]
    assert result["clips"][0]["choices"]["output_space"] == "disparity"


def test_a_frame_without_a_prediction_is_named_and_its_pairs_are_left_out(tmp_path: Path) -> None:
    """Four frames of one wall, the third without a map: the first pair alone is left, and has no error."""
    clip, maps = tmp_path / "clip", tmp_path / "maps" / "clip"
    maps.mkdir(parents=True)
    for i, distance in enumerate((4.0, 3.0, 2.0, 1.5)):
        pose = np.eye(4)
        pose[2, 3] = 4 - distance
        save_photo(clip / f"frame-00000{i}.color.png")
        save_depth(clip / f"frame-00000{i}.depth.png", np.full(HW, distance), 1000)
        np.savetxt(clip / f"frame-00000{i}.pose.txt", pose)
        np.save(maps / f"frame-00000{i}.npy", np.full(HW, np.nan if i == 2 else distance))
    words = ("--video", f"7scenes:{clip}", "--predictions", tmp_path / "maps", "--space", "depth")
    ended, result = scored(*words, "--out", tmp_path / "out")
    (skipped,) = result["clips"][0]["skipped"]
    assert skipped["name"] == "frame-000002.color.png" and "NaN or infinite" in skipped["reason"]
    assert result["rows"][1]["frames"] == 3 and result["rows"][1]["tae"] == pytest.approx(0, abs=1e-6)
    assert ["7scenes:clip", "maps", "3 of 4", "0.00"] in cells(ended.output)
    assert "Skipped of 7scenes:clip, maps: 1. frame-000002.color.png" in ended.output
    (maps / "frame-000000.npy").unlink()
    ended = CliRunner().invoke(temporal.main, [str(word) for word in words])
    assert ended.exit_code == 1
    assert "needs at least 2 neighbouring frames with a prediction. The first: frame-000000" in ended.stderr


def test_a_peer_is_scored_on_a_video(tmp_path: Path) -> None:
    save_depth_anything(tmp_path / "da")
    write_tum(tmp_path / "desk")
    words = ("--video", f"tum:{tmp_path / 'desk'}", "--model", tmp_path / "da", "--keep", tmp_path / "kept")
    _, result = scored(*words, "--out", tmp_path / "out")
    (clip,) = result["clips"]
    assert (clip["method"], clip["choices"]["library"]) == ("da", "transformers")
    assert [row["method"] for row in result["rows"]] == ["truth", "da"] * 2


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("kitti:.", "say 7scenes:DIR, scannet:DIR, tum:DIR"),
        ("7scenes:.", "holds 0 frames with pose and depth"),
        ("scannet:.", "No intrinsic/intrinsic_depth.txt in"),
        ("tum:.", "rgb.txt is no list of times"),
    ],
)
def test_a_folder_of_another_layout_says_so(word: str, said: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        ended = CliRunner().invoke(temporal.main, ["--video", word])
    assert ended.exit_code == 1 and said in ended.stderr

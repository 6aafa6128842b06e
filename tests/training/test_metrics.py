"""Promises of the accuracy benchmark: values by hand, and no credit for scale and shift."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import accuracy
from benchmarks.sets import rgbd, scenes
from fiffdepth_rt import Depth
from tests.support.paths import ROOT
from tests.support.tables import cells
from training import metrics
from training.data.rgbd import read_millimetres


def test_scale_and_shift_are_forgiven_in_depth() -> None:
    truth = np.linspace(1, 9, 300, dtype=np.float32).reshape(15, 20)
    scores = metrics.score(truth * 0.03 + 0.2, truth, space="depth")
    assert scores.abs_rel == pytest.approx(0, abs=1e-5)
    assert scores.delta1 == 1


def test_scale_and_shift_are_forgiven_in_disparity() -> None:
    truth = np.linspace(1, 9, 300, dtype=np.float32).reshape(15, 20)
    scores = metrics.score((0.5 / truth + 0.1).astype(np.float32), truth, space="disparity")
    assert scores.abs_rel == pytest.approx(0, abs=1e-4)


def test_errors_are_those_worked_out_by_hand() -> None:
    # Symmetric residuals, so least squares keeps scale 1 and shift 0.
    truth = np.array([[1.0, 1.0, 4.0, 4.0]], np.float32)
    prediction = np.array([[0.5, 1.5, 3.5, 4.5]], np.float32)
    valid = np.ones_like(truth, bool)
    slope = metrics.align(prediction, truth, valid, space="depth")
    a = 9 / (9 + 1)  # cov / var: Σ(p-p̄)(t-t̄) = 9, Σ(p-p̄)² = 10
    np.testing.assert_allclose(slope, a * (prediction - 2.5) + 2.5)
    scores = metrics.score(prediction, truth, space="depth")
    assert scores.abs_rel == pytest.approx(np.mean(np.abs(slope - truth) / truth))
    ratios = np.maximum(slope / truth, truth / slope)
    assert scores.delta1 == np.mean(ratios < 1.25)


def test_pixels_without_a_reading_do_not_count() -> None:
    truth = np.linspace(1, 9, 300, dtype=np.float32).reshape(15, 20)
    prediction = truth.copy()
    truth[3:6], prediction[3:6] = 0, 77
    assert metrics.score(prediction, truth, space="depth").abs_rel == pytest.approx(0, abs=1e-5)


def test_the_aligned_depth_is_clipped_to_the_range() -> None:
    truth = np.tile(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), (10, 1))
    prediction = truth.copy()
    prediction[0, 0] = 6  # aligned, this pixel lies beyond 4 m
    aligned = metrics.align(prediction, truth, truth > 0, space="depth")
    assert aligned.max() > 4.2
    clipped = metrics.score(prediction, truth, space="depth", max_m=4.2).abs_rel
    assert clipped == pytest.approx(np.mean(np.abs(np.minimum(aligned, 4.2) - truth) / truth))


def test_too_few_pixels_and_an_unknown_space_are_refused() -> None:
    one = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="at least 2 valid"):
        metrics.score(one, one * 0, space="depth")
    with pytest.raises(ValueError, match="space='metres' is not known"):
        metrics.score(one, one, space="metres")


def test_the_ramp_is_near_at_the_bottom() -> None:
    ramp = accuracy.ramp((3, 2))
    assert ramp.tolist() == [[1, 1], [0.5, 0.5], [0, 0]]


def test_a_folder_of_pairs_is_scored_beside_the_ramp_by_group(toy_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("room_1", "room_2", "hall_1"):
        cv2.imwrite(str(tmp_path / f"{name}_rgb.jpg"), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        truth = np.broadcast_to(np.linspace(4000, 1000, 48)[:, None], (48, 64)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"{name}_depth_mm.png"), truth)
    with Depth(toy_dir) as depth:
        rows = accuracy.evaluate(rgbd.frames(tmp_path), depth, size=None, pictures=tmp_path / "pictures")
    by = {(r.group, r.method): r for r in rows}
    assert {g for g, _ in by} == {"room", "hall", "all"}
    assert [by[g, "ramp"].images for g in ("room", "hall", "all")] == [2, 1, 3]
    assert by["all", "ramp"].abs_rel == pytest.approx(0, abs=1e-3)
    toy = next(m for _, m in by if m != "ramp")
    assert by["all", toy].abs_rel > 0.1
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert ["all", "ramp", "3", "0.0", "100.0"] in [line[:5] for line in cells(accuracy.markdown(rows))]


def test_a_truth_that_is_not_16_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_depth_mm.png"
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="16-bit"):
        read_millimetres(path)


def test_rendered_scenes_are_one_group_at_the_scale_asked_for(toy_dir: Path) -> None:
    held_out = list(scenes.frames(2, scale=2))
    assert [f.photo.shape[:2] for f in held_out] == [(384, 512)] * 2
    with Depth(toy_dir) as depth:
        rows = accuracy.evaluate(held_out, depth, size=None, pictures=None)
    assert [(r.group, r.images) for r in rows] == [("scenes", 2)] * 2
    assert all(0 <= r.f1 <= 1 for r in rows)


@pytest.mark.parametrize("words", [[], [".", "--scenes", "2"]])
def test_either_a_folder_or_scenes(words: list[str]) -> None:
    result = CliRunner().invoke(accuracy.main, words)
    assert result.exit_code == 2 and "either a folder of RGB-D pairs, or --scenes N" in result.stderr


def test_frames_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"No NAME_depth_mm.png in"):
        next(rgbd.frames(tmp_path))
    (tmp_path / "a_1_depth_mm.png").touch()
    with pytest.raises(SystemExit, match=r"No a_1_rgb.jpg or .png beside"):
        next(rgbd.frames(tmp_path))
    with pytest.raises(SystemExit, match="both are at least 1"):
        next(scenes.frames(0))


def test_pairs_are_scored_without_what_training_needs() -> None:
    words = "import sys; sys.modules['embreex'] = sys.modules['torch'] = None; "
    words += "import benchmarks.accuracy, benchmarks.boundaries, benchmarks.resolution"
    subprocess.run([sys.executable, "-c", words], check=True, cwd=ROOT)

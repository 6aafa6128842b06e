"""Promises of the temporal error: known depths on known cameras give the number computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

import fiffdepth_rt
from benchmarks import temporal
from training.scenes.layouts import Camera

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
    np.testing.assert_allclose(temporal.pose_of(camera), expected, atol=1e-12)


@pytest.fixture(scope="module")
def clip() -> temporal.Clip:
    return temporal.render_clip(54, frames=6, size_hw=(96, 128))


def test_poses_and_intrinsics_are_those_of_the_rendered_depth(clip: temporal.Clip) -> None:
    """Exact depth agrees with itself across frames but for rounding; wrong poses would not."""
    valid, depth = clip.depth_m < temporal.MAX_M, clip.depth_m.astype(np.float64)
    exact = temporal.tae(depth, valid, clip.pose, clip.intrinsics)
    assert exact < 3
    assert temporal.tae(depth, valid, clip.pose[::-1], clip.intrinsics) > 2 * exact


def test_the_score_does_not_depend_on_scale_and_shift(clip: temporal.Clip) -> None:
    depth = clip.depth_m.astype(np.float64)
    exact = temporal.score(clip, depth, space="depth")
    assert temporal.score(clip, depth / 80 + 0.05, space="depth") == pytest.approx(exact, abs=1e-6)


def test_flicker_is_measured_and_smoothing_lowers_it(clip: temporal.Clip) -> None:
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


def test_the_benchmark_has_a_row_for_each_method(depth: fiffdepth_rt.Depth) -> None:
    rows = temporal.evaluate(depth, [54], [10], frames=3)
    assert [(r.scene, r.method) for r in rows] == [
        (scene, method)
        for scene in ("room 54", "mean")
        for method in ("truth", "toy", "toy, smooth=10", "toy + flicker", "toy + flicker, smooth=10")
    ]
    assert all(np.isfinite(r.tae) and r.tae > 0 for r in rows)
    assert temporal.markdown(rows).count("\n") == len(rows) + 1

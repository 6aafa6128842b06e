"""Promises about metres from the camera's height above flat ground, and about what ground cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from fiffdepth_rt import DepthMap, Space
from fiffdepth_rt.errors import AlignmentError
from tests.runtime.geometry.scene import CAMERA, CAMERA_HEIGHT_M, HW, as_seen, scene_m


@pytest.mark.parametrize("space", ["depth", "disparity"])
@pytest.mark.parametrize("pitch_deg", [0.0, 8.0, 15.0])
def test_a_known_pitch_gives_scale_and_shift_in_either_space(space: str, pitch_deg: float) -> None:
    depth_m = scene_m(pitch_deg)
    alignment = as_seen(depth_m, space).align_ground(CAMERA, CAMERA_HEIGHT_M, pitch_deg=pitch_deg)
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-4)
    assert alignment.calibration.assumption == "ground"
    on_the_box = depth_m != scene_m(pitch_deg, box=False)
    assert on_the_box[HW[0] * 6 // 10 :].any() and not alignment.inliers[on_the_box].any()


@pytest.mark.parametrize("pitch_deg", [0.0, 8.0, 15.0])
def test_without_a_pitch_the_bend_of_the_ground_gives_depths_shift(pitch_deg: float) -> None:
    depth_m = scene_m(pitch_deg)
    alignment = as_seen(depth_m, "depth").align_ground(CAMERA, CAMERA_HEIGHT_M)
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-3)
    assert alignment.calibration.assumption == "ground"


def test_without_a_pitch_disparity_is_right_where_its_zero_is_infinitely_far() -> None:
    depth_m = scene_m(8.0)
    alignment = as_seen(depth_m, "disparity", floor=0.0).align_ground(CAMERA, CAMERA_HEIGHT_M)
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-4)
    assert alignment.shift == 0 and alignment.calibration.assumption == "ground, zero shift"
    assert "infinitely far away" in alignment.calibration.assumption.sentence(Space.DISPARITY)


def test_a_shift_of_disparity_is_a_pitch_to_the_ground_and_is_not_found() -> None:
    """What the module says: in disparity, another shift looks like another pitch."""
    depth_m = scene_m()
    shifted = as_seen(depth_m, "disparity", floor=0.5 / depth_m.max())
    alignment = shifted.align_ground(CAMERA, CAMERA_HEIGHT_M)
    assert alignment.rms_m < 1e-3  # it is a plane all the same
    assert np.abs(alignment.depth_m / depth_m - 1).max() > 0.3
    known = shifted.align_ground(CAMERA, CAMERA_HEIGHT_M, pitch_deg=0)
    np.testing.assert_allclose(known.depth_m, depth_m, rtol=1e-4)


def test_the_result_is_the_same_in_every_run() -> None:
    one, other = (as_seen(scene_m(), "depth").align_ground(CAMERA, CAMERA_HEIGHT_M) for _ in range(2))
    np.testing.assert_array_equal(one.depth_m, other.depth_m)


def test_noise_of_two_hundredths_is_borne() -> None:
    depth_m = scene_m(8.0)
    seen = as_seen(depth_m, "depth")
    noisy = np.clip(seen.values + np.random.default_rng(0).normal(0, 0.02, HW), 0, 1).astype(np.float32)
    alignment = DepthMap(values=noisy, space="depth").align_ground(CAMERA, CAMERA_HEIGHT_M, pitch_deg=8)
    assert np.nanmean(np.abs(alignment.depth_m / depth_m - 1)) < 0.1


@pytest.mark.parametrize("space", ["depth", "disparity"])
@pytest.mark.parametrize("pitch_deg", [None, 0.0])
def test_a_ceiling_is_no_ground(space: str, pitch_deg: float | None) -> None:
    ceiling = as_seen(scene_m()[::-1], space)
    upside_down = DepthMap(values=ceiling.values[::-1][::-1], space=space)
    with pytest.raises(AlignmentError, match="No ground can be used"):
        upside_down.align_ground(CAMERA, CAMERA_HEIGHT_M, pitch_deg=pitch_deg)


def test_an_even_slope_tells_no_shift() -> None:
    slope = np.repeat(np.linspace(1, 0, HW[0], dtype=np.float32)[:, None], HW[1], axis=1)
    with pytest.raises(AlignmentError, match=r"grows too evenly.*pass pitch_deg"):
        DepthMap(values=slope, space="depth").align_ground(CAMERA, CAMERA_HEIGHT_M)


def test_a_height_and_a_camera_that_cannot_be_are_refused() -> None:
    seen = as_seen(scene_m(), "depth")
    for height in (0, -1, float("nan")):
        with pytest.raises(AlignmentError, match="say how many metres the lens is up"):
            seen.align_ground(CAMERA, height)
    with pytest.raises(AlignmentError, match=r"pass intrinsics\.scaled"):
        seen.align_ground(CAMERA.scaled((45, 60)), 1.0)

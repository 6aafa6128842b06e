"""Promises of the correction against flicker: it takes flicker away, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiffdepth_rt.errors import StreamError
from fiffdepth_rt.smoothing import MAX_SCALE, MIN_SCALE, Smoother, fit_to

DepthMap = np.ndarray


def scene(time: float, height: int = 48, width: int = 64) -> DepthMap:
    """A receding floor that undulates, and a near ball that swings; all within (0, 1)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    floor = 0.75 - 0.5 * y / height + 0.06 * np.sin(x / 8 + time / 40)
    ball = (x - width / 2 - width / 3 * np.sin(time / 50)) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
    return np.where(ball, 0.25, floor).astype(np.float32)


def flickering(clean: DepthMap, rng: np.random.Generator) -> DepthMap:
    """`clean` with 3 % of scale, 0.015 of shift and 0.01 of noise per pixel (standard deviations)."""
    scale, shift, noise = 1 + rng.normal(0, 0.03), rng.normal(0, 0.015), rng.normal(0, 0.01, clean.shape)
    return np.clip(clean * scale + shift + noise, 0, 1).astype(np.float32)


def unrelated(seed: int) -> DepthMap:
    return np.random.default_rng(seed).uniform(0.01, 0.99, (48, 64)).astype(np.float32)


@pytest.mark.parametrize(("time_constant", "factor"), [(3, 3), (10, 10), (30, 25)])
def test_flicker_shrinks_by_the_stated_factor(time_constant: float, factor: float) -> None:
    rng, smoother = np.random.default_rng(0), Smoother(time_constant)
    before, after = [], []
    for time in range(200):
        clean = scene(time)
        noisy = flickering(clean, rng)
        before.append(np.mean(noisy - clean))
        after.append(np.mean(smoother(noisy) - clean))
    assert np.abs(np.diff(after)).mean() * factor < np.abs(np.diff(before)).mean()


def _wander(frames: int) -> tuple[list[float], list[float]]:
    """-> mean error and contrast (1 = that of the clean scene) of each smoothed frame."""
    rng, smoother = np.random.default_rng(1), Smoother(30)
    errors, contrasts = [], []
    for time in range(frames):
        clean = scene(time)
        smooth = smoother(flickering(clean, rng))
        errors.append(float(np.mean(smooth - clean)))
        contrasts.append(float(smooth.std() / clean.std()))
    return errors, contrasts


@pytest.mark.parametrize("frames", [500, pytest.param(5000, marks=pytest.mark.soak)])
def test_it_does_not_drift(frames: int) -> None:
    errors, contrasts = _wander(frames)
    assert max(map(abs, errors)) < 0.03  # of the range; the flicker itself has steps of 0.02
    assert abs(np.mean(errors[-200:])) < 0.005
    assert min(contrasts[50:]) > 0.95 and max(contrasts[50:]) < 1.05
    assert abs(np.mean(contrasts[-200:]) - 1) < 0.01


def test_a_still_picture_stays_the_same_bit_by_bit() -> None:
    smoother, still = Smoother(30), scene(0)
    for _ in range(50):
        assert smoother(still.copy()).tobytes() == still.tobytes()


def test_a_step_is_forgotten_with_the_stated_time_constant() -> None:
    smoother, clean = Smoother(20), scene(0)
    smoother(clean)
    stepped = clean + np.float32(0.03)
    offsets = [float(np.mean(smoother(stepped) - stepped)) for _ in range(80)]
    expected = [-0.03 * math.exp(-(n + 1) / 20) for n in range(80)]
    np.testing.assert_allclose(offsets, expected, atol=1e-4)


@pytest.mark.parametrize("time_constant", [2, 5, 40])
def test_of_each_fitted_correction_the_stated_share_is_kept(time_constant: float) -> None:
    """Of scale and shift apart, by shares that are not their own complements, against the last output."""
    smoother, last, keep = Smoother(time_constant), scene(0), math.exp(-1 / time_constant)
    smoother(last)
    stretched = ((last - np.float32(0.05)) / np.float32(0.9)).astype(np.float32)
    for _ in range(4):
        fitted = fit_to(stretched, last)
        assert fitted is not None and fitted[0] < 0.999 and fitted[1] > 1e-3
        last = smoother(stretched)
        expected = (1 + keep * (fitted[0] - 1), keep * fitted[1])
        assert (smoother.correction.scale, smoother.correction.shift) == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(last, stretched * expected[0] + expected[1], atol=1e-6)


def test_a_known_scale_and_shift_is_found_beside_a_moving_thing() -> None:
    reference = scene(0)
    depth = ((scene(12) - 0.05) / 0.93).astype(np.float32)
    fitted = fit_to(depth, reference)
    assert fitted is not None
    assert fitted == pytest.approx((0.93, 0.05), abs=0.02)


def test_noise_in_every_frame_does_not_eat_the_contrast() -> None:
    rng, smoother, clean = np.random.default_rng(2), Smoother(30), scene(0)
    for _ in range(200):
        smooth = smoother((clean + rng.normal(0, 0.015, clean.shape)).astype(np.float32))
    assert smooth.std() / clean.std() == pytest.approx(1, abs=0.03)


def test_a_scene_cut_resets_and_comes_through_untouched() -> None:
    rng, smoother = np.random.default_rng(3), Smoother(30)
    for time in range(20):
        smoother(flickering(scene(time), rng))
    assert not smoother.correction.reset
    other = np.ascontiguousarray(scene(0).T[:48].repeat(2, axis=1)[:, :64])[::-1] * np.float32(0.5)
    assert smoother(other).tobytes() == other.tobytes()
    assert smoother.correction.reset


@pytest.mark.parametrize(("offset", "found"), [(0.19, True), (0.21, False), (-0.19, True), (-0.21, False)])
def test_a_shift_beyond_a_fifth_of_the_range_is_no_flicker(offset: float, found: bool) -> None:
    clean = scene(0) * np.float32(0.5) + np.float32(0.25)
    assert (fit_to(clean + np.float32(offset), clean) is not None) is found


@pytest.mark.parametrize(("share", "found"), [(0.6, True), (0.4, False)])
def test_half_of_the_pixels_have_to_agree(share: float, found: bool) -> None:
    clean = scene(0)
    other = clean.copy()
    other[:, int(64 * share) :: 2] += np.float32(0.15)
    other[:, int(64 * share) + 1 :: 2] -= np.float32(0.15)
    assert (fit_to(other, clean) is not None) is found


@pytest.mark.parametrize("clipped", ["depth", "reference"])
@pytest.mark.parametrize("end", [0, 1])
def test_clipped_values_have_no_say(clipped: str, end: int) -> None:
    """What the model or the correction has cut off says nothing about scale and shift."""
    inward = np.float32(1 - 2 * end)
    cut, whole = scene(0), scene(0) + np.float32(0.03) * inward
    cut[:16], whole[:16] = end, end + np.float32(0.05) * inward  # not 0.03: they would pull
    depth, reference = (cut, whole) if clipped == "depth" else (whole, cut)
    rest = fit_to(depth[16:], reference[16:])
    assert rest is not None and fit_to(depth, reference) == rest


def test_too_few_inliers_reset() -> None:
    smoother = Smoother(30)
    smoother(unrelated(0))
    other = unrelated(1)
    assert smoother(other).tobytes() == other.tobytes()
    assert smoother.correction.reset


def test_a_frame_of_another_size_resets() -> None:
    smoother = Smoother(30)
    smoother(scene(0))
    other = scene(0, 64, 64)
    assert smoother(other).tobytes() == other.tobytes()


def test_a_flat_wall_is_corrected_by_a_shift_alone() -> None:
    smoother = Smoother(30)
    wall = np.full((48, 64), 0.5, dtype=np.float32)
    smoother(wall)
    smooth = smoother(wall + np.float32(0.02))
    assert smoother.correction.scale == 1
    np.testing.assert_allclose(smooth, 0.5 + 0.02 * (1 - math.exp(-1 / 30)), atol=1e-6)


def test_a_map_of_clipped_values_only_is_left_alone() -> None:
    smoother = Smoother(30)
    for value in (1.0, 0.0, 1.0):
        flat = np.full((48, 64), value, dtype=np.float32)
        assert smoother(flat).tobytes() == flat.tobytes()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1), time_constant=st.floats(0.5, 1000))
def test_for_every_sequence_the_result_is_in_range_and_the_scale_within_its_limits(
    seed: int, strength: float, time_constant: float
) -> None:
    rng, smoother = np.random.default_rng(seed), Smoother(time_constant)
    for time in range(6):
        scale, shift = 1 + strength * rng.uniform(-0.5, 0.5), strength * rng.uniform(-0.3, 0.3)
        depth = np.clip(scene(time * 10) * scale + shift, 0, 1).astype(np.float32)
        before = depth.copy()
        smooth = smoother(depth)
        assert smooth.dtype == np.float32 and smooth.shape == depth.shape
        assert smooth.min() >= 0 and smooth.max() <= 1
        assert MIN_SCALE <= smoother.correction.scale <= MAX_SCALE
        np.testing.assert_array_equal(depth, before)  # the input is not written to


@pytest.mark.parametrize("time_constant", [0, -1, math.inf, math.nan, True])
def test_a_time_constant_must_be_a_positive_number(time_constant: float) -> None:
    with pytest.raises(StreamError, match="time constant in frames"):
        Smoother(time_constant)

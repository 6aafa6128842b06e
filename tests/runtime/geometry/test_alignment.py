"""Promises about metres: a few known distances give a depth map its scale and shift."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fiffdepth_rt import DepthMap, Space, sparse_from_pixels
from fiffdepth_rt.errors import AlignmentError, CalibrationError
from fiffdepth_rt.geometry.fitting import line_columns, robust_fit
from tests.runtime.geometry.scene import HW, as_seen, scene_m, some_of

SPACES = ("depth", "disparity")
METHODS = ("ransac", "lstsq")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS)
def test_a_few_distances_give_every_pixel_its_metres(space: str, method: Any) -> None:
    depth_m = scene_m()
    sparse_m = some_of(depth_m, 12)
    alignment = as_seen(depth_m, space).align(sparse_m, method=method)
    assert (alignment.depth_m.dtype, alignment.depth_m.shape) == (np.float32, HW)
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-5)
    t = depth_m if space == "depth" else 1 / depth_m
    assert alignment.scale == pytest.approx(np.ptp(t), rel=1e-5)
    assert alignment.shift == pytest.approx(t.min(), rel=1e-4)
    assert alignment.space is Space(space)
    assert alignment.points == 12
    np.testing.assert_array_equal(alignment.inliers, np.isfinite(sparse_m))
    assert alignment.rms_m < 1e-4


def test_two_distances_are_enough() -> None:
    depth_m = scene_m()
    pixels = [(x, y, depth_m[y, x]) for x, y in ((30, 50), (100, 10))]
    alignment = as_seen(depth_m, "disparity").align(sparse_from_pixels(np.array(pixels), HW))
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-4)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_wrong_distances_leaves_the_fit_and_is_named(space: str, seed: int) -> None:
    depth_m = scene_m()
    sparse_m = some_of(depth_m, 200, wrong=20, seed=seed)
    alignment = as_seen(depth_m, space).align(sparse_m)
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=2e-3)
    right = np.isclose(sparse_m, depth_m, rtol=1e-6)
    assert np.all(alignment.inliers[right])
    assert np.count_nonzero(alignment.inliers) <= np.count_nonzero(right) + 1


def test_least_squares_takes_all_of_them_and_is_drawn_away() -> None:
    depth_m = scene_m()
    sparse_m = some_of(depth_m, 200, wrong=20)
    alignment = as_seen(depth_m, "depth").align(sparse_m, method="lstsq")
    assert np.count_nonzero(alignment.inliers) == alignment.points == 200
    assert np.abs(alignment.depth_m - depth_m).mean() > 0.1
    x, y = as_seen(depth_m, "depth").values[alignment.inliers], sparse_m[alignment.inliers]
    assert (alignment.scale, alignment.shift) == pytest.approx(np.polyfit(x.astype(float), y, 1), rel=1e-6)


@hypothesis.given(
    scale=st.floats(0.05, 1.0),
    room=st.floats(0.0, 1.0),
    space=st.sampled_from(SPACES),
    wrong=st.integers(0, 10),
    seed=st.integers(0, 1000),
)
@hypothesis.settings(max_examples=50)
def test_every_positive_affine_change_of_the_prediction_gives_the_same_metres(
    scale: float, room: float, space: str, wrong: int, seed: int
) -> None:
    depth_m = scene_m()
    sparse_m = some_of(depth_m, 100, wrong=wrong, seed=seed)
    plain = as_seen(depth_m, space)
    changed = DepthMap(values=plain.values * np.float32(scale) + np.float32(room * (1 - scale)), space=space)
    for method in METHODS:
        a, b = (one.align(sparse_m, method=method) for one in (plain, changed))
        np.testing.assert_allclose(b.depth_m, a.depth_m, rtol=1e-3, atol=1e-3)
        assert b.scale * scale == pytest.approx(a.scale, rel=1e-3)


@hypothesis.given(
    count=st.integers(8, 60), share=st.floats(0, 0.3), seed=st.integers(0, 10_000), noise=st.floats(0, 0.01)
)
@hypothesis.settings(max_examples=100)
def test_three_tenths_of_wrong_pairs_leave_the_line(
    count: int, share: float, seed: int, noise: float
) -> None:
    random = np.random.default_rng(seed)
    x = np.linspace(0, 1, count)
    y = 3 * x + 2 + random.uniform(-noise, noise, count)
    wrong = random.permutation(count)[: int(share * count)]
    y[wrong] += random.uniform(5, 50, len(wrong))
    fit = robust_fit(line_columns(x), y)
    assert not fit.inliers[wrong].any()
    np.testing.assert_allclose(fit.coefficients, [3, 2], atol=8 * noise + 1e-9)
    again = robust_fit(line_columns(x), y)
    np.testing.assert_array_equal(again.coefficients, fit.coefficients)


@pytest.mark.parametrize("seed", range(3))
def test_three_tenths_of_rows_five_deviations_beside_the_others_leave_a_noisy_line(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, wrong = random.uniform(0, 1, 600), np.arange(600) < 180
    y = x + np.where(wrong, 5 * 0.3 + random.normal(0, 0.05, 600), random.normal(0, 0.3, 600))
    fit = robust_fit(line_columns(x), y)
    assert not fit.inliers[wrong].any()
    assert fit.inliers[~wrong].mean() > 0.95
    np.testing.assert_allclose(fit.coefficients, [1, 0], atol=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_rough_half_of_the_rows_stays_beside_a_fine_half(seed: int) -> None:
    """The first guess of the deviation is the whole's: the fine half's would never reach the rough half."""
    random = np.random.default_rng(seed)
    x, rough = random.uniform(0, 1, 600), np.arange(600) < 270
    y = x + np.where(rough, random.choice([-1.0, 1.0], 600), random.normal(0, 0.2, 600))
    fit = robust_fit(line_columns(x), y)
    assert fit.inliers.all()
    np.testing.assert_allclose(fit.coefficients, [1, 0], atol=0.1)


@pytest.mark.parametrize("space", SPACES)
def test_a_wall_that_most_points_lie_on_does_not_level_the_fit(space: str) -> None:
    """The model is noisy, and the wall's distances are all the same."""
    depth_m = np.full(HW, 4.0)
    depth_m[60:, 30:90] = np.linspace(2.0, 3.5, 30)[:, None]
    t = depth_m if space == "depth" else 1 / depth_m
    values = 0.2 + 0.6 * (t - t.min()) / np.ptp(t) + np.random.default_rng(0).normal(0, 0.03, HW)
    seen = DepthMap(values=values.astype(np.float32), space=Space(space))
    alignment = seen.align(some_of(depth_m, 200, wrong=20))
    assert alignment.scale == pytest.approx(np.ptp(t) / 0.6, rel=0.25)
    assert np.nanmean(np.abs(alignment.depth_m / depth_m - 1)) < 0.05


def test_dense_truth_is_taken_too_and_zero_and_infinity_are_no_distance() -> None:
    depth_m = scene_m()
    dense = depth_m.astype(np.float32)
    dense[:20] = 0
    dense[20:25] = np.inf
    dense[25:30] = -np.inf
    alignment = as_seen(depth_m, "depth").align(dense)
    assert alignment.points == 60 * HW[1]
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-5)


def test_a_mask_says_where_distances_may_be_used() -> None:
    depth_m = scene_m()
    dense = depth_m.astype(np.float32)
    dense[:, :70] = 1.0  # a lidar that sees its own mast: more than half
    mask = np.zeros(HW, dtype=bool)
    mask[:, 70:] = True
    alignment = as_seen(depth_m, "depth").align(dense, mask=mask)
    np.testing.assert_allclose(alignment.depth_m, depth_m, rtol=1e-5)
    assert not alignment.inliers[~mask].any()


def test_what_is_not_before_the_camera_has_no_depth() -> None:
    values = np.linspace(0, 1, HW[0] * HW[1], dtype=np.float32).reshape(HW)
    sparse_m = np.full(HW, np.nan, np.float32)
    for place in ((45, 0), (60, 0), (89, 119)):
        sparse_m[place] = 4 * values[place] - 1
    alignment = DepthMap(values=values, space=Space.DEPTH).align(sparse_m)
    np.testing.assert_array_equal(np.isnan(alignment.depth_m), 4 * values.astype(float) - 1 <= 0)
    assert np.nanmin(alignment.depth_m) > 0


def test_it_says_what_it_is() -> None:
    depth_m = scene_m()
    said = repr(as_seen(depth_m, "depth", floor=0.0).align(some_of(depth_m, 40)))
    assert said.startswith("<Alignment 90×120 px, depth: 12 · value + ") and "40 of 40 points" in said


# --- one fit for other photos ---


def test_one_fit_serves_other_photos_of_the_camera() -> None:
    depth_m = scene_m()
    first = as_seen(depth_m, "disparity", model="nano", model_sha256="ab" * 32)
    alignment = first.align(some_of(depth_m, 30))
    smaller = DepthMap(values=first.values[::2, ::2], space=first.space, model="nano", model_sha256="ab" * 32)
    np.testing.assert_allclose(alignment.apply(smaller), depth_m[::2, ::2], rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"space": "depth"}, "speaks disparity, and this one speaks depth"),
        ({"model_sha256": "cd" * 32}, "another model, or another precision of it"),
        ({"values": np.zeros((120, 90), np.float32)}, "90x120 px .* and this photo has 120x90"),
    ],
)
def test_it_serves_no_other_model_and_no_other_aspect(changed: dict[str, Any], why: str) -> None:
    depth_m = scene_m()
    seen = as_seen(depth_m, "disparity", model="nano", model_sha256="ab" * 32)
    alignment = seen.align(some_of(depth_m, 30))
    fields = {"values": seen.values, "space": seen.space, "model": "nano", "model_sha256": "ab" * 32}
    with pytest.raises(CalibrationError, match=why):
        alignment.apply(DepthMap(**{**fields, **changed}))


# --- what is refused, and what is said ---


def sparse_with(**at: float) -> np.ndarray:
    """y_x=metres"""
    sparse_m = np.full(HW, np.nan, np.float32)
    for place, metres in at.items():
        y, x = map(int, place.strip("p").split("_"))
        sparse_m[y, x] = metres
    return sparse_m


@pytest.mark.parametrize(
    ("sparse_m", "why"),
    [
        (sparse_with(), "0 known distances are too few"),
        (sparse_with(p10_10=2.0), "1 known distances are too few.*fiffdepth calibrate"),
        (sparse_with(p10_10=12.0, p11_11=12.1), "the model sees them all as equally far"),
        (sparse_with(p10_10=2.0, p80_100=2.0), "they are all equally far"),
        (sparse_with(p10_10=2.0, p80_100=5.0), "near is far: the scale would be -.*x and y exchanged"),
        (sparse_with(p10_10=-2.0, p80_100=5.0), "a distance of -2 m"),
        (np.zeros((90, 121), np.float32), "has 90x121 pixels, and the photo 90x120.*project"),
        (np.zeros((4, 3), np.float32), "sparse_from_pixels"),
        (np.full(HW, 2000, np.uint16), "uint16.*mostly millimetres; divide by 1000"),
    ],
)
def test_distances_that_give_no_metres_are_refused_with_the_reason(sparse_m: np.ndarray, why: str) -> None:
    with pytest.raises(AlignmentError, match=why):
        as_seen(scene_m(), "depth").align(sparse_m)


def test_an_unknown_method_and_a_mask_of_another_kind_are_refused() -> None:
    depth_m = scene_m()
    with pytest.raises(AlignmentError, match="'mean' is not known: say 'ransac' or 'lstsq'"):
        as_seen(depth_m, "depth").align(some_of(depth_m, 9), method="mean")  # type: ignore[arg-type]
    with pytest.raises(AlignmentError, match="mask is a bool array of the photo's 90x120"):
        as_seen(depth_m, "depth").align(some_of(depth_m, 9), mask=np.ones(HW))  # type: ignore[arg-type]

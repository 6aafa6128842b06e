"""Promises of training/metrics.py and training/alignment.py: values by hand, and by a plain twin of each."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiffdepth_rt import Space
from training import metrics
from training.alignment import AlignmentSpace, Fit, align, find_line
from training.data.rgbd import read_millimetres
from training.metrics import Errors, Sums

SPACES = [str(space) for space in AlignmentSpace]


def plain_errors(depth: list[float], truth: list[float]) -> dict[str, float]:
    """The published definitions, pixel by pixel, in plain Python."""
    n = len(truth)
    pairs = list(zip(depth, truth, strict=True))
    logs = [math.log(p) - math.log(d) for p, d in pairs]
    found = {
        "abs_rel": sum(abs(p - d) / d for p, d in pairs) / n,
        "sq_rel": sum((p - d) ** 2 / d for p, d in pairs) / n,
        "rmse": math.sqrt(sum((p - d) ** 2 for p, d in pairs) / n),
        "rmse_log": math.sqrt(sum(e**2 for e in logs) / n),
        "log10": sum(abs(math.log10(p) - math.log10(d)) for p, d in pairs) / n,
        "silog": 100 * math.sqrt(max(sum(e**2 for e in logs) / n - (sum(logs) / n) ** 2, 0)),
    }
    shares = {f"delta{k}": sum(max(p / d, d / p) < 1.25**k for p, d in pairs) / n for k in (1, 2, 3)}
    return found | shares


def plain_line(p: list[float], target: list[float]) -> tuple[float, float]:
    """Least squares by the normal equations, in plain Python."""
    n, mean_p, mean_t = len(p), sum(p) / len(p), sum(target) / len(target)
    covariance = sum((a - mean_p) * (b - mean_t) for a, b in zip(p, target, strict=True)) / n
    scale = covariance / (sum((a - mean_p) ** 2 for a in p) / n)
    return scale, mean_t - scale * mean_p


def plain_target(space: str, z: float) -> float:
    return {
        "depth": z,
        "disparity": 1 / z,
        "sqrt-disparity": math.sqrt(1 / z),
        "log-depth": math.log(z + 1e-6),
        "log1p-depth": math.log(1 + z),
    }[space]


def pixels(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A truth of 0.5 … 9 m, and depth within a factor of about two of it."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 9, n)
    return truth * rng.lognormal(0, 0.3, n), truth


# ---- errors ----


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_errors_are_the_published_definitions_pixel_by_pixel(seed: int) -> None:
    depth, truth = pixels(seed)
    plain = plain_errors(depth.tolist(), truth.tolist())
    assert dataclasses.asdict(Sums.of(depth, truth).errors()) == pytest.approx(plain, abs=1e-6)


def test_errors_worked_out_by_hand() -> None:
    """1 m seen as 2 m, and 4 m seen as 4 m."""
    errors = Sums.of(np.array([2.0, 4.0]), np.array([1.0, 4.0])).errors()
    assert errors == Errors(
        abs_rel=0.5,
        sq_rel=0.5,
        rmse=pytest.approx(math.sqrt(0.5)),
        rmse_log=pytest.approx(math.log(2) / math.sqrt(2)),
        log10=pytest.approx(math.log10(2) / 2),
        delta1=0.5,
        delta2=0.5,
        delta3=0.5,  # 2 > 1.25³ = 1.953
        silog=pytest.approx(100 * math.log(2) / 2),
    )


def test_a_perfect_prediction_scores_perfectly_and_silog_forgives_scale() -> None:
    _, truth = pixels(1)
    perfect = Sums.of(truth, truth).errors()
    shares = {f"delta{k}": 1.0 for k in (1, 2, 3)}
    none = dict.fromkeys(("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog"), 0.0)
    assert dataclasses.asdict(perfect) == none | shares
    assert Sums.of(3 * truth, truth).errors().silog == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_delta_is_strict_and_asks_both_ratios(k: int) -> None:
    limit = 1.25**k
    depth = np.array([limit, limit * 0.999, 1 / limit, 1.001 / limit])
    assert getattr(Sums.of(depth, np.ones(4)).errors(), f"delta{k}") == 0.5


def test_pooled_errors_are_those_of_one_large_image_and_the_mean_counts_images_alike() -> None:
    (one, one_truth), (other, other_truth) = pixels(1, 10), pixels(2, 90)
    sums = [Sums.of(one, one_truth), Sums.of(other, other_truth)]
    whole = Sums.of(np.concatenate([one, other]), np.concatenate([one_truth, other_truth])).errors()
    assert dataclasses.asdict(metrics.pooled(sums)) == pytest.approx(dataclasses.asdict(whole), rel=1e-12)
    mean = metrics.mean_image([s.errors() for s in sums])
    assert mean.rmse == pytest.approx((sums[0].errors().rmse + sums[1].errors().rmse) / 2)
    assert mean.abs_rel != pytest.approx(whole.abs_rel)


def test_no_pixel_and_no_image_have_no_error() -> None:
    with pytest.raises(ValueError, match="Errors are of pixels"):
        Sums.of(np.array([]), np.array([]))
    for average in (metrics.pooled, metrics.mean_image):
        with pytest.raises(ValueError, match="no image"):
            average([])


# ---- alignment ----


@pytest.mark.parametrize("space", SPACES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_least_squares_is_that_of_the_normal_equations(space: str, seed: int) -> None:
    depth, truth = pixels(seed)
    p = np.array([plain_target(space, z) for z in depth])
    line = find_line(p, truth, np.ones(60, bool), space=space)
    plain = plain_line(p.tolist(), [plain_target(space, z) for z in truth])
    assert (line.scale, line.shift) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("fit", [Fit.LEAST_SQUARES, Fit.RANSAC])
@given(scale=st.floats(0.05, 20), shift=st.floats(0, 20), seed=st.integers(0, 1000))
@settings(max_examples=8)
def test_any_positive_affine_change_of_the_prediction_is_irrelevant(
    space: str, fit: Fit, scale: float, shift: float, seed: int
) -> None:
    depth, truth = pixels(seed)
    p = AlignmentSpace(space).of_depth(depth)
    valid = np.ones(60, bool)
    plain, changed = (
        find_line(q, truth, valid, space=space, fit=fit).depth_m(q) for q in (p, scale * p + shift)
    )
    if fit is Fit.LEAST_SQUARES:
        np.testing.assert_allclose(changed, plain, rtol=1e-6, atol=1e-6)
    else:  # float32, and which pixels are inliers at the very threshold
        perfect = AlignmentSpace(space).of_depth(truth) * scale + shift
        found = find_line(perfect, truth, valid, space=space, fit=fit).depth_m(perfect)
        np.testing.assert_allclose(found, truth, rtol=2e-3)


@pytest.mark.parametrize("space", SPACES)
def test_a_perfect_prediction_comes_back_as_the_truth(space: str) -> None:
    _, truth = pixels(3)
    p = 0.1 * AlignmentSpace(space).of_depth(truth) + 0.2
    np.testing.assert_allclose(align(p, truth, np.ones(60, bool), space=space), truth, rtol=1e-6)
    np.testing.assert_allclose(AlignmentSpace(space).to_depth(AlignmentSpace(space).of_depth(truth)), truth)


def test_ransac_with_three_of_ten_pixels_wrong_recovers_the_line() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, 2000)
    p = 0.2 * np.log1p(truth) - 0.05
    wrong = rng.random(2000) < 0.3
    p[wrong] = rng.uniform(0.5, 3, wrong.sum())
    line = find_line(p, truth, np.ones(2000, bool), space="log1p-depth", fit=Fit.RANSAC)
    assert (line.scale, line.shift) == pytest.approx((5, 0.25), abs=0.02)
    least = find_line(p, truth, np.ones(2000, bool), space="log1p-depth")
    assert abs(least.scale - 5) > 2


def test_ransac_is_the_published_call_of_scikit_learn() -> None:
    from sklearn.linear_model import RANSACRegressor

    depth, truth = pixels(4, 500)
    p, target = np.log1p(depth).astype(np.float32), np.log1p(truth).astype(np.float32)
    published = RANSACRegressor(max_trials=1000, random_state=42).fit(p[:, None], target)
    line = find_line(p, truth, np.ones(500, bool), space="log1p-depth", fit=Fit.RANSAC)
    found = (float(published.estimator_.coef_[0]), float(published.estimator_.intercept_))
    assert (line.scale, line.shift) == pytest.approx(found, abs=1e-6)


def test_ransac_that_slopes_down_falls_back_on_the_ratio_of_the_means() -> None:
    _, truth = pixels(5)
    p = 5 - 0.1 * np.log1p(truth)
    line = find_line(p, truth, np.ones(60, bool), space="log1p-depth", fit=Fit.RANSAC)
    assert line.shift == 0 and line.scale == pytest.approx(np.log1p(truth).mean() / p.mean(), rel=1e-5)


def test_medians_scale_and_do_not_shift() -> None:
    truth = np.array([1.0, 2.0, 10.0])
    valid = np.ones(3, bool)
    line = find_line(np.array([0.5, 0.25, 3.0]), truth, valid, space="depth", fit=Fit.MEDIAN)
    assert (line.scale, line.shift) == (4.0, 0.0)
    disparity = find_line(7 / truth, truth, valid, space="disparity", fit=Fit.MEDIAN)
    np.testing.assert_allclose(disparity.depth_m(7 / truth), truth)
    with pytest.raises(ValueError, match="has to be positive"):
        find_line(-truth, truth, valid, space="depth", fit=Fit.MEDIAN)


def test_pixels_that_are_not_valid_take_no_part_in_any_fit() -> None:
    depth, truth = pixels(6)
    valid = np.arange(60) % 3 > 0
    spoilt, spoilt_truth = np.where(valid, depth, 1e6), np.where(valid, truth, -5)
    for fit in Fit:
        found = find_line(spoilt, spoilt_truth, valid, space="depth", fit=fit)
        assert found == find_line(depth[valid], truth[valid], valid[valid], space="depth", fit=fit)


def test_a_disparity_of_zero_is_left_out_where_the_protocol_says_so() -> None:
    truth = np.array([1.0, 2.0, 4.0, 8.0])
    p = 1 / truth
    p[3] = 0
    valid = np.ones(4, bool)
    line = find_line(p, truth, valid, space="disparity", positive_only=True)
    assert (line.scale, line.shift) == pytest.approx((1, 0), abs=1e-12)
    assert find_line(p, truth, valid, space="disparity").scale != pytest.approx(1)


def test_an_aligned_disparity_below_the_least_one_is_a_kilometre() -> None:
    assert AlignmentSpace.DISPARITY.to_depth(np.array([-1.0, 0.0, 1e-3])).tolist() == [1000, 1000, 1000]
    assert AlignmentSpace.SQRT_DISPARITY.to_depth(np.array([0.0, 0.5])).tolist() == [1000, 4]


def test_the_runtimes_spaces_are_spaces_of_alignment_by_the_same_names() -> None:
    assert {str(space) for space in Space} <= set(SPACES)
    for space in Space:
        assert AlignmentSpace(str(space)).grows_with_distance == (space.zero == "nearest")


def test_too_few_pixels_and_an_unknown_space_are_refused() -> None:
    one = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="at least 2 valid"):
        metrics.score(one, one * 0, space="depth")
    with pytest.raises(ValueError, match="space='metres' is not known"):
        metrics.score(one, one, space="metres")


# ---- a score in one call ----


def test_scale_and_shift_are_forgiven_in_depth_and_in_disparity() -> None:
    truth = np.linspace(1, 9, 300, dtype=np.float32).reshape(15, 20)
    scores = metrics.score(truth * 0.03 + 0.2, truth, space="depth")
    assert scores.abs_rel == pytest.approx(0, abs=1e-5) and scores.delta1 == 1
    scores = metrics.score((0.5 / truth + 0.1).astype(np.float32), truth, space="disparity")
    assert scores.abs_rel == pytest.approx(0, abs=1e-4)


def test_pixels_without_a_reading_do_not_count() -> None:
    truth = np.linspace(1, 9, 300, dtype=np.float32).reshape(15, 20)
    prediction = truth.copy()
    truth[3:6], prediction[3:6] = 0, 77
    assert metrics.score(prediction, truth, space="depth").abs_rel == pytest.approx(0, abs=1e-5)


def test_the_aligned_depth_is_clipped_to_the_range() -> None:
    truth = np.tile(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), (10, 1))
    prediction = truth.copy()
    prediction[0, 0] = 6  # aligned, this pixel lies beyond 4 m
    aligned = align(prediction, truth, truth > 0, space="depth")
    assert aligned.max() > 4.2
    clipped = metrics.score(prediction, truth, space="depth", max_m=4.2).abs_rel
    assert clipped == pytest.approx(np.mean(np.abs(np.minimum(aligned, 4.2) - truth) / truth))


def test_a_truth_that_is_not_16_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_depth_mm.png"
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="16-bit"):
        read_millimetres(path)

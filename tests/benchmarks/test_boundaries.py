"""Promises of the boundary metrics (benchmarks/boundaries.py)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.boundaries import THRESHOLDS, boundary_f1, boundary_recall, evaluate
from fiffdepth_rt import Depth


def _square(near: float = 1, far: float = 2, size: int = 16) -> np.ndarray:
    depth = np.full((size, size), far, np.float32)
    depth[5:11, 4:12] = near
    return depth


def _plain_f1(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The published definition, pixel by pixel."""
    h, w = truth.shape
    total = 0.0
    for t in THRESHOLDS:
        recalls, precisions = [], []
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            edges = []
            for depth in (prediction, truth):
                inverse = 1 / depth.astype(np.float64)
                edges.append(
                    {
                        (y, x)
                        for y in range(h)
                        for x in range(w)
                        if 0 <= y + dy < h and 0 <= x + dx < w and inverse[y + dy, x + dx] / inverse[y, x] > t
                    }
                )
            hits = len(edges[0] & edges[1])
            precisions.append(hits / max(len(edges[0]), 1))
            recalls.append(hits / max(len(edges[1]), 1))
        p, r = np.mean(precisions), np.mean(recalls)
        total += t / THRESHOLDS.sum() * (2 * p * r / (p + r) if p + r else 0)
    return float(total)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_f1_is_the_published_definition_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 1.6, (6, 7)).astype(np.float32)
    prediction = (truth * rng.uniform(0.9, 1.1, truth.shape)).astype(np.float32)
    assert boundary_f1(prediction, truth) == pytest.approx(_plain_f1(prediction, truth), abs=1e-12)


def test_the_truth_scores_one_in_every_unit() -> None:
    assert boundary_f1(_square(), _square()) == 1
    assert boundary_f1(1000 * _square(), _square()) == 1


def test_a_blurred_prediction_scores_less_than_a_sharp_one_and_a_flat_one_nothing() -> None:
    truth = _square(1, 1.5)
    blurred = cv2.GaussianBlur(truth, (0, 0), 1.5)
    assert 0 < boundary_f1(blurred, truth) < 0.6
    assert boundary_f1(np.ones_like(truth), truth) == 0


def test_an_edge_one_pixel_off_is_a_miss() -> None:
    assert boundary_f1(np.roll(_square(), 1, axis=1), _square()) == pytest.approx(
        # of 8 edge pixels each way up and down 7 stay, left and right none
        0.5 * 7 / 8
    )


def test_an_edge_from_far_to_near_is_not_one_from_near_to_far() -> None:
    assert boundary_f1(1 / _square(), _square()) == 0


def test_only_the_thresholds_below_a_step_count() -> None:
    step = 1.12
    expected = THRESHOLDS[step > THRESHOLDS].sum() / THRESHOLDS.sum()
    assert boundary_f1(_square(1, step), _square(1, step)) == pytest.approx(expected)


def test_missing_readings_make_no_edges() -> None:
    holes = _square()
    holes[0, :3] = 0
    holes[2, 2] = np.nan
    valid = np.nan_to_num(holes) > 0
    assert boundary_f1(_square(), holes, valid) == 1


def test_recall_finds_a_matte_that_stands_out_and_a_wide_edge_counts_once() -> None:
    foreground = _square() == 1
    assert boundary_recall(_square(), foreground) == 1
    ramp_edge = np.repeat(np.array([[4, 4, 4, 3, 2, 1, 1, 1]], np.float32), 4, axis=0)
    matte = np.repeat(np.array([[0, 0, 0, 0, 0, 1, 1, 1]], bool), 4, axis=0)
    # three edges in a row, the strongest (2 to 1) is the matte's; the other directions have none
    assert boundary_recall(ramp_edge, matte) == 0.25
    assert boundary_recall(ramp_edge, np.roll(matte, -1, axis=1)) == 0


def test_shapes_and_numbers_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="resize first"):
        boundary_f1(_square(), _square()[1:])
    with pytest.raises(ValueError, match="mark them invalid"):
        boundary_f1(np.full((4, 4), np.nan), np.ones((4, 4)))


def test_a_folder_of_mattes_is_scored_with_the_bundled_model(tmp_path) -> None:
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 255, (64, 64, 3), np.uint8), (0, 0), 3)
    for name in ("a_1_rgb.jpg", "b_1_rgb.png"):
        cv2.imwrite(str(tmp_path / name), photo)
        matte = ((_square(1, 2, 64) == 1) * 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{name[0]}_1_matte.png"), matte)
    with Depth() as depth:
        recalls = evaluate(tmp_path, depth, size=64, far_over_near=10)
    assert len(recalls) == 2 and all(0 <= r <= 1 for r in recalls)

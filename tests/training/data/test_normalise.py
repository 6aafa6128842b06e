"""Promises of the depth pictures that training sees: where near is, what is clipped, what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.normalise import normalise, renormalise
from training.data.samples import SampleError

RAMP = np.linspace(1, 11, 10_001, dtype=np.float32).reshape(73, 137)
EVERYWHERE = np.ones(RAMP.shape, np.bool_)


def test_near_is_minus_one_in_depth_and_plus_one_in_disparity() -> None:
    depth = normalise(RAMP, EVERYWHERE, space="depth")
    disparity = normalise(RAMP, EVERYWHERE, space="disparity")
    assert (depth[0, 0], depth[-1, -1]) == (-1, 1)
    assert (disparity[0, 0], disparity[-1, -1]) == (1, -1)
    assert depth.dtype == disparity.dtype == np.float32


def test_the_two_and_ninety_eight_percent_quantiles_become_minus_and_plus_one() -> None:
    picture = normalise(RAMP, EVERYWHERE, space="depth")
    lo, hi = 1 + 0.02 * 10, 1 + 0.98 * 10
    np.testing.assert_allclose(picture, np.clip((RAMP - lo) / (hi - lo) * 2 - 1, -1, 1), atol=2e-6)
    assert (picture == -1).mean() == pytest.approx(0.02, abs=1e-3)


def test_disparity_is_the_picture_of_one_over_z() -> None:
    inverse = 1 / RAMP.astype(np.float64)
    lo, hi = np.quantile(inverse, [0.02, 0.98])
    expected = np.clip((inverse - lo) / (hi - lo) * 2 - 1, -1, 1)
    np.testing.assert_allclose(normalise(RAMP, EVERYWHERE, space="disparity"), expected, atol=1e-5)


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_what_is_invalid_moves_no_quantile_and_keeps_its_place_in_the_order(space: str) -> None:
    framed = np.pad(RAMP, 1, constant_values=655.35)
    framed[0], framed[-1, 0], framed[-1, 1] = 0, np.nan, np.inf
    valid = np.pad(EVERYWHERE, 1)
    picture = normalise(framed, valid, space=space)
    np.testing.assert_array_equal(picture[1:-1, 1:-1], normalise(RAMP, EVERYWHERE, space=space))
    near = -1 if space == "depth" else 1
    assert (picture[0] == near).all() and picture[-1, 0] == near
    assert picture[-1, 1] == picture[5, 0] == -near  # infinitely far, and the sky


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_infinities_that_were_called_valid_move_no_quantile(space: str) -> None:
    holes = RAMP.copy()
    holes[:10] = np.inf  # more than the 2 % beyond a quantile
    picture = normalise(holes, EVERYWHERE, space=space)
    np.testing.assert_array_equal(picture[10:], normalise(RAMP[10:], EVERYWHERE[10:], space=space))
    assert (picture[:10] == (1 if space == "depth" else -1)).all()


def test_zeros_that_were_called_valid_do_not_count_as_near() -> None:
    holes = RAMP.copy()
    holes[:10] = 0
    np.testing.assert_array_equal(
        normalise(holes, EVERYWHERE, space="depth")[10:], normalise(RAMP[10:], EVERYWHERE[10:], space="depth")
    )


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_nothing_valid_and_a_flat_wall_are_refused_by_name(space: str) -> None:
    with pytest.raises(SampleError, match=r"ai_001: No surface"):
        normalise(RAMP, ~EVERYWHERE, space=space, name="ai_001")
    wall = 2 + RAMP * 1e-5
    with pytest.raises(SampleError, match="ai_001: flat"):
        normalise(wall, EVERYWHERE, space=space, name="ai_001")


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(ValueError, match="'depth' or 'disparity'"):
        normalise(RAMP, EVERYWHERE, space="inverse")


@given(st.floats(0.01, 100), st.integers(0, 2**32 - 1), st.sampled_from(["depth", "disparity"]))
def test_for_every_scale_of_the_world_the_picture_is_the_same(scale: float, seed: int, space: str) -> None:
    depth_m = np.random.default_rng(seed).gamma(3, 1, (16, 16)).astype(np.float32) + np.float32(0.1)
    valid = np.ones(depth_m.shape, np.bool_)
    picture = normalise(depth_m, valid, space=space)
    assert np.abs(picture).max() <= 1
    np.testing.assert_allclose(normalise(depth_m * np.float32(scale), valid, space=space), picture, atol=1e-4)


def test_a_cut_out_of_a_picture_is_normalised_as_if_it_had_been_cut_out_of_the_depth() -> None:
    picture = normalise(RAMP, EVERYWHERE, space="depth")
    part = np.s_[20:50, 10:90]
    expected = normalise(RAMP[part], EVERYWHERE[part], space="depth")
    np.testing.assert_allclose(renormalise(picture[part], EVERYWHERE[part]), expected, atol=1e-5)


def test_a_cut_out_with_nothing_in_it_is_refused() -> None:
    picture = normalise(RAMP, EVERYWHERE, space="depth")
    with pytest.raises(SampleError, match="flat cut-out"):
        renormalise(picture[:1, :5], EVERYWHERE[:1, :5])


def test_a_sample_error_survives_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(SampleError("a/b.png", "cut off")))
    assert (error.name, error.reason, str(error)) == ("a/b.png", "cut off", "a/b.png: cut off")

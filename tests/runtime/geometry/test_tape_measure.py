"""Promises about distances by a tape measure: what they tell, what is assumed, what can be trusted."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.tape_measure import Distance, measure
from tests.runtime.geometry.scene import BOX_M, CAMERA, WALL_M, as_seen, scene_m

DEPTH_M = scene_m()
ON_THE_WALL, ON_THE_BOX, ON_THE_GROUND = (90, 10), (32, 45), (80, 80)


def to(place: tuple[int, int], *, wrong: float = 1.0) -> Distance:
    """A place of the scene with its true distance, or `wrong` times it."""
    x, y = place
    return Distance(x=x, y=y, metres=float(DEPTH_M[y, x]) * wrong)


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_two_distances_give_metres_everywhere_without_an_assumption(space: str) -> None:
    seen = as_seen(DEPTH_M, space)
    found = measure(seen, [to(ON_THE_WALL), to(ON_THE_BOX)])
    assert found.calibration.assumption == "fitted"
    np.testing.assert_allclose(found.calibration.apply(seen), DEPTH_M, rtol=1e-4)
    nearest, farthest = float(DEPTH_M.min()), WALL_M
    assert found.nearest_m[0] < nearest < found.nearest_m[1]
    assert found.farthest_m[0] < farthest < found.farthest_m[1]
    assert found.left_out is None


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_one_distance_is_right_where_the_shift_is_nothing(space: str) -> None:
    seen = as_seen(DEPTH_M, space, floor=0.0)
    found = measure(seen, [to(ON_THE_BOX)])
    assert (found.calibration.assumption, found.calibration.shift) == ("zero shift", 0)
    np.testing.assert_allclose(found.calibration.apply(seen), DEPTH_M, rtol=1e-4)


@hypothesis.given(space=st.sampled_from(["depth", "disparity"]), shift=st.floats(0, 0.9))
@hypothesis.settings(max_examples=40)
def test_for_every_shift_the_truth_lies_within_what_one_distance_leaves_open(
    space: str, shift: float
) -> None:
    t = DEPTH_M if space == "depth" else 1 / DEPTH_M
    found = measure(as_seen(DEPTH_M, space, floor=shift * float(t.min())), [to(ON_THE_BOX)])
    rounding = 1e-4
    assert found.nearest_m[0] - rounding <= DEPTH_M.min() <= found.nearest_m[1] + rounding
    assert found.farthest_m[0] - rounding <= DEPTH_M.max() <= found.farthest_m[1] + rounding


def test_one_distance_of_disparity_may_leave_infinity_open() -> None:
    found = measure(as_seen(DEPTH_M, "disparity"), [to(ON_THE_BOX)])
    assert found.farthest_m == (pytest.approx(BOX_M), math.inf)


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_errors_of_one_in_a_hundred_reach_what_is_said_and_stay_within(space: str) -> None:
    seen = as_seen(DEPTH_M, space)
    nearest, farthest = list[float](), list[float]()
    said = measure(seen, [to(ON_THE_WALL), to(ON_THE_BOX)])
    for a in (0.99, 1.01):
        for b in (0.99, 1.01):
            metres = measure(seen, [to(ON_THE_WALL, wrong=a), to(ON_THE_BOX, wrong=b)]).calibration.apply(
                seen
            )
            assert said.nearest_m[0] * 0.999 <= metres.min() <= said.nearest_m[1] * 1.001
            assert said.farthest_m[0] * 0.999 <= metres.max() <= said.farthest_m[1] * 1.001
            nearest.append(float(metres.min()))
            farthest.append(float(metres.max()))
    assert (min(nearest), max(nearest)) == pytest.approx(said.nearest_m, rel=1e-3)
    assert (min(farthest), max(farthest)) == pytest.approx(said.farthest_m, rel=1e-3)


def test_a_third_distance_shows_whether_the_others_foretell_it() -> None:
    seen = as_seen(DEPTH_M, "depth")
    right = measure(seen, [to(ON_THE_WALL), to(ON_THE_BOX), to(ON_THE_GROUND)])
    assert right.left_out is not None and max(right.left_out) < 1e-3
    wrong = measure(seen, [to(ON_THE_WALL), to(ON_THE_BOX, wrong=1.3), to(ON_THE_GROUND)])
    assert wrong.left_out is not None and wrong.left_out[1] == pytest.approx(0.3 / 1.3, rel=0.01)


def test_a_tape_measures_from_the_lens_and_depth_is_along_the_axis() -> None:
    seen = as_seen(DEPTH_M, "depth")
    taped = []
    for x, y in (ON_THE_WALL, ON_THE_BOX):
        ray = math.hypot(1, (x - CAMERA.cx) / CAMERA.fx, (y - CAMERA.cy) / CAMERA.fy)
        taped.append(Distance(x=x, y=y, metres=float(DEPTH_M[y, x]) * ray))
    found = measure(seen, taped, intrinsics=CAMERA)
    np.testing.assert_allclose(found.calibration.apply(seen), DEPTH_M, rtol=1e-4)


def test_a_place_on_an_edge_is_seen_to_be_one_and_a_corner_is_a_place() -> None:
    found = measure(as_seen(DEPTH_M, "depth"), [to((20, 45)), to((0, 0)), to((119, 89))])
    assert found.on_an_edge == (True, False, False)


@pytest.mark.parametrize(
    ("distances", "why"),
    [
        ([], "No distance was given"),
        ([Distance(x=120, y=0, metres=1)], "outside the photo"),
        ([Distance(x=0, y=-1, metres=1)], "outside the photo"),
        ([Distance(x=0, y=0, metres=-1)], "distances are positive"),
        ([to(ON_THE_WALL), Distance(x=100, y=10, metres=11)], "the model sees them all as equally far"),
        ([to(ON_THE_WALL), Distance(x=32, y=45, metres=20)], "near is far"),
    ],
)
def test_distances_that_tell_nothing_are_refused(distances: list[Distance], why: str) -> None:
    with pytest.raises(AlignmentError, match=why):
        measure(as_seen(DEPTH_M, "depth"), distances)


def test_one_distance_at_the_value_0_is_refused() -> None:
    with pytest.raises(AlignmentError, match="the depth map's value is 0"):
        measure(as_seen(DEPTH_M, "disparity"), [to(ON_THE_WALL)])

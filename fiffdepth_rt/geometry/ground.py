"""depth map, a camera's height above flat ground -> depth in metres.

A point P of the ground has n · P = h: n is the direction of "down", as the camera sees it, and h the
camera's height. On the ray r = (x/z, y/z, 1) of a pixel therefore 1/z = n · r / h. What follows depends on
what is known and on the space of the depth map:

    pitch known            n is known, so z is known wherever the photo shows ground: scale and shift are
                           fitted to it as to any other distances
    disparity, no pitch    1/z is affine in the pixel, and stays so whatever the shift: a ground that is
                           pitched by some more degrees looks the same. The shift is taken for 0 (what has the
                           value 0 is infinitely far away: sky, or an open horizon); the scale is 1 / (h |m|),
                           where value = m · r on the ground
    depth, no pitch        value = scale' / (m · r) − b: how the depth grows towards the horizon tells b. It
                           takes a photo in which the ground reaches far; a nearly even slope is refused

The ground is what the majority of the lower part of the photo lies on; what stands on it is left out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.alignment import Alignment, aligned, to_space
from fiffdepth_rt.geometry.calibration import Assumption, Relative
from fiffdepth_rt.geometry.camera import Intrinsics
from fiffdepth_rt.geometry.fitting import least_squares, line_columns, robust_fit
from fiffdepth_rt.space import Space

LOWER_PART = 0.4
"""Share of the rows in which the ground is looked for."""
STEEPEST_DEG = 60.0
"""Between the ground's direction of "down" and the photo's: beyond it, it is a wall that was found."""
SHIFTS = np.geomspace(1e-3, 30.0, 32)
"""Shifts tried, in units of the scale; 30: the ground's depth grows evenly to within a few hundredths."""

_SAMPLES = 16384  # pixels looked at, on a regular lattice
_TRIALS = 100  # per shift tried
_ROUNDS = 60  # of halving the bracket of a shift, nearly: it shrinks to 0.62 each time


Numbers = NDArray[np.float64]


def align_ground(
    depth_map: Relative, intrinsics: Intrinsics, camera_height_m: float, *, pitch_deg: float | None = None
) -> Alignment:
    """What `DepthMap.align_ground` says."""
    if intrinsics.photo_hw != depth_map.photo_hw:
        raise AlignmentError(
            "The intrinsics are of a photo of {}x{}, and the depth map has {}x{} pixels: pass "
            "intrinsics.scaled(depth_map.photo_hw).".format(*intrinsics.photo_hw, *depth_map.photo_hw)
        )
    if not 0 < camera_height_m < math.inf:
        raise AlignmentError(f"camera_height_m={camera_height_m!r}: say how many metres the lens is up.")
    rows, columns = _lattice(depth_map.photo_hw)
    across, down = intrinsics.rays()
    rays = np.stack([across[columns], down[rows], np.ones(len(rows))], -1)
    values = depth_map.values[rows, columns].astype(np.float64)
    assumption = Assumption.GROUND
    if pitch_deg is not None:
        pitch = math.radians(pitch_deg)
        plane = np.array([0.0, math.cos(pitch), math.sin(pitch)]) / camera_height_m
        scale, shift, inliers = _fit_to_plane(values, rays @ plane, depth_map.space)
    elif depth_map.space is Space.DISPARITY:
        fit = robust_fit(rays, values)
        scale, shift, inliers = _scale_of(fit.coefficients, camera_height_m), 0.0, fit.inliers
        plane, assumption = fit.coefficients * scale, Assumption.GROUND_ZERO_SHIFT
    else:
        bent, offset, inliers = _fit_bend(values, rays)
        scale = 1 / _scale_of(bent, camera_height_m)
        plane, shift = bent / scale, offset * scale
    truth_m = np.zeros(depth_map.photo_hw)
    found = np.zeros(depth_map.photo_hw, dtype=bool)
    truth_m[rows, columns] = 1 / np.maximum(rays @ plane, np.finfo(np.float32).tiny)
    found[rows, columns] = inliers
    return aligned(
        depth_map, scale, shift, assumption=assumption, truth_m=truth_m, inliers=found, points=len(rows)
    )


def _lattice(photo_hw: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels of the lower part that are looked at."""
    height, width = photo_hw
    first = height - max(2, round(LOWER_PART * height))
    step = max(1, math.ceil(math.sqrt((height - first) * width / _SAMPLES)))
    rows, columns = np.mgrid[first + step // 2 : height : step, step // 2 : width : step]
    return rows.ravel(), columns.ravel()


def _fit_to_plane(
    values: Numbers, inverse_m: Numbers, space: Space
) -> tuple[float, float, NDArray[np.bool_]]:
    """inverse_m: 1/z of the ground at each pixel -> scale, shift, inliers."""
    below = inverse_m > 0  # below the horizon
    inliers = np.zeros(len(values), dtype=bool)
    if np.count_nonzero(below) < 3 or np.ptp(values[below]) == 0:
        raise _no_ground("no ground is seen there, or all of it as equally far")
    fit = robust_fit(line_columns(values[below]), to_space(1 / inverse_m[below], space))
    scale, shift = fit.coefficients.tolist()
    if not scale > 0:
        raise _no_ground("what lies nearer by the camera's pitch is farther by the model")
    inliers[below] = fit.inliers
    return scale, shift, inliers


def _scale_of(direction: Numbers, camera_height_m: float) -> float:
    """m, of value = m · r with 1/z = n · r / h -> 1/z for each unit of the value."""
    length = float(np.linalg.norm(direction))
    if not (length > 0 and direction[1] / length >= math.cos(math.radians(STEEPEST_DEG))):
        raise _no_ground("the plane that most of it lies on does not come nearer downwards, as ground does")
    return 1 / (camera_height_m * length)


def _fit_bend(values: Numbers, rays: Numbers) -> tuple[Numbers, float, NDArray[np.bool_]]:
    """value = 1 / (m · r) − b on the ground -> m, b, inliers."""
    random = np.random.default_rng(0)
    some = random.choice(len(values), min(len(values), 1024), replace=False)

    def error(offset: float) -> float:
        m = robust_fit(rays[some], 1 / (values[some] + offset), trials=_TRIALS).coefficients
        return float(np.median(np.abs(_bend(rays[some], m, offset) - values[some])))

    best = int(np.argmin([error(offset) for offset in SHIFTS]))
    if best == len(SHIFTS) - 1:
        raise _no_ground("its depth grows too evenly to tell scale and shift apart")
    inliers = robust_fit(rays, 1 / (values + SHIFTS[best])).inliers
    low, high = (math.log(SHIFTS[i]) for i in (max(best - 1, 0), best + 1))
    for _ in range(_ROUNDS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        errors = [_bent(values[inliers], rays[inliers], math.exp(at))[1] for at in (left, right)]
        low, high = (low, right) if errors[0] < errors[1] else (left, high)
    offset = math.exp((low + high) / 2)
    return _bent(values[inliers], rays[inliers], offset)[0], offset, inliers


_GOLDEN = (math.sqrt(5) - 1) / 2


def _bend(rays: Numbers, m: Numbers, offset: float) -> Numbers:
    return np.asarray(1 / np.maximum(rays @ m, 1e-9) - offset)


def _bent(values: Numbers, rays: Numbers, offset: float) -> tuple[Numbers, float]:
    """b -> m of the least squared error in the value, to first order, and that error."""
    weight = (values + offset) ** 2  # of 1 / (value + b): its derivative
    m = least_squares(rays * weight[:, None], weight / (values + offset))
    return m, float(np.mean((_bend(rays, m, offset) - values) ** 2))


def _no_ground(why: str) -> AlignmentError:
    return AlignmentError(
        f"No ground can be used in the lower {LOWER_PART:.0%} of the photo: {why}. Take a photo with more "
        "flat ground in it, pass pitch_deg if the camera's pitch is known, or known distances (align)."
    )

"""Distances of a few things in one photo -> Calibration, and how far it can be trusted.

As a person with a tape measure does it. Two distances give scale and shift. One gives the scale only if the
shift is known; 0 is assumed, which is the one end of what is possible: nothing is nearer than the camera, or
farther than infinity, so the shift is at least 0. The other end is a scale of 0, all at the same distance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.alignment import LEAST_SPREAD, fit_line, to_space
from fiffdepth_rt.geometry.calibration import Assumption, Calibration, Relative
from fiffdepth_rt.geometry.camera import Intrinsics, sparse_from_pixels
from fiffdepth_rt.geometry.fitting import Numbers, least_squares, line_columns
from fiffdepth_rt.space import Space

WINDOW = 5
"""px, each way: the value at a point is the median of so many around it."""
TAPE_ERROR = 0.01
"""By how much of itself a distance may be wrong, for `Measured.nearest_m` and `farthest_m`."""
EDGE = 0.05
"""Of [0, 1]: a window with values that differ by more lies on an edge."""

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """A thing at column x and row y of the photo, px, and how many metres it is away."""

    x: int
    y: int
    metres: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A calibration, and what is known of its errors as long as the depth map itself is right.

    values: of the depth map at each distance. on_an_edge: whether values differ by more than EDGE around it.
    nearest_m, farthest_m: between which metres the nearest and the farthest pixel of this photo lie: of one
        distance, whatever the shift is; of more, whichever of them are wrong by TAPE_ERROR.
    left_out: of three or more distances, by how much the others miss each of them, as a share of it: the one
        figure that sees the errors of the depth map too. None for fewer.
    """

    calibration: Calibration
    values: tuple[float, ...]
    on_an_edge: tuple[bool, ...]
    nearest_m: Range
    farthest_m: Range
    left_out: tuple[float, ...] | None


def measure(
    depth_map: Relative, distances: Sequence[Distance], *, intrinsics: Intrinsics | None = None
) -> Measured:
    """depth map of a photo, distances of things in it -> Measured.

    intrinsics: None: distances are along the optical axis. Else they are from the lens to the thing, as a
        tape measures them, and are turned into those along the axis. In the middle both are the same.

    Raises AlignmentError: none, a point outside the photo, a distance that is not positive, two at one place
    of the depth map's values, one at the value 0, or near things farther than far ones.
    """
    if not distances:
        raise AlignmentError("No distance was given: measure one or more, such as --at 320,240 --metres 2.0.")
    xym = np.array([(d.x, d.y, d.metres) for d in distances], np.float64)
    sparse_from_pixels(xym, depth_map.photo_hw)  # refuses what lies outside, and what is no distance
    windows = [_window(depth_map, distance) for distance in distances]
    x = np.array([float(np.median(window)) for window in windows])
    y = to_space(_along_axis(xym, intrinsics), depth_map.space)
    nearest, farthest = float(depth_map.values.min()), float(depth_map.values.max())
    if depth_map.space is Space.DISPARITY:
        nearest, farthest = farthest, nearest
    if len(distances) == 1:
        scale, shift, assumption = _scale_alone(float(x[0]), float(y[0])), 0.0, Assumption.ZERO_SHIFT
    else:
        scale, shift, _ = fit_line(x, y, space=depth_map.space, method="lstsq")
        assumption = Assumption.FITTED
    return Measured(
        calibration=Calibration.of(depth_map, scale=scale, shift=shift, assumption=assumption),
        values=tuple(x.tolist()),
        on_an_edge=tuple(bool(np.ptp(window) > EDGE) for window in windows),
        nearest_m=_range_m(x, y, nearest, depth_map.space),
        farthest_m=_range_m(x, y, farthest, depth_map.space),
        left_out=_left_out(x, y, depth_map.space) if len(distances) > 2 else None,
    )


def _window(depth_map: Relative, distance: Distance) -> NDArray[np.float32]:
    top, left = max(0, distance.y - WINDOW // 2), max(0, distance.x - WINDOW // 2)
    return depth_map.values[top : distance.y + WINDOW // 2 + 1, left : distance.x + WINDOW // 2 + 1]


def _along_axis(xym: Numbers, intrinsics: Intrinsics | None) -> Numbers:
    x, y, metres = xym.T
    if intrinsics is None:
        return np.asarray(metres, np.float64)
    across, down = (x - intrinsics.cx) / intrinsics.fx, (y - intrinsics.cy) / intrinsics.fy
    return np.asarray(metres / np.sqrt(1 + across**2 + down**2))


def _scale_alone(x: float, y: float) -> float:
    if x < LEAST_SPREAD:
        raise AlignmentError(
            "There the depth map's value is 0, which any scale leaves as it is: measure something else, or a "
            "second thing."
        )
    return y / x


def _range_m(x: Numbers, y: Numbers, value: float, space: Space) -> Range:
    """Between which metres a pixel of this value lies; `Measured` says by what."""
    if len(x) == 1:
        low, high = sorted((float(y[0]), float(y[0] * value / x[0])))
    else:  # T there is a weighted sum of the distances' own, so the worst case is that of each of them
        weights = (line_columns(np.array([value])) @ np.linalg.pinv(line_columns(x)))[0]
        middle, wrong = float(weights @ y), TAPE_ERROR * float(np.abs(weights) @ y)
        low, high = middle - wrong, middle + wrong
    if space is Space.DEPTH:
        return max(low, 0.0), max(high, 0.0)
    return (1 / high if high > 0 else math.inf), (1 / low if low > 0 else math.inf)


def _left_out(x: Numbers, y: Numbers, space: Space) -> tuple[float, ...]:
    errors = []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        if np.ptp(x[others]) < LEAST_SPREAD:
            continue  # the others tell nothing without this one
        scale, shift = least_squares(line_columns(x[others]), y[others]).tolist()
        ratio = (scale * x[i] + shift) / y[i]
        ratio = ratio if space is Space.DEPTH else (1 / ratio if ratio > 0 else math.inf)
        errors.append(abs(ratio - 1))
    return tuple(errors)

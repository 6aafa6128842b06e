"""START HERE. Alignment: depth map, and a few distances -> depth in metres.

A depth map knows z up to scale and shift, in its own space T (space.py): T(z) = scale · value + shift, with
T(z) = z for depth and T(z) = 1 / z for disparity. The two numbers are fitted there, and T is undone.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.calibration import CALIBRATE, Assumption, Calibration, Relative
from fiffdepth_rt.geometry.camera import Metres
from fiffdepth_rt.geometry.fitting import Numbers, least_squares, line_columns, robust_fit
from fiffdepth_rt.space import Space

Method = Literal["ransac", "lstsq"]
Mask = NDArray[np.bool_]

LEAST_SPREAD = 1e-4
"""Of the values at the points: below it, rounding decides the scale."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Alignment:
    """A depth map in metres, and how it came to them.

    depth_m: float32 H×W, metres along the optical axis; NaN where scale and shift give none (T(z) <= 0).
    calibration: the scale and shift, for other photos of the same camera: `save` keeps it.
    inliers: bool H×W, the pixels with a known distance that the fit agrees with.
    points: how many pixels had a known distance.
    rms_m: root mean square, in metres, of depth_m − the known distance, over inliers.
    """

    depth_m: Metres
    calibration: Calibration
    inliers: Mask
    points: int
    rms_m: float

    @property
    def scale(self) -> float:
        """Metres (space "depth") or inverse metres ("disparity") for each unit of a value; positive."""
        return self.calibration.scale

    @property
    def shift(self) -> float:
        """Metres or inverse metres of the value 0."""
        return self.calibration.shift

    @property
    def space(self) -> Space:
        """Where the line was fitted."""
        return Space(self.calibration.space)

    def apply(self, depth_map: Relative) -> Metres:
        """Another photo of the same camera -> its metres, float32 H×W; `Calibration.apply` says what is
        assumed."""
        return self.calibration.apply(depth_map)

    def __repr__(self) -> str:
        height, width = self.depth_m.shape
        return (
            f"<Alignment {height}×{width} px, {self.space}: {self.scale:.4g} · value + {self.shift:.4g}, "
            f"{np.count_nonzero(self.inliers)} of {self.points} points within {self.rms_m:.3g} m rms>"
        )


def align(
    depth_map: Relative, sparse_m: Any, *, mask: Mask | None = None, method: Method = "ransac"
) -> Alignment:
    """What `DepthMap.align` says."""
    if method not in get_args(Method):
        raise AlignmentError(f"method={method!r} is not known: say 'ransac' or 'lstsq'.")
    metres, known = _known(depth_map, sparse_m, mask)
    x = depth_map.values[known].astype(np.float64)
    y = to_space(metres[known].astype(np.float64), depth_map.space)
    scale, shift, within = fit_line(x, y, space=depth_map.space, method=method)
    inliers = np.zeros(known.shape, dtype=bool)
    inliers[known] = within
    return aligned(
        depth_map, scale, shift, assumption=Assumption.FITTED, truth_m=metres, inliers=inliers, points=len(x)
    )


def fit_line(x: Numbers, y: Numbers, *, space: Space, method: Method) -> tuple[float, float, Mask]:
    """Values of a depth map, T(z) of what is known there, N each -> scale, shift, and which were inliers.

    Raises AlignmentError: too few, no spread, or a scale that is not positive.
    """
    _refuse_too_little(x, y)
    if method == "lstsq":
        line, within = least_squares(line_columns(x), y), np.ones(len(x), dtype=bool)
    else:
        fit = robust_fit(line_columns(x), y)
        line, within = fit.coefficients, fit.inliers
    scale, shift = line.tolist()
    if not scale > 0:
        raise AlignmentError(
            f"By the {len(x)} distances, what the model calls near is far: the scale would be {scale:.3g}, "
            "and a scale is positive. Either the distances are not of this photo (another time, another "
            f"camera, x and y exchanged), or the model is wrong about this scene: its space is "
            f"{space}, {space.ends()}."
        )
    return scale, shift, within


def aligned(
    depth_map: Relative,
    scale: float,
    shift: float,
    *,
    assumption: Assumption,
    truth_m: NDArray[np.floating[Any]],
    inliers: Mask,
    points: int,
) -> Alignment:
    """Scale and shift, however they were found -> Alignment. truth_m: what rms_m is against, at inliers.

    Raises AlignmentError where no inlier gets a positive depth.
    """
    calibration = Calibration.of(depth_map, scale=scale, shift=shift, assumption=assumption)
    depth_m = calibration.apply(depth_map)
    errors = (depth_m[inliers] - truth_m[inliers]).astype(np.float64)
    errors = errors[np.isfinite(errors)]
    if not len(errors):
        raise AlignmentError(
            "The fit puts every known distance at or behind the camera: are the distances of this photo, and "
            "in metres?"
        )
    rms_m = float(np.sqrt(np.mean(errors**2)))
    return Alignment(depth_m=depth_m, calibration=calibration, inliers=inliers, points=points, rms_m=rms_m)


def to_space(depth_m: NDArray[np.float64], space: Space) -> NDArray[np.float64]:
    """Positive metres -> T(z): metres, or inverse metres."""
    return depth_m if space is Space.DEPTH else 1 / depth_m


def _known(depth_map: Relative, sparse_m: Any, mask: Mask | None) -> tuple[NDArray[np.floating[Any]], Mask]:
    """sparse_m as an array, and where it holds a distance that may be used."""
    metres = np.asarray(sparse_m)
    photo_hw = depth_map.photo_hw
    size = f"{photo_hw[0]}x{photo_hw[1]}"
    if metres.ndim == 2 and metres.shape[1] == 3 != photo_hw[1]:
        raise AlignmentError(
            "sparse_m is an array of the photo's height×width. Rows of (x px, y px, metres) become one by "
            "fiffdepth_rt.sparse_from_pixels(points, photo_hw), points of a lidar by sparse_from_points."
        )
    if metres.dtype.kind != "f":
        raise AlignmentError(
            f"sparse_m is of {metres.dtype}, and distances are a float array in metres: whole numbers are "
            "mostly millimetres; divide by 1000."
        )
    if metres.shape != photo_hw:
        shape = "x".join(map(str, metres.shape))
        raise AlignmentError(
            f"sparse_m has {shape} pixels, and the photo {size}: both are of one picture, pixel by pixel. "
            "Do not resize sparse depth, which invents distances: project the points into this photo again."
        )
    known = np.isfinite(metres) & (metres != 0)
    if mask is not None:
        allowed = np.asarray(mask)
        if allowed.dtype != np.bool_ or allowed.shape != photo_hw:
            raise AlignmentError(f"mask is a bool array of the photo's {size}, True where points count.")
        known &= allowed
    if known.any() and float(metres[known].min()) < 0:
        raise AlignmentError(
            f"sparse_m holds a distance of {float(metres[known].min()):g} m: distances are positive metres, "
            "and NaN or 0 where none is known."
        )
    return metres, known


def _refuse_too_little(x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if len(x) < 2:
        raise AlignmentError(
            f"{len(x)} known distances are too few: scale and shift are two unknowns, so at least two are "
            f"needed, of things at different distances. With one: `{CALIBRATE}`."
        )
    if np.ptp(x) < LEAST_SPREAD or np.ptp(y) == 0:
        what = "the model sees them all as equally far" if np.ptp(y) else "they are all equally far"
        raise AlignmentError(
            f"The {len(x)} known distances do not tell a scale from a shift: {what}. Add one that is much "
            "nearer or much farther."
        )

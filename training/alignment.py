"""Affine-invariant prediction, ground truth -> metres: the scale and shift that a protocol allows.

A prediction p is known up to p' = scale · p + shift, in an alignment space: T(z) of the depth z. The line is
fitted to T(z) over the valid pixels, applied to the whole map, and T is undone.

    depth            T(z) = z              DEPTH of fiffdepth_rt/space.py: Marigold, FiffDepth
    disparity        T(z) = 1 / z          DISPARITY: Depth Anything V1/V2, MiDaS, DPT
    sqrt-disparity   T(z) = sqrt(1 / z)    DepthMaster
    log-depth        T(z) = ln(z + 1e-6)   Marigold V2, DepthFM
    log1p-depth      T(z) = ln(z + 1)      Pixel-Perfect Depth

Sources: prs-eth/Marigold, src/util/alignment.py and script/depth/eval.py (least squares, in depth and in
disparity); DepthMaster's evaluate.py (square-root disparity); huawei-bayerlab/marigold-v2,
evaluation/depth/eval.py (log depth, RANSAC); Pixel-Perfect Depth, utils/align_depth_func.py (log1p-depth,
RANSAC).
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.geometry.fitting import least_squares, line_columns

LEAST_DISPARITY = 1e-3
"""1 / metres; an aligned disparity is kept at or above it (Marigold's and DepthMaster's scripts)."""
LOG_EPSILON = 1e-6
"""Metres added before the logarithm of log-depth (Marigold V2, evaluation/src/util/alignment.py)."""
RANSAC_TRIALS, RANSAC_SEED = 1000, 42
"""Marigold V2's evaluation/depth/eval.py; Pixel-Perfect Depth's own has the same trials and no seed."""

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]


class AlignmentSpace(str, enum.Enum):
    """T of the table above: what a model's output is an affine function of, and what a line is fitted in.

    Its own name, like fiffdepth_rt's Space, whose names are among its names. Raises ImageError for another.
    """

    DEPTH = "depth"
    DISPARITY = "disparity"
    SQRT_DISPARITY = "sqrt-disparity"
    LOG_DEPTH = "log-depth"
    LOG1P_DEPTH = "log1p-depth"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    @classmethod
    def _missing_(cls, value: object) -> AlignmentSpace:
        raise ImageError(f"space={value!r} is not known: say {', '.join(repr(str(s)) for s in cls)}.")

    @property
    def grows_with_distance(self) -> bool:
        """Whether a larger value is farther."""
        return self not in (AlignmentSpace.DISPARITY, AlignmentSpace.SQRT_DISPARITY)

    def of_depth(self, depth_m: Floats) -> NDArray[np.float64]:
        """Positive metres -> T(z), of any shape."""
        z = np.asarray(depth_m, np.float64)
        if self is AlignmentSpace.DEPTH:
            return z
        if self is AlignmentSpace.DISPARITY:
            return 1 / z
        if self is AlignmentSpace.SQRT_DISPARITY:
            return np.sqrt(1 / z)
        return np.log(z + LOG_EPSILON) if self is AlignmentSpace.LOG_DEPTH else np.log1p(z)

    def to_depth(self, values: Floats) -> NDArray[np.float64]:
        """T(z) -> metres, of any shape. May be <= 0 where T(z) = z or a logarithm says so: clip it."""
        v = np.asarray(values, np.float64)
        if self is AlignmentSpace.DEPTH:
            return v
        if self is AlignmentSpace.DISPARITY:
            return 1 / np.maximum(v, LEAST_DISPARITY)
        if self is AlignmentSpace.SQRT_DISPARITY:
            return 1 / np.maximum(v**2, LEAST_DISPARITY)
        with np.errstate(over="ignore"):  # a line far above all truth: infinitely far, and clipped
            return np.exp(v) - LOG_EPSILON if self is AlignmentSpace.LOG_DEPTH else np.expm1(v)


class Fit(str, enum.Enum):
    """How the line is found.

    LEAST_SQUARES    scale and shift of least squared error, unweighted
    RANSAC           scale and shift of most inliers: scikit-learn's RANSACRegressor as the protocol of
                     Pixel-Perfect Depth sets it (1000 trials; inlier: an error of at most the median
                     absolute deviation of T(z)); where its scale is not positive, the ratio of the means
    MEDIAN           scale alone: the ratio of the medians, of depths
    """

    LEAST_SQUARES = "least squares"
    RANSAC = "RANSAC"
    MEDIAN = "median"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """T(z) = scale · p + shift, for predictions p.

    depths_of: the space that predictions are turned into depths from before; None: they are taken as they
    are.
    """

    space: AlignmentSpace
    scale: float
    shift: float
    depths_of: AlignmentSpace | None = None

    def depth_m(self, prediction: Floats) -> NDArray[np.float64]:
        """Predictions of any shape -> metres, not clipped."""
        p = prediction.astype(np.float64) if self.depths_of is None else self.depths_of.to_depth(prediction)
        return self.space.to_depth(self.scale * p + self.shift)


def find_line(
    prediction: Floats,
    truth_m: Floats,
    valid: Mask,
    *,
    space: str,
    fit: Fit = Fit.LEAST_SQUARES,
    positive_only: bool = False,
) -> Line:
    """The line that a protocol fits: predictions and truth of one shape, `valid` where truth_m > 0 is known.

    space: where the line is fitted; for Fit.MEDIAN, of the prediction, which is scaled as a depth.
    positive_only: in spaces of disparity, fit where the prediction is > 0, as Marigold's script does.
    Raises ValueError for an unknown space, fewer than 2 pixels to fit, or a median that is not positive;
    ModuleNotFoundError for RANSAC where scikit-learn is not installed.
    """
    within = AlignmentSpace(space)
    used = valid & (prediction > 0) if positive_only and not within.grows_with_distance else valid
    if np.count_nonzero(used) < 2:
        raise ValueError("Alignment needs at least 2 valid pixels; check the ground truth's range and units.")
    p = prediction[used].astype(np.float64)
    if fit is Fit.MEDIAN:
        scale = _ratio_of_medians(within.to_depth(p), truth_m[used])
        return Line(space=AlignmentSpace.DEPTH, scale=scale, shift=0.0, depths_of=within)
    target = within.of_depth(truth_m[used])
    if fit is Fit.RANSAC:
        scale, shift = _ransac(p, target)
    else:
        scale, shift = least_squares(line_columns(p), target).tolist()
    return Line(space=within, scale=scale, shift=shift)


def align(prediction: Floats, truth_m: Floats, valid: Mask, *, space: str) -> NDArray[np.float64]:
    """Prediction -> metres of its shape, not clipped: least squares in its own space. Raises as
    `find_line`."""
    return find_line(prediction, truth_m, valid, space=space).depth_m(prediction)


def _ratio_of_medians(depth: Floats, truth_m: Floats) -> float:
    """Source: Zhou et al., SfMLearner (CVPR 2017), and evaluations of self-supervised depth since."""
    middle = float(np.median(depth))
    if not middle > 0:
        raise ValueError(f"The prediction's median is {middle:g}: what is scaled alone has to be positive.")
    return float(np.median(truth_m)) / middle


def _ransac(p: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    from sklearn.linear_model import RANSACRegressor

    # float32: the inliers of values at the threshold are then those of the published script.
    ransac = RANSACRegressor(max_trials=RANSAC_TRIALS, random_state=RANSAC_SEED)
    p32, target32 = p.astype(np.float32), target.astype(np.float32)
    try:
        ransac.fit(p32[:, None], target32)
        scale, shift = float(ransac.estimator_.coef_[0]), float(ransac.estimator_.intercept_)
    except ValueError:  # no two pixels agree: the script goes on with the identity
        scale, shift = 1.0, 0.0
    if scale > 0:
        return scale, shift
    mean = float(np.mean(p32))
    return (float(np.mean(target32)) / mean if abs(mean) > 1e-8 else 1.0), 0.0

"""depth map -> depth map without flicker: a small scale and shift against the last output.

A model looks at each frame afresh, and its scale and shift jitter a little. Each map is fitted to the last
output, y = scale · x + shift, on the pixels where that explains the difference; the correction then
leaks back to none, so that the output follows a true change and cannot drift:

    scale = 1 + keep · (fitted scale − 1)    keep = exp(−1 / time_constant)
    shift = keep · fitted shift

No time is looked into the future, and a map that needs no correction is returned bit by bit.

What it costs: a true change of depth over the whole picture, as under a fast camera, looks like flicker
and is followed only with the same time constant. A model that hardly flickers is better left alone;
benchmarks/temporal.py measures both.
"""

from __future__ import annotations

import dataclasses
import math
import numbers

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import StreamError

Values = npt.NDArray[np.float32]

MIN_SCALE, MAX_SCALE = 0.8, 1.25
MAX_SHIFT = 0.2
INLIER = 0.04
"""How far, in [0, 1], a pixel may be from its explanation; what moves is farther off, and has no say."""
MIN_INLIERS = 0.5
"""Share of inliers below which the two frames show different scenes: a cut."""

_SAMPLES = 4096  # pixels looked at, on a regular lattice: enough for two numbers
_MIN_SAMPLES = 64
_ROUNDS = 8  # of fitting to the inliers; it settles in 2 to 4
_FLAT = 0.02  # spread (standard deviation) below which a scale is not to be told from a shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class Correction:
    """y = scale · x + shift. `reset`: the map could not be fitted to the last output: it stays as it is."""

    scale: float = 1.0
    shift: float = 0.0
    reset: bool = False


class Smoother:
    """Call it with one depth map after the other, float32 in [0, 1], of one size; it gives them corrected.

    time_constant: frames after which the correction has leaked to 1/e (0.37) of itself. Of a flicker that is
    new in every frame, 3 leaves less than a third from frame to frame, 10 a tenth, 30 a twenty-fifth.
    correction: the one of the last map, to look at.

    Not for several threads at once. Raises StreamError for a time constant that is not a positive number.
    """

    def __init__(self, time_constant: float) -> None:
        number = isinstance(time_constant, numbers.Real) and not isinstance(time_constant, bool)
        if not number or not (0 < time_constant < math.inf):
            raise StreamError(
                f"smooth={time_constant!r} is not possible: say a time constant in frames, such as 30, "
                "or None."
            )
        self._keep = math.exp(-1 / time_constant)
        self._last: Values | None = None
        self.correction = Correction(reset=True)

    def __call__(self, depth: Values) -> Values:
        """depth map -> depth map of the same shape, in [0, 1]; the same object if nothing is to be done."""
        sample = _sample(depth)
        fitted = None
        if self._last is not None and self._last.shape == sample.shape:
            fitted = fit_to(sample, self._last)
        if fitted is None:
            self.correction = Correction(reset=True)
        else:
            scale, shift = fitted
            self.correction = Correction(scale=1 + self._keep * (scale - 1), shift=self._keep * shift)
        self._last = _apply(sample, self.correction)
        return _apply(depth, self.correction)


def fit_to(depth: Values, reference: Values) -> tuple[float, float] | None:
    """depth map, reference -> (scale, shift) so that scale · depth + shift is the reference on most pixels.

    Of equal shapes, in [0, 1]. None where no such correction within the limits explains MIN_INLIERS of the
    pixels. Values at 0 and 1 may be clipped ones and have no say.
    """
    inside = (depth > 0) & (depth < 1) & (reference > 0) & (reference < 1)
    if np.count_nonzero(inside) < _MIN_SAMPLES:
        return None
    x, y = depth[inside].astype(np.float64), reference[inside].astype(np.float64)
    scale, shift = 1.0, float(np.median(y) - np.median(x))
    chosen = None
    for _ in range(_ROUNDS):
        inliers = np.abs(scale * x + shift - y) <= INLIER
        if np.count_nonzero(inliers) < _MIN_SAMPLES:
            return None
        if chosen is not None and np.array_equal(inliers, chosen):
            break
        chosen = inliers
        # The ratio of spreads, not least squares: noise in x would make that scale too small in every frame,
        # and the picture would lose its contrast little by little.
        scale = math.hypot(float(y[inliers].std()), _FLAT) / math.hypot(float(x[inliers].std()), _FLAT)
        scale = min(max(scale, MIN_SCALE), MAX_SCALE)
        shift = float(y[inliers].mean()) - scale * float(x[inliers].mean())
    share = float(np.mean(np.abs(scale * x + shift - y) <= INLIER))
    return (scale, shift) if share >= MIN_INLIERS and abs(shift) <= MAX_SHIFT else None


def _sample(depth: Values) -> Values:
    step = max(1, math.ceil(math.sqrt(depth.size / _SAMPLES)))
    return depth[step // 2 :: step, step // 2 :: step]


def _apply(depth: Values, correction: Correction) -> Values:
    if (correction.scale, correction.shift) == (1.0, 0.0):
        return depth
    corrected = depth * np.float32(correction.scale) + np.float32(correction.shift)
    return np.asarray(np.clip(corrected, 0, 1), dtype=np.float32)

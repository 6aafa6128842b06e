"""Columns, y -> the linear combination of the columns that y is, also where some rows are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

TRIALS = 1000
"""Combinations tried. With half of the rows wrong, a quarter of the lines goes through two right ones."""
SCORED = 1024
"""Rows that a tried combination is held against, drawn where there are more."""
SEED = 0
SPREADS = 2.5
"""Robust standard deviations within which a row is an inlier (Rousseeuw and Leroy, 1987)."""
FLOOR = 0.05
"""Of the range of y: the least standard deviation that is believed before inliers are known. Where most y are
the same, such as points on one wall, a level line would meet them exactly, however noisy the columns are."""
_MIDDLE = (0.05, 0.95)  # quantiles: a range without most of what is wrong
_ROUNDS = 5  # of least squares to the inliers


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RobustFit:
    """coefficients: float64 k. inliers: bool N, the rows that they were fitted to."""

    coefficients: Numbers
    inliers: NDArray[np.bool_]


def line_columns(x: Numbers) -> Numbers:
    """float64 N -> N×2 columns, whose coefficients are (scale, shift)."""
    return np.stack([x, np.ones(len(x))], -1)


def least_squares(columns: Numbers, y: Numbers) -> Numbers:
    """float64 N×k, N -> the k coefficients of the least squared error in y, unweighted."""
    coefficients, *_ = np.linalg.lstsq(columns, y, rcond=None)
    return np.asarray(coefficients, np.float64)


def robust_fit(columns: Numbers, y: Numbers, *, trials: int = TRIALS, seed: int = SEED) -> RobustFit:
    """float64 N×k, N -> the fit that most of the rows agree with; the same one in every run.

    Combinations through k random rows (RANSAC: Fischler and Bolles, 1981), of which the likeliest is taken
    (as in MLESAC: Torr and Zisserman, 2000): the one of the least Σ log(1 + (residual / s)²). s is the least
    robust standard deviation that one of them has, by the median of |residuals| (Rousseeuw, 1984), so that no
    threshold has to be known. The result is the least squares of the rows within SPREADS standard deviations.
    Up to k + 1 rows are all taken: no one of three can be told from the other two.
    """
    count, unknowns = columns.shape
    everything = np.ones(count, dtype=bool)
    random = np.random.default_rng(seed)
    drawn = random.choice(count, SCORED, replace=False) if count > SCORED else np.arange(count)
    tried = _through_random_rows(columns[drawn], y[drawn], trials, random)
    if count <= unknowns + 1 or not len(tried) or not np.ptp(y):
        return RobustFit(coefficients=least_squares(columns, y), inliers=everything)
    residuals = np.abs(tried @ columns[drawn].T - y[drawn])
    medians = np.median(residuals, axis=1)
    spread = max(_spread(medians.min(), y), FLOOR * float(np.ptp(np.quantile(y, _MIDDLE))))
    best = int(np.argmin(np.log1p((residuals / spread) ** 2).sum(axis=1)))
    coefficients = tried[best]
    inliers = np.abs(columns @ coefficients - y) <= SPREADS * spread
    for _ in range(_ROUNDS):
        if np.linalg.matrix_rank(columns[inliers]) < unknowns:
            break
        coefficients = least_squares(columns[inliers], y[inliers])
        residuals = np.abs(columns @ coefficients - y)
        deviation = float(np.sqrt(np.mean(residuals[inliers] ** 2)))
        inliers = residuals <= SPREADS * deviation + _rounding(y)
    return RobustFit(coefficients=coefficients, inliers=inliers)


def _through_random_rows(columns: Numbers, y: Numbers, trials: int, random: np.random.Generator) -> Numbers:
    """-> M×k coefficients, each exact on k rows; M <= trials."""
    count, unknowns = columns.shape
    rows = random.integers(count, size=(trials, unknowns))
    rows = rows[np.linalg.det(columns[rows]) != 0]  # rows drawn twice, or alike
    return np.asarray(np.linalg.solve(columns[rows], y[rows][..., None])[..., 0], np.float64)


def _spread(median: float, y: Numbers) -> float:
    """The standard deviation of a normal distribution by its median of |residuals|."""
    return max(1.4826 * float(median), _rounding(y))


def _rounding(y: Numbers) -> float:
    return 8 * float(np.finfo(np.float32).eps) * float(np.abs(y).max())

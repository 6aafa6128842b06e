"""Depth in metres -> depth picture in [-1, 1].

Marigold's encoding: the 2 % and 98 % quantiles over the valid pixels become -1 and +1, what lies outside is
clipped. Two guards that Marigold lacks: no valid pixel, and a flat picture, are SampleErrors instead of NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.space import Space
from training.data.samples import MetricPair, Pair, SampleError

QUANTILES = (0.02, 0.98)
MIN_RELIEF = 1e-3
"""Least span between the quantiles, relative to the larger: below it, millimetres of depth are staircases."""
MIN_SPAN = 0.02
"""Least span of a cut-out, of the 2 that a picture has: below it, 16-bit labels are staircases."""


def normalise(
    depth_m: NDArray[np.float32], valid: NDArray[np.bool_], *, space: Space, name: str = "depth map"
) -> NDArray[np.float32]:
    """depth_m H×W, valid bool H×W -> depth picture float32 H×W in [-1, 1].

    With (lo, hi) the 2 % and 98 % quantiles of z ("depth") or 1/z ("disparity") over valid pixels with z > 0:
    picture = clip(2 (z - lo) / (hi - lo) - 1, -1, 1).
    Pixels that take no part keep their place in the order where they have a depth (a sky at 655 m is far);
    without one (z <= 0, NaN) they count as nearest, as zeros do in Marigold.
    Raises SampleError (by `name`) where nothing is valid or the relief is below MIN_RELIEF.
    """
    has_depth = depth_m > 0
    taking_part = valid & has_depth & np.isfinite(depth_m)
    if Space(space) is Space.DEPTH:
        values = np.where(has_depth, depth_m, np.float32(0)).astype(np.float32, copy=False)
    else:
        values = np.full(depth_m.shape, np.inf, np.float32)
        np.divide(1, depth_m, out=values, where=has_depth)
    lo, hi = near_and_far(values, taking_part, name)
    if not hi - lo > MIN_RELIEF * hi:
        raise SampleError(name, f"flat: its 2 % and 98 % quantiles are {lo:.6g} and {hi:.6g} ({space})")
    return _stretch(values, lo, hi)


def renormalise(
    picture: NDArray[np.float32],
    valid: NDArray[np.bool_],
    *,
    name: str = "depth picture",
    min_span: float = MIN_SPAN,
) -> NDArray[np.float32]:
    """A cut-out of a depth picture -> its own depth picture: the same quantiles, over what is left of it.

    The network sees the cut-out alone and cannot know what else was in the photo. Either space: near stays on
    its side. Raises SampleError where nothing is valid or the quantiles do not span more than `min_span`.
    """
    lo, hi = near_and_far(picture, valid, name)
    if not hi - lo > min_span:
        raise SampleError(name, f"flat cut-out: the picture goes from {lo:.4f} to {hi:.4f} in it")
    return _stretch(picture, lo, hi)


def to_pair(sample: MetricPair, *, space: Space) -> Pair:
    """Metres -> depth picture. Raises SampleError as `normalise` does."""
    picture = normalise(sample.depth_m, sample.valid, space=space, name=sample.name)
    return Pair(photo=sample.photo, picture=picture, valid=sample.valid, name=sample.name)


def near_and_far(
    values: NDArray[np.float32], taking_part: NDArray[np.bool_], name: str
) -> tuple[np.float32, np.float32]:
    """-> what becomes -1 and +1: QUANTILES of the values taking part. Raises SampleError where none does."""
    seen = values[taking_part]
    if seen.size == 0:
        raise SampleError(name, "No surface: not one pixel is valid")
    lo, hi = np.quantile(seen, QUANTILES)
    return lo, hi


def _stretch(values: NDArray[np.float32], lo: np.float32, hi: np.float32) -> NDArray[np.float32]:
    return np.clip((values - lo) / (hi - lo) * 2 - 1, -1, 1).astype(np.float32, copy=False)

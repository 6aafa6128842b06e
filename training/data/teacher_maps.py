"""What a teacher says -> what a student learns: teacher map -> depth picture.

Convention of teacher maps (float32 H×W), by what the teacher puts out:
    "disparity"  a·(1/z) + b, larger = nearer, 0 = infinitely far (sky)       Depth Anything
    "depth"      a·z + b, larger = farther                                    our own models
    "metres"     z                                                            Depth Anything's metric models

    from \\ to    depth                                disparity
    disparity    reciprocal with a floor, normalise    normalise
    depth        normalise                             -   (z is known up to a shift: 1/z is not)
    metres       normalise                             reciprocal, normalise

The reciprocal of an affine disparity is an approximation: b is unknown, and taken to be 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fiffdepth_rt.space import Space
from training.data.normalise import MIN_RELIEF, QUANTILES, normalise, renormalise
from training.data.samples import DataError, SampleError

Output = Literal["disparity", "depth", "metres"]
TeacherMap = NDArray[np.float32]
Pixels = NDArray[np.uint8]

FLOOR_QUANTILE = 0.02
SKY = 0.01
"""Disparities up to this share of the largest are as good as 0. They say "very far", and nothing about how
far the farthest thing is that can be measured, so they do not count for the floor."""


class Teacher(Protocol):
    """photos -> teacher maps. name: for headers and logs. licence: of the weights; the labels inherit it."""

    name: str
    licence: str
    output: Output

    def bucket(self, photo_hw: tuple[int, int]) -> Hashable:
        """Photos of one bucket run in one batch. Raises ValueError for a size that it does not take."""

    def __call__(self, photos: Sequence[Pixels]) -> list[TeacherMap]:
        """uint8 H×W×3 RGB each, sizes may differ -> their maps, in order, see Convention."""


def check_conversion(output: Output, space: Space) -> None:
    """Raises DataError for the one field of the table above that is empty."""
    if (output, space) == ("depth", "disparity"):
        raise DataError(
            "This teacher's depth is known up to scale and shift, so its reciprocal is not known: make "
            "labels in space 'depth', or take a teacher that puts out disparity or metres."
        )


def to_picture(
    values: TeacherMap, *, output: Output, space: Space, name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Teacher map H×W -> (depth picture float32 H×W in [-1, 1], valid bool H×W), both as in samples.py.

    Valid is what is finite, skies included: that they are far is the teacher's to say.
    Raises SampleError (by `name`) where nothing is valid or the map is flat, DataError as `check_conversion`.
    """
    check_conversion(output, space)
    valid = np.isfinite(values)
    if output == "metres":
        valid &= values > 0
        picture = normalise(values, valid, space=space, name=name)
    elif output == "disparity" and space == "depth":
        picture = normalise(reciprocal(values, valid), valid, space=Space.DEPTH, name=name)
    else:
        picture = _normalise_affine(values, valid, name)
    return np.where(valid, picture, np.float32(0)), valid


def reciprocal(disparity: TeacherMap, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Affine disparity D H×W -> affine depth 1 / max(D, floor) H×W; 0 where not valid or nothing is positive.

    floor: the 2 % quantile of D over the valid pixels that are not sky (D > SKY × max D). A sky is as far as
    the farthest 2 % of the rest: at 1/0 it would take the whole range of depths for itself.
    """
    depth = np.zeros(disparity.shape, np.float32)
    largest = disparity[valid].max(initial=0)
    if largest > 0:
        measured = disparity[valid & (disparity > SKY * largest)]
        floor = np.quantile(measured, FLOOR_QUANTILE)
        np.divide(1, np.maximum(disparity, floor), out=depth, where=valid)
    return depth


def conversion(output: Output, space: Space) -> dict[str, Any]:
    """How `to_picture` works, for the header of a label store."""
    how: dict[str, Any] = {"teacher_output": output, "normalised_between": list(QUANTILES)}
    if (output, space) == ("disparity", "depth"):
        how |= {"reciprocal": True, "floor_quantile": FLOOR_QUANTILE, "sky_below_share_of_maximum": SKY}
    elif output == "metres" and space == "disparity":
        how |= {"reciprocal": True}
    return how


def _normalise_affine(values: TeacherMap, valid: NDArray[np.bool_], name: str) -> NDArray[np.float32]:
    """Any values, known up to scale and shift -> picture; the largest becomes +1."""
    seen = values[valid]
    lo, hi = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    if not hi - lo > MIN_RELIEF * max(abs(lo), abs(hi)):
        raise SampleError(name, f"the teacher's map is flat: from {lo:.6g} to {hi:.6g}")
    between = np.where(valid, (values - np.float32(lo)) / np.float32(hi - lo) * 2 - 1, np.float32(0))
    return renormalise(between.astype(np.float32), valid, name=name)

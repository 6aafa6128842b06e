"""Protocols: what is done to truth and prediction before errors are taken. Frozen values, three of them.

    marigold    Ke et al. (CVPR 2024), its script/depth/eval.py: least squares of scale and shift in the
                model's own space; aligned depth is clipped to the set's range
    ppd         Xu et al., Pixel-Perfect Depth (NeurIPS 2025), as Marigold V2's evaluation/depth/eval.py
                repeats it (--ppd_eval_protocol): RANSAC in log depth; narrower ranges, DIODE's edges left
                out, ETH3D at 2048×1360; aligned depth is clipped to 1 mm … the farthest valid truth
    median      scale alone, the ratio of the medians, for models that know the rest; else as marigold

Numbers of two protocols do not compare: DIODE's AbsRel is 30 % in one and 5 % in another for models of one
quality. Results are keyed by protocol, and tables are made of one.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.sets.depth_sets import Rules
from training.alignment import AlignmentSpace, Fit, Line, find_line
from training.data.samples import MetricPair

_Value = TypeVar("_Value", bound=np.generic)

Depth = NDArray[np.float64]
Mask = NDArray[np.bool_]
Prediction = NDArray[np.float32]

LEAST_DEPTH_M = 1e-6
"""Aligned depth is kept at or above it, last of all (both scripts)."""
PPD_NEAREST_M = 1e-3
"""Of the ppd protocol: aligned depth is clipped here from below (Marigold V2, _clip_depth_like_ppd)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """name: the key of its results. fit: how scale and shift are found.

    aligns_in: pairs of a prediction's space and where its line is fitted; a space without a pair: in itself.
    positive_only: fits in disparity see positive predictions alone. ppd: whether Rules.ppd holds.
    fewer_columns: whether Rules.fit_max_px holds. source: whose script it follows.
    """

    name: str
    fit: Fit
    source: str
    aligns_in: tuple[tuple[AlignmentSpace, AlignmentSpace], ...] = ()
    positive_only: bool = False
    ppd: bool = False
    fewer_columns: bool = False

    def space_of_fit(self, output: AlignmentSpace, asked: AlignmentSpace | None = None) -> AlignmentSpace:
        """Where a model's output is aligned; asked: by the user, instead."""
        if self.fit is Fit.MEDIAN:
            return AlignmentSpace.DEPTH
        return asked if asked is not None else dict(self.aligns_in).get(output, output)

    def choices(self, rules: Rules) -> dict[str, object]:
        """Everything that this protocol decides for a set, as JSON would hold it."""
        chosen: dict[str, object] = {
            "protocol": self.name,
            "source": self.source,
            "fit": str(self.fit),
            "positive_predictions_only": self.positive_only,
            "clip_m": "1 mm to the farthest valid truth" if self.ppd else list(rules.clip_m),
            "fit_max_px": rules.fit_max_px if self.fewer_columns else None,
            "processing_px": rules.processing_px,
        }
        return chosen | ({"ppd": dataclasses.asdict(rules.ppd)} if self.ppd else {})


MARIGOLD = Protocol(
    name="marigold",
    fit=Fit.LEAST_SQUARES,
    source="github.com/prs-eth/Marigold, script/depth/eval.py",
    positive_only=True,
    fewer_columns=True,
)
PPD = Protocol(
    name="ppd",
    fit=Fit.RANSAC,
    source="github.com/huawei-bayerlab/marigold-v2, evaluation/depth/eval.py --ppd_eval_protocol",
    # Pixel-Perfect Depth's own function fits ln(1 + z) to whatever it is given. Marigold V2's log depth is
    # fitted to ln(z). Neither has a rule for disparity, which falls with distance: it keeps its own space.
    aligns_in=((AlignmentSpace.DEPTH, AlignmentSpace.LOG1P_DEPTH),),
    ppd=True,
)
MEDIAN = Protocol(
    name="median",
    fit=Fit.MEDIAN,
    source="Zhou et al., SfMLearner (CVPR 2017), kitti_eval/eval_depth.py",
)
PROTOCOLS = (MARIGOLD, PPD, MEDIAN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What errors are taken of: aligned_m, truth_m (both H×W) where valid, and the line."""

    aligned_m: Depth
    truth_m: NDArray[np.float32]
    valid: Mask
    line: Line


def compare(
    prediction: Prediction,
    frame: MetricPair,
    rules: Rules,
    protocol: Protocol,
    *,
    space: AlignmentSpace,
    align_in: AlignmentSpace | None = None,
) -> Compared:
    """A prediction of any size -> Compared, by the protocol.

    It is brought to the truth's size bilinearly. align_in: instead of the protocol's space of the fit.
    Raises ValueError where fewer than 2 pixels are valid, or a fit is impossible.
    """
    truth_m, valid = frame.depth_m, frame.valid
    prediction = resized(prediction, (truth_m.shape[0], truth_m.shape[1]))
    if protocol.ppd:
        truth_m, valid, prediction = _by_ppd_rules(truth_m, valid, prediction, rules)
    within = protocol.space_of_fit(space, align_in)
    kept = kept_columns(truth_m.shape, rules.fit_max_px if protocol.fewer_columns else None)
    line = find_line(
        prediction[:, kept],
        truth_m[:, kept],
        valid[:, kept],
        space=space if protocol.fit is Fit.MEDIAN else within,
        fit=protocol.fit,
        positive_only=protocol.positive_only,
    )
    near, far = (PPD_NEAREST_M, float(truth_m[valid].max())) if protocol.ppd else rules.clip_m
    aligned = np.maximum(np.clip(line.depth_m(prediction), near, far), LEAST_DEPTH_M)
    return Compared(aligned_m=aligned, truth_m=truth_m, valid=valid, line=line)


def resized(prediction: Prediction, hw: tuple[int, int]) -> Prediction:
    """Bilinear, to H×W; the same array where it has that size."""
    if prediction.shape == hw:
        return prediction
    return np.asarray(cv2.resize(prediction, hw[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def kept_columns(hw: tuple[int, int], most: int | None) -> NDArray[np.intp]:
    """Which columns of H×W a fit sees: those that torch.nn.Upsample(mode="nearest") keeps of a 3-D tensor.

    With f = min(most / H, most / W): columns floor(i / f) for i = 0 … floor(W f) − 1, 1 / f in float32; all
    rows. All columns where most is None or f >= 1.
    """
    factor = 1.0 if most is None else min(most / side for side in hw)
    if factor >= 1:
        return np.arange(hw[1])
    columns = np.floor(np.arange(int(hw[1] * factor), dtype=np.float32) * np.float32(1 / factor))
    return np.minimum(columns.astype(np.intp), hw[1] - 1)


def nearest(map_: NDArray[_Value], hw: tuple[int, int]) -> NDArray[_Value]:
    """H×W -> h×w by nearest neighbours, the pixels that torch's interpolate(mode="nearest") takes."""
    rows, columns = (
        np.minimum(np.floor(np.arange(to) * np.float32(size / to)).astype(np.intp), size - 1)
        for to, size in zip(hw, map_.shape, strict=True)
    )
    return map_[np.ix_(rows, columns)]


def steepness(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """|Sobel along x| + |Sobel along y| of H×W, borders mirrored, as scipy.ndimage.sobel has them."""
    sobel = [
        cv2.Sobel(depth_m, cv2.CV_32F, *axes, borderType=cv2.BORDER_REFLECT) for axes in ((1, 0), (0, 1))
    ]
    return np.abs(sobel[0]) + np.abs(sobel[1])


def _by_ppd_rules(
    truth_m: NDArray[np.float32], valid: Mask, prediction: Prediction, rules: Rules
) -> tuple[NDArray[np.float32], Mask, Prediction]:
    """Truth, mask and prediction at the size of the rules, and the mask within their range and off edges."""
    if rules.ppd.size_hw is not None:
        hw = rules.ppd.size_hw
        truth_m, valid, prediction = nearest(truth_m, hw), nearest(valid, hw), nearest(prediction, hw)
    near, far = rules.ppd.valid_m
    valid = valid & (truth_m > near) & (truth_m < far)
    if rules.ppd.steepest is not None:
        valid &= ~(steepness(truth_m) > rules.ppd.steepest)
    return truth_m, valid, prediction

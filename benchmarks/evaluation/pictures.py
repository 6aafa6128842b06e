"""The worst images as pictures: photo, truth, prediction, error."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.protocol import Compared
from fiffdepth_rt import DepthMap, Space
from training.data.samples import MetricPair

LARGEST_PX = 1024
"""Longer side of one panel."""
WORST_ERROR = 0.5
"""Relative error that is shown as brightest."""


def panels(frame: MetricPair, compared: Compared) -> NDArray[np.uint8]:
    """h×4w×3 RGB: photo; truth and aligned depth on one scale, near = bright; |p − d| / d, 50 % = brightest.

    Pixels that are not compared are black in truth and error.
    """
    truth, valid = compared.truth_m, compared.valid
    lo, hi = np.quantile(truth[valid], [0.02, 0.98])
    span = max(float(hi - lo), 1e-6)

    def coloured(depth_m: NDArray[np.floating]) -> NDArray[np.uint8]:
        scaled = np.clip((depth_m - lo) / span, 0, 1).astype(np.float32)
        return np.array(DepthMap(values=scaled, space=Space.DEPTH).colors())

    error = np.abs(compared.aligned_m - truth) / np.where(valid, truth, 1)
    brightness = np.clip(error / WORST_ERROR, 0, 1).astype(np.float32)
    shown = [coloured(truth), coloured(compared.aligned_m)]
    shown.append(np.array(DepthMap(values=brightness, space=Space.DISPARITY).colors()))
    shown[0][~valid] = shown[2][~valid] = 0
    factor = min(1.0, LARGEST_PX / max(truth.shape))
    w, h = (max(1, round(side * factor)) for side in truth.shape[::-1])
    parts = [cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA) for part in (frame.photo, *shown)]
    return np.asarray(np.hstack(parts), np.uint8)


def png(picture: NDArray[np.uint8]) -> bytes:
    """RGB -> a PNG's bytes."""
    encoded, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert encoded
    return data.tobytes()

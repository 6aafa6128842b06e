"""depth map -> picture, for eyes only."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import ImageError


def colorize(depth: npt.NDArray[Any], *, space: str) -> npt.NDArray[np.uint8]:
    """depth map -> colours: float H×W in [0, 1] -> uint8 H×W×3 RGB; near is bright and warm, far is dark.

    space: what the values mean, as `Depth.output_space` says ("depth": 0 = near; "disparity": 1 = near).
    The colours are inferno's: equal steps of depth look equally large, also without colour vision.

    Raises ImageError: not a float array of two dimensions, or values that are not in [0, 1].
    """
    if space not in ("depth", "disparity"):
        raise ImageError(f"space={space!r} is not known: pass Depth.output_space, 'depth' or 'disparity'.")
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind != "f" or depth.size == 0:
        raise ImageError("A depth map is a float array of height×width: pass what Depth.infer returned.")
    if not (depth.min() >= 0 and depth.max() <= 1):
        raise ImageError("A depth map lies in [0, 1]: pass what Depth.infer returned, before any scaling.")
    nearness = 1 - depth if space == "depth" else depth
    levels = np.rint(nearness * 255).astype(np.uint8)
    colors_bgr = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(colors_bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

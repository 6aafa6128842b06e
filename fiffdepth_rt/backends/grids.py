"""Which grids a graph set takes, and how many images go through at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.engine_dir import GraphSet, SizeLimits


def own_grid(graphs: GraphSet) -> tuple[int, int] | None:
    """The only (height, width) that the graphs take, px; None where both are free."""
    _, height, width, _ = graphs.stages["encoder"].inputs[0].shape
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def split(image_BHW3: npt.NDArray[np.uint8], size: SizeLimits) -> Iterator[npt.NDArray[np.uint8]]:
    """Images -> parts, none with more pixels than one image of the largest size: that bounds the memory."""
    batch, height, width, _ = image_BHW3.shape
    at_once = max(1, size.max**2 // (height * width))
    for start in range(0, batch, at_once):
        yield image_BHW3[start : start + at_once]

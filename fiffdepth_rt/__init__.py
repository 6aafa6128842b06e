"""Depth from a photo, by a one-step diffusion model. START HERE: depth.py.

with fiffdepth_rt.Depth() as depth:
    d = depth.infer("photo.jpg")    # or uint8 H×W×3 RGB -> DepthMap
d.values                            # float32 H×W in [0, 1]; d.space says what 0 and 1 mean
"""

import logging
from typing import TYPE_CHECKING, Any

from fiffdepth_rt import errors
from fiffdepth_rt.version import __version__

if TYPE_CHECKING:
    from fiffdepth_rt.depth import Depth
    from fiffdepth_rt.depth_map import DepthMap
    from fiffdepth_rt.geometry.alignment import Alignment
    from fiffdepth_rt.geometry.calibration import Calibration
    from fiffdepth_rt.geometry.camera import Intrinsics, sparse_from_pixels, sparse_from_points, to_points
    from fiffdepth_rt.geometry.mesh import Mesh, to_mesh
    from fiffdepth_rt.space import Space
    from fiffdepth_rt.stream import Frame, StreamItem

__all__ = [
    "Alignment",
    "Calibration",
    "Depth",
    "DepthMap",
    "Frame",
    "Intrinsics",
    "Mesh",
    "Space",
    "StreamItem",
    "__version__",
    "errors",
    "sparse_from_pixels",
    "sparse_from_points",
    "to_mesh",
    "to_points",
]

logging.getLogger("fiffdepth_rt").addHandler(logging.NullHandler())

# Loaded when first asked for: `fiffdepth doctor` has to speak where NumPy or OpenCV cannot be imported.
_LATER = {
    "Alignment": "fiffdepth_rt.geometry.alignment",
    "Calibration": "fiffdepth_rt.geometry.calibration",
    "Depth": "fiffdepth_rt.depth",
    "DepthMap": "fiffdepth_rt.depth_map",
    "Frame": "fiffdepth_rt.stream",
    "Intrinsics": "fiffdepth_rt.geometry.camera",
    "Mesh": "fiffdepth_rt.geometry.mesh",
    "Space": "fiffdepth_rt.space",
    "StreamItem": "fiffdepth_rt.stream",
    "sparse_from_pixels": "fiffdepth_rt.geometry.camera",
    "sparse_from_points": "fiffdepth_rt.geometry.camera",
    "to_mesh": "fiffdepth_rt.geometry.mesh",
    "to_points": "fiffdepth_rt.geometry.camera",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

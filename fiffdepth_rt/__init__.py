"""Depth from a photo, by a one-step diffusion model. START HERE: depth.py.

with fiffdepth_rt.Depth() as depth:
    d = depth.infer(photo)    # uint8 H×W×3 RGB -> float32 H×W in [0, 1], in depth.output_space
"""

import logging

from fiffdepth_rt import errors
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.version import __version__
from fiffdepth_rt.viewing import colorize

__all__ = ["Depth", "__version__", "colorize", "errors"]

logging.getLogger("fiffdepth_rt").addHandler(logging.NullHandler())

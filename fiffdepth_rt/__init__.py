"""Depth from a photo, by a one-step diffusion model. START HERE: depth.py.

with fiffdepth_rt.Depth() as depth:
    d = depth.infer(photo)      # H×W×3 uint8 RGB -> H×W float32 in [0, 1]; depth.output_space says which way
"""

import logging

from fiffdepth_rt import errors
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.version import __version__
from fiffdepth_rt.viewing import colorize

__all__ = ["Depth", "__version__", "colorize", "errors"]

logging.getLogger("fiffdepth_rt").addHandler(logging.NullHandler())

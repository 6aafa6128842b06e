"""A camera, as fast as this machine can: python camera.py 0

The argument is what `fiffdepth video` takes: a camera's number, an address (rtsp://…), or a video file. The
latest frame wins: of the frames that come while one is computed, the others are left out.
"""

import sys

import numpy as np

import fiffdepth_rt
from fiffdepth_rt.video import open_source

with open_source(sys.argv[1]) as camera, fiffdepth_rt.Depth() as depth:
    for item in depth.stream(camera, drop="oldest" if camera.live else "never"):
        near = item.depth_map.nearness()
        row, column = np.unravel_index(near.argmax(), near.shape)
        print(f"frame {item.index}: the nearest is at x {column}, y {row}", flush=True)

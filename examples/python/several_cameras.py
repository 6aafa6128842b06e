"""Several cameras, one model: python several_cameras.py 0 1 rtsp://10.0.0.7/live

The weights are in memory once. Each camera has a stream of its own in a thread of its own; the engine
computes their frames at once, on the same cores.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import fiffdepth_rt
from fiffdepth_rt.video import open_source


def watch(name: str, depth: fiffdepth_rt.Depth) -> str:
    frames = 0
    with open_source(name) as camera:
        for item in depth.stream(camera, drop="oldest" if camera.live else "never"):
            near = item.depth_map.nearness()  # what your program does with it
            frames += 1
    return f"{name}: {frames} frames, the last one's middle row is {near[len(near) // 2].mean():.3f} near"


with fiffdepth_rt.Depth() as depth, ThreadPoolExecutor() as pool:
    for sentence in pool.map(watch, sys.argv[1:], [depth] * len(sys.argv[1:])):
        print(sentence)

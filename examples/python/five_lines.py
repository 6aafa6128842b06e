"""A photo -> its depth map, in five lines: python five_lines.py photo.jpg"""

import sys

import fiffdepth_rt

with fiffdepth_rt.Depth() as depth:  # or Depth("engines/…"), an engine directory
    d = depth.infer(sys.argv[1])
print(f"{d.values.shape}, {d.space}: {d.space.ends()}; on average {d.values.mean():.3f}")
d.save("depth.png")

"""A loop of OpenCV's, as you may have one already: python opencv_loop.py 0

The argument is a camera's number or a video file. camera.py does the same without waiting for old frames.
"""

import sys

import cv2

import fiffdepth_rt

name = sys.argv[1]
capture = cv2.VideoCapture(int(name) if name.isdigit() else name)
with fiffdepth_rt.Depth() as depth:
    while True:
        there, frame = capture.read()
        if not there:
            break
        d = depth.infer(frame, color="bgr")  # OpenCV's channels are blue, green, red
        picture = cv2.cvtColor(d.colors(), cv2.COLOR_RGB2BGR)  # for cv2.imshow
        print(f"{picture.shape[1]}x{picture.shape[0]}: {d.values.mean():.3f} on average", flush=True)
capture.release()

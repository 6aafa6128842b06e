"""A camera by its number -> Source.

By OpenCV and not by PyAV: PyAV's wheels for Linux hold none of FFmpeg's capture devices, and OpenCV finds
camera 0 on every system by the same number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from fiffdepth_rt.errors import SourceError, SourceLostError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.video.source import Source


class Camera(Source):
    """Camera `number`, 0 is the first. A frame's time is when it arrived."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name = f"Camera {number}"
        self.live = True
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise SourceError(
                f"Camera {number} cannot be opened: plug it in, end other programs that use it, and check "
                "that you may read it (on Linux /dev/video*, group video). 0 is the first camera."
            )

    def _frames(self) -> Iterator[tuple[Fraction, Pixels]]:
        began = time.monotonic_ns()
        while True:
            try:
                there, frame = self._capture.read()
            except cv2.error:
                return
            if not there:
                return
            arrived = Fraction(time.monotonic_ns() - began, 10**9)
            yield arrived, np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _judge_end(self, given: int) -> None:
        raise SourceLostError(
            f"{self.name} gives no more frames after {given}: it was unplugged or switched off, or another "
            "program took it. Plug it in again, and start again."
        )

    def _release(self) -> None:
        self._capture.release()

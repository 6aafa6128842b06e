"""sensor_msgs/CameraInfo -> Intrinsics of a photo, and the CameraInfo of a depth image."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import AlignmentError, MessageError
from fiffdepth_rt.geometry.camera import Intrinsics

ASPECT_TOLERANCE = 0.01
"""Relative difference of height / width from which a photo is not the picture that a camera_info is of."""

Matrix = npt.NDArray[np.float64]


def intrinsics_of(camera_info: Any, photo_hw: tuple[int, int]) -> Intrinsics:
    """CameraInfo -> Intrinsics of the photo of (height, width) `photo_hw`.

    They are those of the matrix P, which holds for the rectified picture (image_rect); where P is empty,
    those of K. A region of interest and binning are taken in, and so is that the picture was resized
    afterwards. A bent picture (`is_distorted`) is taken for a pinhole's: image_proc rectifies.

    Raises MessageError: a camera that was never calibrated, a photo of another aspect.
    """
    matrix = _field(camera_info, "p").reshape(3, 4)
    if not matrix.any():
        matrix = _field(camera_info, "k").reshape(3, 3)
    (fx, cx), (fy, cy) = _way(camera_info, photo_hw).of(matrix)
    try:
        return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, photo_hw=photo_hw)
    except AlignmentError as error:
        raise MessageError(
            "This camera_info holds no calibration: its matrices are empty or wrong. Calibrate the camera "
            f"(in ROS: camera_calibration). {error}"
        ) from error


def is_distorted(camera_info: Any) -> bool:
    """Whether the camera's raw picture is bent, so that only the rectified one is a pinhole's."""
    return bool(_field(camera_info, "d").any())


def scaled_camera_info(camera_info: Any, photo_hw: tuple[int, int], *, header: Any) -> Any:
    """CameraInfo -> that of an image of (height, width) from the same camera, with the image's header.

    K and P are of the image itself: scaled, with no region of interest and no binning left. Distortion and R
    stay as they are. Raises MessageError: an image of another aspect.
    """
    way = _way(camera_info, photo_hw)
    scaled = copy.deepcopy(camera_info)
    scaled.header, scaled.height, scaled.width = header, int(photo_hw[0]), int(photo_hw[1])
    scaled.binning_x = scaled.binning_y = 0
    scaled.roi.x_offset = scaled.roi.y_offset = scaled.roi.height = scaled.roi.width = 0
    scaled.roi.do_rectify = False
    for name, columns in (("k", 3), ("p", 4)):
        matrix = _field(camera_info, name).reshape(3, columns).copy()
        if matrix.any():
            (matrix[0, 0], matrix[0, 2]), (matrix[1, 1], matrix[1, 2]) = way.of(matrix)
            matrix[0, 1] *= way.across  # the skew
            matrix[:2, 3:] *= np.array([[way.across], [way.down]])  # fx · Tx, of the second camera of a pair
        setattr(scaled, _name(camera_info, name), matrix.reshape(-1))
    return scaled


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Way:
    """From the sensor's pixels to those of an image: what was cut off, then the factors of both axes."""

    left: int
    top: int
    across: float
    down: float

    def of(self, matrix: Matrix) -> tuple[tuple[float, float], tuple[float, float]]:
        """K or P -> (fx, cx), (fy, cy) in the image. Middles of pixels are whole numbers."""
        return (
            (float(matrix[0, 0]) * self.across, self._moved(matrix[0, 2] - self.left, self.across)),
            (float(matrix[1, 1]) * self.down, self._moved(matrix[1, 2] - self.top, self.down)),
        )

    @staticmethod
    def _moved(middle: Any, factor: float) -> float:
        return float(middle) if factor == 1 else (float(middle) + 0.5) * factor - 0.5


def _way(camera_info: Any, photo_hw: tuple[int, int]) -> _Way:
    roi = camera_info.roi
    height = int(roi.height) or int(camera_info.height)
    width = int(roi.width) or int(camera_info.width)
    if not height or not width:
        raise MessageError("This camera_info says no height and width: its driver leaves them out.")
    across, down = photo_hw[1] / width, photo_hw[0] / height
    binning = max(1, int(camera_info.binning_x)) / max(1, int(camera_info.binning_y))
    if abs(across * binning / down - 1) > ASPECT_TOLERANCE:
        raise MessageError(
            f"The camera_info is of pictures of {height}x{width} pixels, and the image has {photo_hw[0]}x"
            f"{photo_hw[1]}, which is another shape: the image was cropped, or they are of two cameras. "
            "Name the camera_info topic that belongs to the image."
        )
    return _Way(left=int(roi.x_offset), top=int(roi.y_offset), across=across, down=down)


def _field(camera_info: Any, name: str) -> Matrix:
    return np.asarray(getattr(camera_info, _name(camera_info, name)), dtype=np.float64)


def _name(camera_info: Any, name: str) -> str:
    """ROS 2 writes k, and ROS 1 K."""
    return name if hasattr(camera_info, name) else name.upper()

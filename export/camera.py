"""The camera's own resolution inside the graph: its picture in, depth for its picture out.

Resizing and padding along one side are linear, so each is one constant matrix, and the graph holds two
products per door. The matrices follow fiffdepth_rt.image: area means when shrinking, replicate-padding,
linear on the way back. They are fp32 in every precision, being plain attributes that a cast leaves alone.
The one difference to the host: it rounds the resized picture to 8 bits, the graph does not.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from export.stages import DecoderStage, EncoderStage
from fiffdepth_rt.image import Fit, fit, grid_for

Matrix = npt.NDArray[np.float32]


def camera_fit(camera_hw: tuple[int, int], size: int) -> Fit:
    """camera (height, width) -> how its picture lies on the grid of the processing size."""
    return fit(camera_hw, grid_for(camera_hw, size=size))


def to_grid_matrices(fitted: Fit) -> tuple[Matrix, Matrix]:
    """(rows [h, H], columns [w, W]): image on the grid = rows @ picture @ columns.T, per channel."""
    (height, width), (content_h, content_w) = fitted.photo_hw, fitted.content_hw
    grid_h, grid_w = fitted.grid_hw
    rows = _pad(_resizing(height, content_h, cv2.INTER_CUBIC), fitted.top, grid_h)
    return rows, _pad(_resizing(width, content_w, cv2.INTER_CUBIC), fitted.left, grid_w)


def to_camera_matrices(fitted: Fit) -> tuple[Matrix, Matrix]:
    """(rows [H, h], columns [W, w]): depth of the camera's picture = rows @ depth on the grid @ columns.T."""
    (height, width), (content_h, content_w) = fitted.photo_hw, fitted.content_hw
    rows = np.zeros((height, fitted.grid_hw[0]), np.float32)
    columns = np.zeros((width, fitted.grid_hw[1]), np.float32)
    rows[:, fitted.top : fitted.top + content_h] = _resizing(content_h, height, cv2.INTER_LINEAR)
    columns[:, fitted.left : fitted.left + content_w] = _resizing(content_w, width, cv2.INTER_LINEAR)
    return rows, columns


class CameraEncoderStage(EncoderStage):
    """picture -> latent: uint8 [B, H, W, 3] at the camera's resolution -> float32 [B, C, h/8, w/8]."""

    def __init__(self, vae: Any, fitted: Fit) -> None:
        super().__init__(vae)
        rows, columns = to_grid_matrices(fitted)
        self.rows, self.columns_T = torch.from_numpy(rows), torch.from_numpy(columns).T.contiguous()

    def forward(self, image_BHW3: torch.Tensor) -> torch.Tensor:
        picture = image_BHW3.to(torch.float32).permute(0, 3, 1, 2)
        return self.from_pixels(self.rows @ (picture @ self.columns_T))


class CameraDecoderStage(DecoderStage):
    """depth latent -> depth map at the camera's resolution: depth and depth_unclipped, float32 [B, H, W]."""

    def __init__(self, vae: Any, fitted: Fit) -> None:
        super().__init__(vae)
        rows, columns = to_camera_matrices(fitted)
        self.rows, self.columns_T = torch.from_numpy(rows), torch.from_numpy(columns).T.contiguous()

    def forward(self, depth_latent_BChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        depth, unclipped = super().forward(depth_latent_BChw)
        return self._resized(depth).clamp(0.0, 1.0), self._resized(unclipped)

    def _resized(self, x_Bhw: torch.Tensor) -> torch.Tensor:
        return self.rows @ (x_Bhw @ self.columns_T)


def _resizing(size: int, new: int, enlarging: int) -> Matrix:
    """[new, size]: what cv2.resize does along one side."""
    if size == new:
        return np.eye(size, dtype=np.float32)
    how = cv2.INTER_AREA if new < size else enlarging
    return np.asarray(cv2.resize(np.eye(size, dtype=np.float32), (size, new), interpolation=how), np.float32)


def _pad(matrix: Matrix, before: int, size: int) -> Matrix:
    """Repeat the first and last row until there are `size`."""
    return np.pad(matrix, ((before, size - before - matrix.shape[0]), (0, 0)), mode="edge")

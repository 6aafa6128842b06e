"""The bundled model's teacher: a larger network of ours, asked several times. photo -> a soft, robust map.

The paper's teacher (Depth Anything V2) is robust because it saw everything and soft because its head is
coarse. Ours starts where the student starts with its UNet made twice as wide (`networks.widen_into`), goes on
with scenes through strong augmentation, and is the mean over sizes and mirror images. Where one look is
wrong, the other looks outvote it; where the looks disagree, an edge is soft.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fiffdepth_rt.image import fit, grid_for, to_grid, to_photo
from training.data.teacher_maps import Output, TeacherMap
from training.latents import photo_tensor
from training.loop import autocast

SIZES = (256, 512)
"""Longer sides at which a photo is looked at, px."""


class EnsembleTeacher:
    """A `Teacher`. network: photos N×3×h×w in [-1, 1] -> depth pictures N×1×h×w."""

    name = (
        "nano's network with its UNet twice as wide (25 million parameters), trained on scenes with strong "
        "augmentation, mean over two sizes and mirror images"
    )
    licence = "Apache-2.0"
    output: Output = "depth"

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network.eval()

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        return photo_hw

    def __call__(self, photos: Sequence[NDArray[np.uint8]]) -> list[TeacherMap]:
        return [self._look_at(photo) for photo in photos]

    def _look_at(self, photo: NDArray[np.uint8]) -> TeacherMap:
        hw = (photo.shape[0], photo.shape[1])
        looks = []
        for fitted in (fit(hw, grid_for(hw, size=size)) for size in SIZES):
            image = to_grid(photo, fitted)
            with torch.no_grad(), autocast():
                pictures = self._network(photo_tensor(np.stack([image, image[:, ::-1]])))
            straight, mirrored = ((pictures.float()[:, 0].clamp(-1, 1) + 1) / 2).numpy()
            looks += [to_photo(straight, fitted), to_photo(mirrored[:, ::-1], fitted)]
        return np.mean(looks, axis=0, dtype=np.float32)

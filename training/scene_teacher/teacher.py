"""photo -> depth up to a scale, by the trained network: the mean over two sizes and mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from training.data.teacher_maps import Output, Pixels, TeacherMap
from training.log_depth.backbone import STRIDES, WEIGHTS_LICENCE
from training.scene_teacher import checkpoint

SHORTER_SIDES = (192, 256)
"""At which a photo is looked at, px."""
MAX_ASPECT = 6
"""Longest side by shortest: beyond, little of the photo is left at these sizes."""


class SceneTeacher:
    """A `Teacher`. Its depth is exp of the mean log depth of four looks, each less its median."""

    output: Output = "depth"

    def __init__(self, path: Path, *, device: torch.device) -> None:
        self._network, info = checkpoint.load(path)
        self._network.to(device)
        self._device = device
        self.name = f"{path.stem}: EfficientNet-Lite2 and a decoder, trained on rendered scenes"
        self.licence = f"{info.scenes.licence}; {WEIGHTS_LICENCE}"

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        if max(photo_hw) > MAX_ASPECT * min(photo_hw):
            raise ValueError(
                f"{photo_hw[1]}×{photo_hw[0]} px is longer than {MAX_ASPECT} times its shorter side"
            )
        return photo_hw

    def __call__(self, photos: Sequence[Pixels]) -> list[TeacherMap]:
        return [self._look_at(photo) for photo in photos]

    @torch.inference_mode()
    def _look_at(self, photo: Pixels) -> TeacherMap:
        looks = []
        for shorter in SHORTER_SIDES:
            h, w = network_hw((photo.shape[0], photo.shape[1]), shorter)
            small = cv2.resize(photo, (w, h), interpolation=cv2.INTER_AREA)
            both = torch.from_numpy(np.stack([small, small[:, ::-1]])).permute(0, 3, 1, 2).float()
            straight, mirrored = self._network(both.to(self._device))[:, 0].float().cpu().numpy()
            looks += [_centred(straight, photo), _centred(mirrored[:, ::-1], photo)]
        return np.exp(np.mean(looks, axis=0, dtype=np.float32))


def network_hw(photo_hw: tuple[int, int], shorter: int) -> tuple[int, int]:
    """photo's (height, width) -> the network's: the shorter side is `shorter`, both are multiples of 32."""
    multiple = STRIDES[-1]
    scale = shorter / min(photo_hw)
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in photo_hw)
    return height, width


def _centred(log_depth: NDArray[np.float32], photo: Pixels) -> NDArray[np.float32]:
    at_size = cv2.resize(
        np.ascontiguousarray(log_depth), (photo.shape[1], photo.shape[0]), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(np.clip(at_size - np.median(at_size), -10, 10), np.float32)

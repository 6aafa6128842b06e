"""The bundled model's teacher: larger, blurred, robust. Photo -> a coarse depth picture.

The paper's teacher (Depth Anything V2) is robust because it saw everything, and soft because its head works
at a fraction of the resolution. Ours is robust as far as strongly augmented scenes carry, and soft for
the same reason: a ResNet-18 trunk and an UperNet head that predicts at a quarter of the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

from training import augment, loop, objective
from training.data import procedural
from training.tensors import autocast, photo_tensor

SHAPES = ((128, 192), (128, 192), (192, 128), (160, 160))
"""Processed shapes in training, px."""
SIDES = (192, 256)
"""Longer sides at which a photo is looked at; the label is the mean over them and their mirror images."""


def network() -> UperNetForSemanticSegmentation:
    """12 million parameters; logits N×1×H×W, interpolated from H/4×W/4."""
    trunk = ResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=trunk, hidden_size=64, num_labels=1, use_auxiliary_head=False)
    )


def train(
    scenes: Sequence[procedural.Shard],
    held_out: Sequence[procedural.Shard],
    schedule: loop.Schedule,
    place: Path,
    *,
    batch: int,
) -> UperNetForSemanticSegmentation:
    """Photos of the scenes, strongly augmented -> their depth pictures. Resumable, see `loop.fit`."""
    torch.manual_seed(4)
    net = network().train()

    def loss_at(step: int) -> torch.Tensor:
        photos, pictures = scene_batch(scenes, step, batch, SHAPES, seed=23, strength=1.0)
        with autocast():
            predicted = net(photos).logits
        return objective.depth_loss(pictures, predicted.float())

    def validate(module: torch.nn.Module) -> dict[str, float]:
        module.eval()
        errors = []
        with torch.no_grad(), autocast():
            for i, shard in enumerate(held_out):
                photos, pictures = scene_batch([shard], i, 16, SHAPES, seed=29, strength=0.0)
                errors.append(objective.mae(pictures, module(photos).logits.float()).item())
        return {"held_out_mae": float(np.mean(errors))}

    loop.fit(net, loss_at, schedule, place, validate=validate)
    return load(place)


def load(place: Path) -> UperNetForSemanticSegmentation:
    net = network()
    net.load_state_dict(load_file(place / loop.WEIGHTS))
    return net.eval().requires_grad_(False)


def scene_batch(
    shards: Sequence[procedural.Shard],
    step: int,
    count: int,
    shapes: Sequence[tuple[int, int]],
    *,
    seed: int,
    strength: float,
    smallest: float = 0.6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `step` of a run: photos N×3×h×w and depth pictures N×1×h×w in [-1, 1], all of one of `shapes`."""
    rng = np.random.default_rng([seed, step])
    shape = shapes[rng.integers(len(shapes))]
    photos = np.empty((count, *shape, 3), np.uint8)
    pictures = np.empty((count, 1, *shape), np.float32)
    for i in range(count):
        shard = shards[rng.integers(len(shards))]
        k = rng.integers(len(shard.photos))
        photo, picture = augment.frame(
            shard.photos[k], procedural.to_picture(shard.depth[k]), shape, rng, smallest=smallest
        )
        photos[i], pictures[i, 0] = augment.expose(photo, rng, strength=strength), picture
    return photo_tensor(photos), torch.from_numpy(pictures)


def label(net: UperNetForSemanticSegmentation, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 H×W×3 -> float32 H×W depth, larger = farther, known up to scale and shift.

    The mean over SIDES and mirror images, resized bilinearly to the photo.
    """
    H, W = photo.shape[:2]
    total = np.zeros((H, W), np.float32)
    for side in SIDES:
        hw = [max(64, round(n * side / max(H, W) / 32) * 32) for n in (H, W)]
        small = cv2.resize(photo, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
        both = photo_tensor(np.stack([small, small[:, ::-1]]))
        with torch.no_grad(), autocast():
            straight, mirrored = net(both).logits.float()[:, 0].numpy()
        total += cv2.resize((straight + mirrored[:, ::-1]) / 2, (W, H), interpolation=cv2.INTER_LINEAR)
    return total / len(SIDES)

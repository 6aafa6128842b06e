"""photos and scenes -> a student from whose features a small map makes the scene teacher's.

What the teacher knows of real photos lies in its pretrained backbone. A small UNet follows its labels slowly
where it sees them alone; here the UNet's features at strides 8, 16 and 32 are held to those of the teacher's
decoder as well, each through a group norm and a 1×1 convolution that are thrown away afterwards (Romero et
al., FitNets, ICLR 2015, sec. 2.2).

    scenes    the truth, by joint.py's `decisive_loss`
    photos    the teacher's labels by eq. 5 and 6, and its features

It comes between the light VAE and the fine stage, at the small size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from training import augment, loop, objective, parallel
from training.data.images import PhotoFolder
from training.data.labels import LabelStore
from training.loop import autocast
from training.nano.joint import (
    SHAPES,
    DepthModel,
    decisive_loss,
    held_out_error,
    labelled,
    scenes_in,
    small_scenes,
)
from training.scene_teacher.network import LogDepthNetwork
from training.scene_teacher.teacher import SceneTeacher

LEVELS = (4, 3, 2)
"""Of the teacher's decoder, strides 32, 16 and 8: what the UNet's up blocks 0, 1 and 2 have too."""
HINT_WEIGHT = 1.0
LABEL_WEIGHT = 0.5
"""Beside the scenes' loss."""
FIRST_VIEWS = 96
"""Views of photos that the mean and the deviation of each of the teacher's channels come from."""
FIRST_SEED = 71


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """What one process sees in a step: so many scenes, and so many photos with labels."""

    scenes: int
    photos: int


class Hints:
    """The teacher's features of the three strides, standardised by channel."""

    def __init__(self, network: LogDepthNetwork, views: Iterable[torch.Tensor]) -> None:
        """views: batches N×3×H×W in [-1, 1], of many photos, whose features give the means and deviations."""
        self._network = network.requires_grad_(False)
        found = [[x.transpose(0, 1).flatten(1) for x in self._raw(batch)] for batch in views]
        whole = [torch.cat(level, 1)[None, :, :, None] for level in zip(*found, strict=True)]
        self.channels = tuple(level.shape[1] for level in whole)
        self._mean = [level.mean(2, keepdim=True) for level in whole]
        self._deviation = [level.std(2, keepdim=True).clamp_min(1e-3) for level in whole]

    def of(self, photos: torch.Tensor) -> list[torch.Tensor]:
        """photos N×3×H×W in [-1, 1] -> for each of LEVELS float N×C×h×w."""
        raw = self._raw(photos)
        return [(x - m) / d for x, m, d in zip(raw, self._mean, self._deviation, strict=True)]

    @torch.no_grad()
    def _raw(self, photos: torch.Tensor) -> list[torch.Tensor]:
        with autocast():
            features = self._network.backbone((photos + 1) * 127.5)
            return [x.float() for x in self._network.decoder.features(features, down_to=LEVELS[-1])]


class Follower(nn.Module):
    """The student, and the maps from its features to the teacher's."""

    def __init__(self, model: DepthModel, channels: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        widths = model.unet.config["block_out_channels"][::-1]
        self.maps = nn.ModuleList(_map(width, there) for width, there in zip(widths, channels, strict=False))

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """-> depth pictures, and for each of LEVELS what is held to the teacher's features."""
        found: list[torch.Tensor] = []

        def keep(_block: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            found.append(output)

        hooks = [block.register_forward_hook(keep) for block in self.model.unet.up_blocks[: len(LEVELS)]]
        try:
            pictures = self.model(photos)
        finally:
            for hook in hooks:
                hook.remove()
        return pictures, [own(x) for own, x in zip(self.maps, found, strict=True)]


def _map(width: int, there: int) -> nn.Module:
    """Starts at zero, the teacher's mean: a random map's gradients would make the student forget depth."""
    convolution = nn.Conv2d(width, there, 1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(nn.GroupNorm(16, width), convolution)


def train_hints(
    run: Path,
    model: DepthModel,
    schedule: loop.Schedule,
    *,
    batches: Batches,
    real: tuple[PhotoFolder, LabelStore],
    teacher: SceneTeacher,
) -> None:
    """Leaves in run/hints the averaged weights of student and maps."""
    photos, labels = real
    network = teacher.network
    usable = labelled(photos, labels)
    scenes = small_scenes(run)

    def views(step: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return augment.labelled_batch(photos, labels, usable, step, count, SHAPES, seed=seed)

    hints = Hints(network, (views(i, 8, FIRST_SEED)[0] for i in range(FIRST_VIEWS // 8)))
    follower = Follower(model, hints.channels)

    def loss_at(step: int) -> torch.Tensor:
        part = parallel.draw(step)
        rendered, truth = augment.scene_batch(
            scenes, part, batches.scenes, SHAPES, seed=61, strength=0.5, smallest=0.75
        )
        taken, taught = views(part, batches.photos, 67)
        with autocast():
            predicted = model(rendered)
            followed, features = follower(taken)
        hint_loss = sum(
            nn.functional.mse_loss(own.float(), there)
            for own, there in zip(features, hints.of(taken), strict=True)
        ) / len(LEVELS)
        label_loss = objective.depth_loss(taught, followed, gradient_weight=1.0)
        return decisive_loss(truth, predicted) + HINT_WEIGHT * hint_loss + LABEL_WEIGHT * label_loss

    def validate(averaged: nn.Module) -> dict[str, float]:
        assert isinstance(averaged, Follower)
        return held_out_error(averaged.model, scenes_in(run / "held_out"))

    loop.fit(follower, loss_at, schedule, run / "hints", validate=validate)


def model_after_hints(run: Path, model: DepthModel) -> DepthModel:
    """`model` with the weights that `train_hints` left; the maps stay behind."""
    weights = load_file(run / "hints" / loop.WEIGHTS)
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    return model

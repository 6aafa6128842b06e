"""photos -> a small latent-diffusion prior: the start that every variant shares.

The latent is 12×16×16: each 2×2 patch of pixels becomes a column of channels, times LATENT_SCALE. That
encoder is fixed and loses nothing, so no variant gains or loses by a decoder. The network is diffusers'
UNet2DConditionModel, as in the product, with v-prediction on the schedule of Stable Diffusion.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.miniature.scenes import SIZE
from benchmarks.miniature.worlds import World
from training.loop import WEIGHTS, Schedule, fit
from training.objective import Diffusion, squared_error

PATCH = 2
LATENT_SCALE = 2.0
"""Brings latents to a deviation of about 1, as 0.18215 does in Stable Diffusion."""
PROMPT = torch.zeros(1, 2, 32)
"""Stands where the empty prompt's embedding stands."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """channels of the UNet's levels (16×16, 8×8, 4×4 latents); batch: images of one kind in a step."""

    channels: tuple[int, int, int] = (32, 48, 64)
    batch: int = 8


def photo_latent(photos: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 N×32×32×3 -> float32 N×12×16×16."""
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.pixel_unshuffle(pixels, PATCH) * LATENT_SCALE


def depth_latent(pictures: NDArray[np.float32]) -> torch.Tensor:
    """float32 N×32×32 in [-1, 1] -> N×12×16×16: a grey picture's latent, as in Marigold."""
    grey = torch.from_numpy(pictures)[:, None].expand(-1, 3, -1, -1)
    return torch.nn.functional.pixel_unshuffle(grey, PATCH) * LATENT_SCALE


def decode(latent: torch.Tensor) -> NDArray[np.float32]:
    """N×12×16×16 -> depth pictures N×32×32: the mean of the three colours, clipped to [-1, 1]."""
    pixels = torch.nn.functional.pixel_shuffle(latent / LATENT_SCALE, PATCH)
    return pixels.mean(1).clamp(-1, 1).float().cpu().numpy()


def new_network(size: Size) -> UNet2DConditionModel:
    """Random weights, the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=SIZE // PATCH,
            in_channels=3 * PATCH**2,
            out_channels=3 * PATCH**2,
            block_out_channels=size.channels,
            layers_per_block=1,
            norm_num_groups=16,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            cross_attention_dim=PROMPT.shape[-1],
            use_linear_projection=True,
        )


def load_network(size: Size, place: Path) -> UNet2DConditionModel:
    network = new_network(size)
    network.load_state_dict(load_file(place / WEIGHTS))
    return network


def train_prior(world: World, size: Size, place: Path, *, steps: int) -> None:
    """Denoise photos of every look until `place` holds the weights; resumable. Batch: 2 × size.batch."""
    network, diffusion = new_network(size), Diffusion.of()

    def loss_at(step: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(step)
        rows = torch.randint(len(world.photos), (2 * size.batch,), generator=rng).numpy()
        return denoising_loss(network, diffusion, photo_latent(world.photos[rows]), rng)

    held_out = photo_latent(world.photos[-64:])

    def validate(averaged: torch.nn.Module) -> dict[str, float]:
        with torch.no_grad():
            rng = torch.Generator().manual_seed(0)
            return {"seen": denoising_loss(averaged, diffusion, held_out, rng).item()}

    schedule = Schedule(
        steps=steps, lr=1e-3, warmup=min(50, steps), save_every=min(250, steps), average=0.995
    )
    fit(network, loss_at, schedule, place, validate=validate)


def denoising_loss(
    network: torch.nn.Module, diffusion: Diffusion, latents: torch.Tensor, rng: torch.Generator
) -> torch.Tensor:
    """‖v − ε(x_t, t)‖² / M at random t."""
    t = diffusion.random_steps(len(latents), rng)
    noise = torch.randn(latents.shape, generator=rng)
    predicted = network(diffusion.noisy(latents, noise, t), t, PROMPT.expand(len(latents), -1, -1)).sample
    return squared_error(diffusion.velocity(latents, noise, t), predicted.float())

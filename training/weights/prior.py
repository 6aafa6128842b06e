"""A light VAE whose encoder knows what photos look like: AutoencoderTiny beside a network for log depth.

The encoder's latent is two latents side by side: the channels of an EncoderTiny, which sees the photo as it
is, and those of a `DepthPrior`, which looks at the photo at half its size with a pretrained backbone
(training/log_depth/). In a file they are `encoder.layers.*` and `encoder.prior.*`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderTiny
from diffusers.configuration_utils import register_to_config
from torch import nn

from training.log_depth.backbone import Backbone
from training.log_depth.network import WIDTHS, LogDepthNetwork

SCALE = 2
"""By what the photo's sides are divided before the prior looks at it."""
_UNSHUFFLED = 16
"""The head's 4 numbers per cell of stride 2, in 2×2 of these cells: one cell of the latent."""


class DepthPrior(nn.Module):
    """RGB in 0 … 255, N×3×H×W -> N×channels×H/8×W/8: its decoder's features and log depth, mixed linearly.

    widths: of the network's decoder. H, W: multiples of 8.
    """

    halving: torch.Tensor

    def __init__(self, channels: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.network = LogDepthNetwork(Backbone(folded=True), widths=widths)
        self.mix = nn.Conv2d(widths[1] + _UNSHUFFLED, channels, 1)
        mean = torch.full((3, 1, SCALE, SCALE), SCALE**-2, device="cpu")  # has values on the meta device too
        self.register_buffer("halving", mean, persistent=False)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        return self.mix(self.seen(photos))

    def seen(self, photos: torch.Tensor) -> torch.Tensor:
        """What is mixed: N×(width of stride 4 + 16)×H/8×W/8."""
        halved = nn.functional.conv2d(photos, self.halving, stride=SCALE, groups=3)
        decoder = self.network.decoder
        finest, coarser, *_ = decoder.levels(self.network.backbone(halved))
        return torch.cat([coarser, nn.functional.pixel_unshuffle(decoder.head(finest), 2)], 1)

    @torch.no_grad()
    def spread_by(self, photos: torch.Tensor) -> None:
        """Set `mix` so that channels of these photos have mean 0 and deviation 1: first the mean log depth of
        a cell, then random ones."""
        seen = self.seen(photos)
        mean, deviation = seen.mean((0, 2, 3)), seen.std((0, 2, 3)).clamp_min(1e-3)
        weight = torch.randn(self.mix.weight.shape[:2], generator=torch.Generator().manual_seed(0))
        weight = weight / deviation
        weight[0, :-_UNSHUFFLED], weight[0, -_UNSHUFFLED:] = 0, 1
        mixed = torch.einsum("kc,nchw->nkhw", weight, seen - mean[:, None, None])
        weight = weight / mixed.std((0, 2, 3)).clamp_min(1e-3)[:, None]
        self.mix.weight.copy_(weight[:, :, None, None])
        self.mix.bias.copy_(-weight @ mean)


class PriorEncoder(nn.Module):
    """Pixels N×3×H×W in [-1, 1] -> latent N×C×H/8×W/8: an EncoderTiny's channels, then the prior's."""

    def __init__(self, layers: nn.Module, prior: DepthPrior) -> None:
        super().__init__()
        self.layers, self.prior = layers, prior

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = x.add(1).div(2)
        return torch.cat([self.layers(unit), self.prior(unit * 255)], 1)


class PriorAutoencoderTiny(AutoencoderTiny):
    """AutoencoderTiny whose last `prior_channels` of the latent's channels are a `DepthPrior`'s.

    prior_widths: of the prior's decoder. What else it takes is AutoencoderTiny's.
    """

    encoder: Any

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        act_fn: str = "relu",
        upsample_fn: str = "nearest",
        latent_channels: int = 4,
        upsampling_scaling_factor: int = 2,
        num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
        num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
        latent_magnitude: int = 3,
        latent_shift: float = 0.5,
        force_upcast: bool = False,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        prior_channels: int = 12,
        prior_widths: tuple[int, ...] = WIDTHS,
    ) -> None:
        super().__init__(**{name: value for name, value in locals().items() if name in _TINY})
        layers: nn.Sequential = self.encoder.layers
        layers[-1] = nn.Conv2d(layers[-1].in_channels, latent_channels - prior_channels, 3, padding=1)
        self.encoder = PriorEncoder(layers, DepthPrior(prior_channels, prior_widths))


_TINY = frozenset(inspect.signature(AutoencoderTiny.__init__).parameters) - {"self"}


def with_prior(vae: AutoencoderTiny, network: LogDepthNetwork, channels: int) -> PriorAutoencoderTiny:
    """A light VAE of k latent channels -> one of k + channels, with the network in its encoder.

    What it computes from its first k channels stays the same: the decoder has small random weights for the
    new ones. `DepthPrior.spread_by` is to follow.
    """
    config: dict[str, Any] = {k: v for k, v in vae.config.items() if k in _TINY and k != "block_out_channels"}
    config["latent_channels"] += channels
    wide = PriorAutoencoderTiny(**config, prior_channels=channels, prior_widths=network.widths)
    wide.encoder.layers.load_state_dict(vae.encoder.layers.state_dict())
    wide.encoder.prior.network.load_state_dict(network.state_dict())
    own, weights = vae.decoder.state_dict(), wide.decoder.state_dict()
    for name, value in own.items():
        weights[name] = value if weights[name].shape == value.shape else widened(value, 0.3 * weights[name])
    wide.decoder.load_state_dict(weights)
    return wide


def widened(narrow: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """`wide` with `narrow` in its first places along each dimension."""
    out = wide.clone()
    out[tuple(slice(size) for size in narrow.shape)] = narrow
    return out

"""A trained UNet -> a wider one that computes the same and learns on: the bundled model's teacher starts so.

Net2WiderNet (Chen, Goodfellow & Shlens, 2016) for every layer at once: each channel comes `factor` times,
side by side, and each weight is shared among the copies that it reads. Side by side, the copies stay in their
group of a GroupNorm, in their attention head and on their side of a GEGLU, and skip connections still meet
their own, so none of these layers has to be told.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

SPREAD = 0.2
"""Copies of a channel would learn the same for ever. What they are read with differs by this part of the
weights' deviation, and adds up to nothing while they are the same."""


def widen_into(unet: UNet2DConditionModel, wider: UNet2DConditionModel) -> None:
    """Give `wider` weights with which it computes what `unet` does, at every t.

    wider: the same architecture with every block_out_channels a same multiple of unet's; its groups, heads,
    latent and prompt channels are unet's. Raises ValueError where it is not.
    """
    factor = wider.config.block_out_channels[0] // unet.config.block_out_channels[0]
    random = torch.Generator().manual_seed(0)
    old = unet.state_dict()
    weights = {}
    for name, like in wider.state_dict().items():
        value = old.get(name)
        if value is None or value.ndim != like.ndim:
            raise ValueError(f"{name} is not a layer of both networks.")
        if name == "time_embedding.linear_1.weight":
            value = _read_every(value, factor)  # every `factor`-th frequency is one of unet's
        elif value.ndim > 1 and like.shape[1] != value.shape[1]:
            value = _read_copies(value, factor, random)
        if like.shape[0] != value.shape[0]:
            value = value.repeat_interleave(factor, 0)
        if value.shape != like.shape:
            found, wanted = tuple(like.shape), tuple(value.shape)
            raise ValueError(f"{name} is {found}; {factor} times as wide it is {wanted}.")
        if ".to_q." in name:
            value = value / factor**0.5  # q·k is a sum over `factor` times as many, divided by their root
        weights[name] = value
    wider.load_state_dict(weights)


def _read_copies(weight: torch.Tensor, factor: int, random: torch.Generator) -> torch.Tensor:
    """out×in×… -> out×(factor·in)×…, the copies' shares adding up to the weight."""
    shape = (weight.shape[0], weight.shape[1], factor, *weight.shape[2:])
    spread = torch.randn(shape, generator=random) * (SPREAD * weight.std() / factor)
    shares = weight.unsqueeze(2) / factor + spread - spread.mean(2, keepdim=True)
    return shares.flatten(1, 2)


def _read_every(weight: torch.Tensor, factor: int) -> torch.Tensor:
    """out×in -> out×(factor·in): every `factor`-th input is read, the others are not yet."""
    wide = weight.new_zeros(weight.shape[0], weight.shape[1], factor)
    wide[:, :, 0] = weight
    return wide.flatten(1)

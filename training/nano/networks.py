"""The bundled model's networks, their inputs, and how a trained UNet becomes a wider one.

SD's shape (AutoencoderKL f8 with 4 latent channels, UNet2DConditionModel with three down-samplings, empty
prompt of 2 tokens) at 1/130 of SD's parameters. After the joint stage a light VAE (training/weights/light.py)
takes the full VAE's place: what ships has 1/150 of SD's parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray

from training.data import procedural

PROMPT_TOKENS = 2
PROMPT_CHANNELS = 32


def nano_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
    )


def nano_unet(*, width: int = 1) -> UNet2DConditionModel:
    """width: every block's channels in multiples of nano's; its teacher is wider (widen_into)."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(width * channels for channels in (48, 80, 112, 128)),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2, 4, 4),
        cross_attention_dim=PROMPT_CHANNELS,
        use_linear_projection=True,
    )


def nano_prompt() -> torch.Tensor:
    """[1, 2, 32]: stands where SD's empty-prompt embedding stands; fixed, since there is no text encoder."""
    return torch.randn(1, PROMPT_TOKENS, PROMPT_CHANNELS, generator=torch.Generator().manual_seed(0))


def depth_tensor(depth: NDArray[np.uint16]) -> torch.Tensor:
    """Stored depth N×H×W -> float N×3×H×W in [-1, 1]: what the VAE sees, three equal channels."""
    return torch.from_numpy(procedural.to_picture(depth))[:, None].expand(-1, 3, -1, -1)


# ---- a trained UNet -> a wider one that computes the same and learns on ----
#
# Net2WiderNet (Chen, Goodfellow & Shlens, 2016) for every layer at once: each channel comes `factor` times,
# and each weight is shared among the copies that it reads. The copies of a channel stand side by side: they
# stay in its group of a GroupNorm, in its attention head and on its side of a GEGLU, and skip connections
# still meet the channels that they met: none of these layers has to be told.

SPREAD = 0.2
"""Equal copies of a channel would learn the same for ever. So the weights that read the copies differ, by
this share of the weights' deviation; while the copies are equal, the differences add up to nothing."""


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

"""The bundled model's architecture: SD's shape (AutoencoderKL f8 with 4 latent channels, UNet2DConditionModel
with three down-samplings, empty prompt of 2 tokens) at about 1/130 of its size. A light VAE takes the full
one's place later (training/nano/__main__.py)."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

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
    """width: every block's channels in multiples of nano's; its teacher is wider (training.nano.widening)."""
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

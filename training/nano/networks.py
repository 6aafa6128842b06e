"""The bundled model's networks and their inputs.

SD's shape (AutoencoderKL f8 with 4 latent channels, UNet2DConditionModel, empty prompt of 2 tokens), with two
down-samplings where SD has three. After the joint stage a light VAE with a prior in its encoder
(training/weights/prior.py) takes the full VAE's place, and the latent has 16 channels.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray

from training.data import procedural
from training.weights.prior import widened

PROMPT_TOKENS = 2
PROMPT_CHANNELS = 32
VAE_CHANNELS = 4
PRIOR_CHANNELS = 12
"""Of the latent: those of the full VAE and the light one, and those of the prior in the light one."""


def nano_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=VAE_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
    )


def nano_unet(latent_channels: int = VAE_CHANNELS) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(48, 80, 64),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2, 4),
        cross_attention_dim=PROMPT_CHANNELS,
        use_linear_projection=True,
    )


def wider_unet(unet: UNet2DConditionModel, latent_channels: int) -> UNet2DConditionModel:
    """-> one for a latent with further channels, which computes the same and gives zeros in them."""
    wide = nano_unet(latent_channels)
    own = unet.state_dict()
    wide.load_state_dict(
        {name: widened(own[name], torch.zeros_like(value)) for name, value in wide.state_dict().items()}
    )
    return wide


def nano_prompt() -> torch.Tensor:
    """[1, 2, 32]: stands where SD's empty-prompt embedding stands; fixed, since there is no text encoder."""
    return torch.randn(1, PROMPT_TOKENS, PROMPT_CHANNELS, generator=torch.Generator().manual_seed(0))


def depth_tensor(depth: NDArray[np.uint16]) -> torch.Tensor:
    """Stored depth N×H×W -> float N×3×H×W in [-1, 1]: what the VAE sees, three equal channels."""
    return torch.from_numpy(procedural.to_picture(depth))[:, None].expand(-1, 3, -1, -1)

"""Random checkpoints of the real architecture, small enough that a whole export takes seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from training.data.procedural import Source
from training.log_depth.backbone import Backbone
from training.log_depth.network import LogDepthNetwork
from training.scene_teacher import checkpoint
from training.weights.light import new_light_vae
from training.weights.ours import Checkpoint, CheckpointInfo
from training.weights.prior import PriorAutoencoderTiny, with_prior
from training.weights.random import weaken_branches


def tiny_vae(seed: int = 0, **config: Any) -> AutoencoderKL:
    """A KL-f8 autoencoder of a few thousand parameters, with noise in its norms and biases."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "sample_size": 64,
            **config,
        }
    )
    shake(vae)
    vae.decoder.conv_out.weight.data.mul_(0.5)  # depth within [-1, 1], where agreement says something
    return vae


def tiny_unet(seed: int = 1, **config: Any) -> UNet2DConditionModel:
    """A two-level UNet with cross-attention on the first level, down and up, and in the middle."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 12,
            "norm_num_groups": 8,
            "use_linear_projection": True,
            **config,
        }
    )
    return shake(unet)


# One transformer instead of four: a graph that is traced in a third of the time.
FEW_BLOCKS = {"up_block_types": ("UpBlock2D", "UpBlock2D"), "mid_block_type": "UNetMidBlock2D"}
# One level, nothing halved: the shortest trace of a UNet that still attends to the prompt.
ONE_LEVEL = {
    "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "attention_head_dim": 2,
}
# A VAE with every kind of block, and half as many residual blocks: traced in half the time.
FEW_RESNETS = {"layers_per_block": 0, "block_out_channels": (8, 8, 8, 8)}


def tiny_checkpoint(
    seed: int = 0,
    *,
    recipe: str = "fiffdepth",
    tokens: int = 2,
    output_space: str = "depth",
    **unet_config: Any,
) -> Checkpoint:
    """The whole model: VAE, UNet with FEW_BLOCKS, and a prompt embedding [1, tokens, 12]."""
    unet = tiny_unet(seed + 1, **{**FEW_BLOCKS, **unet_config})
    torch.manual_seed(seed + 2)
    prompt = torch.randn(1, tokens, unet.config["cross_attention_dim"])
    info = CheckpointInfo(
        name="tiny",
        recipe=recipe,
        output_space=output_space,
        size_default=128,
        size_max=512,
        licence="CC0-1.0",
        data_sources=("random numbers",),
        training={},
    )
    return Checkpoint(unet=unet, vae=tiny_vae(seed), prompt_embedding=prompt, info=info)


def sized_like_sd2(seed: int = 11, **config: Any) -> Checkpoint:
    """Few layers, and Stable Diffusion 2's heads of 64 channels and groups of 32, so that shapes tell all.

    The residual branches are weak, so that rounding is not amplified beyond the gates at 512 px.
    """
    heads = {"block_out_channels": (64, 64), "attention_head_dim": (1, 1), "norm_num_groups": 32}
    made = tiny_checkpoint(seed, cross_attention_dim=1024, **heads, **config)
    vae = tiny_vae(seed, block_out_channels=(32,) * 4, norm_num_groups=32)
    weaken_branches(made.unet, vae)
    return dataclasses.replace(made, vae=vae)


def shake(module: Any) -> Any:
    """Move norms and biases off their initial 1 and 0, so that a fold that loses one of them shows."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * (0.2 if name.endswith("weight") else 0.1))
    return module.eval()


def exact_in_half(made: Checkpoint) -> Checkpoint:
    """The same with weights that float16 holds exactly, as published half-precision checkpoints have them.

    Random weights amplify half precision's rounding beyond the gates for photos; these have none to amplify.
    """
    for module in (made.unet, made.vae):
        module.half().float()
    return made


def depth_by_diffusers(made: Checkpoint, image: Any) -> Any:
    """uint8 [B, h, w, 3] -> depth [B, h, w] before the clip, as FiffDepth asks diffusers for it."""
    scaling = made.vae.config.scaling_factor
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        latent = made.vae.encode(pixels).latent_dist.mean * scaling
        prompt = made.prompt_embedding.expand(len(image), -1, -1)
        depth_latent = made.unet(latent, 0, encoder_hidden_states=prompt).sample
        return made.vae.decode(depth_latent / scaling).sample.mean(1).numpy()


# A light VAE with a prior of random weights, as small as the backbone allows.
PRIOR_CHANNELS = 3
PRIOR_WIDTHS = (8, 8, 8, 8, 8)


def random_network(seed: int = 5) -> LogDepthNetwork:
    """Its backbone is as large as the pretrained one: 4.3 million parameters."""
    torch.manual_seed(seed)
    network = LogDepthNetwork(Backbone(folded=True), widths=PRIOR_WIDTHS)
    with torch.no_grad():
        for p in network.backbone.parameters():
            if p.ndim == 4:  # as a trained one, it keeps the size of what goes through
                p.mul_(1.7 * (p[0].numel() ** -0.5) / p.std())
    return network.eval()


def prior_vae(seed: int = 3) -> PriorAutoencoderTiny:
    """4 + PRIOR_CHANNELS channels in the latent, one in the picture."""
    torch.manual_seed(seed)
    blocks = {"encoder_blocks": (0, 1, 1, 1), "decoder_blocks": (1, 1, 1, 0)}
    vae = with_prior(new_light_vae(width=8, **blocks), random_network(), PRIOR_CHANNELS)
    vae.encoder.prior.spread_by(torch.rand(2, 3, 64, 128) * 255)
    return vae.eval().requires_grad_(False)


def tiny_prior(folder: Path) -> Path:
    """A scene teacher's checkpoint, as `random_network` is."""
    source = Source(mix="hand-held", photos=2, photos_licence="CC0-1.0")
    info = checkpoint.Info(widths=PRIOR_WIDTHS, share=0.5, held_out={}, scenes=source)
    return checkpoint.save(folder / "teacher.safetensors", random_network(), info)

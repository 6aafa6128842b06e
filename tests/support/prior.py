"""A light VAE with a prior of random weights, as small as the backbone allows."""

from __future__ import annotations

from pathlib import Path

import torch

from training.data.procedural import Source
from training.log_depth.backbone import Backbone
from training.log_depth.network import LogDepthNetwork
from training.scene_teacher import checkpoint
from training.weights.light import new_light_vae
from training.weights.prior import PriorAutoencoderTiny, with_prior

CHANNELS = 3
WIDTHS = (8, 8, 8, 8, 8)


def random_network(seed: int = 5) -> LogDepthNetwork:
    """Its backbone is as large as the pretrained one: 4.3 million parameters."""
    torch.manual_seed(seed)
    network = LogDepthNetwork(Backbone(folded=True), widths=WIDTHS)
    with torch.no_grad():
        for p in network.backbone.parameters():
            if p.ndim == 4:  # as a trained one, it keeps the size of what goes through
                p.mul_(1.7 * (p[0].numel() ** -0.5) / p.std())
    return network.eval()


def prior_vae(seed: int = 3) -> PriorAutoencoderTiny:
    """4 + CHANNELS channels in the latent, one in the picture."""
    torch.manual_seed(seed)
    blocks = {"encoder_blocks": (0, 1, 1, 1), "decoder_blocks": (1, 1, 1, 0)}
    vae = with_prior(new_light_vae(width=8, **blocks), random_network(), CHANNELS)
    vae.encoder.prior.spread_by(torch.rand(2, 3, 64, 128) * 255)
    return vae.eval().requires_grad_(False)


def tiny_prior(folder: Path) -> Path:
    """A scene teacher's checkpoint, as `random_network` is."""
    source = Source(mix="hand-held", photos=2, photos_licence="CC0-1.0")
    info = checkpoint.Info(widths=WIDTHS, share=0.5, held_out={}, scenes=source)
    return checkpoint.save(folder / "teacher.safetensors", random_network(), info)

"""A light VAE with random weights, as a diffusers folder: to try exports and speed on.

python -m training.weights.random_light taesd-random/        # TAESD's architecture, 2.4 M parameters
python -m export.build_engines sd21-random/ --encoder taesd-random/ --decoder taesd-random/ -o engines/light
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from diffusers import AutoencoderTiny

from training.weights.light import light_vae


def random_light_vae(width: int = 64, *, out_channels: int = 3, seed: int = 0) -> AutoencoderTiny:
    """TAESD's architecture at a width."""
    torch.manual_seed(seed)
    return centre_depth(light_vae(width=width, out_channels=out_channels).eval())


def centre_depth(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Change the last layer so that depth of random latents has mean 0 and varies within [-1, 1]."""
    last = vae.decoder.layers[-1]
    with torch.no_grad():
        last.bias.fill_(0.5)  # mid-grey, as DecoderTiny maps [0, 1] to [-1, 1]
        pictures = vae.decoder(torch.randn(1, 4, 32, 32))
        factor = 0.15 / pictures.mean(1).std()
        last.weight.mul_(factor)
        last.bias.sub_(pictures.mean((0, 2, 3)) * factor / 2)
    return vae


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--width", type=click.IntRange(1, 512), default=64, show_default=True, help="64: TAESD.")
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, width: int, seed: int) -> None:
    """Write an AutoencoderTiny with random weights to FOLDER."""
    vae = random_light_vae(width, seed=seed)
    vae.save_pretrained(folder)
    click.echo(f"{folder}: {sum(p.numel() for p in vae.parameters()) / 1e6:.1f} M random parameters")


if __name__ == "__main__":
    main()

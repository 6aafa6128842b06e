"""The light VAE's file: one .safetensors with a tiny encoder, a tiny decoder, or both.

Tensors: a diffusers AutoencoderTiny state dict, `encoder.*` and `decoder.*`; a half that was not trained is
not there. Both speak the teacher's scaled latents (scaling factor 1). The decoder gives one channel, the
depth picture; DecoderTiny maps its output from [0, 1] to [-1, 1]. Export takes the file as it is.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from training.weights.ours import config_json

FORMAT = "fiffdepth-light-vae"
FORMAT_VERSION = 1
HALVES = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightInfo:
    """What the file says of itself; JSON in the metadata. teacher: name of the checkpoint it imitates."""

    name: str
    teacher: str
    licence: str
    data_sources: tuple[str, ...]
    training: dict[str, Any]


class LightVaeError(ValueError):
    """The file is not a light VAE of ours, or its tensors do not fit its configuration."""


def light_vae(
    *,
    width: int = 64,
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
    out_channels: int = 1,
) -> AutoencoderTiny:
    """TAESD's shape at a width, f8 with 4 latent channels; blocks per level, from the picture to the latent
    and back. The decoder starts at mid-grey, where depth pictures have their mean."""
    vae = AutoencoderTiny(
        out_channels=out_channels,
        encoder_block_out_channels=(width,) * len(encoder_blocks),
        decoder_block_out_channels=(width,) * len(decoder_blocks),
        num_encoder_blocks=encoder_blocks,
        num_decoder_blocks=decoder_blocks,
    )
    vae.decoder.layers[-1].bias.data.fill_(0.5)
    return vae


def save(path: Path, vae: AutoencoderTiny, halves: tuple[str, ...], info: LightInfo) -> None:
    """Write the named halves, whole or not at all. Raises OutputError where the disk refuses."""
    tensors = {k: v for k, v in vae.state_dict().items() if k.startswith(tuple(f"{h}." for h in halves))}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": config_json(vae),
        "info": json.dumps(dataclasses.asdict(info), sort_keys=True),
    }
    whole = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
    with replacing(path) as file:
        file.write(serialize(whole, metadata))


def read_metadata(metadata: dict[str, str], where: str) -> tuple[dict[str, Any], LightInfo]:
    """The file's metadata -> AutoencoderTiny's configuration, and what it says of itself.

    Raises LightVaeError when it is of another format or version, or incomplete.
    """
    if metadata.get("format") != FORMAT:
        raise LightVaeError(f"{where} lacks the metadata format={FORMAT}: not written by distill_vae.")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise LightVaeError(
            f"{where} has format {metadata.get('format_version')}, this program reads {FORMAT_VERSION}: use "
            "the version of this repository that wrote it."
        )
    try:
        stated = json.loads(metadata["info"])
        info = LightInfo(**{**stated, "data_sources": tuple(stated["data_sources"])})
        return json.loads(metadata["config"]), info
    except (KeyError, TypeError, ValueError) as e:
        raise LightVaeError(f"{where}: its metadata is incomplete ({e}). Distil it again.") from e


def load(path: Path) -> tuple[AutoencoderTiny, tuple[str, ...], LightInfo]:
    """A file written by `save` -> the autoencoder in eval mode, its trained halves, and its info.

    A half that is not in the file is None in the autoencoder. Raises LightVaeError.
    """
    try:
        with safe_open(path, framework="pt") as f:
            config, info = read_metadata(f.metadata() or {}, path.name)
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except LightVaeError:
        raise
    except Exception as e:  # safetensors raises its own untyped errors for truncated or foreign files
        raise LightVaeError(f"{path} cannot be read as safetensors: {e}. Copy or download it again.") from e
    vae = AutoencoderTiny.from_config(config).eval()
    halves = tuple(h for h in HALVES if any(k.startswith(f"{h}.") for k in tensors))
    for half in HALVES:
        if half not in halves:
            setattr(vae, half, None)
    try:
        vae.load_state_dict(tensors)
    except RuntimeError as e:
        raise LightVaeError(f"{path.name} does not fit its configuration: {e}") from e
    return vae, halves, info

"""Light VAEs: a tiny encoder, a tiny decoder, or both, in place of Stable Diffusion's.

    diffusers folder    config.json of an AutoencoderTiny (TAESD) and its weights, or a folder with a vae/
    .safetensors        the same weights, with config.json beside the file
    our own             one .safetensors of training/distill_vae.py or training/nano/start.py; a half may
                        be missing

Tensors are `encoder.*` and `decoder.*` of diffusers' AutoencoderTiny, and `encoder.prior.*` where the encoder
has a prior (prior.py). Both ends of a half are the full VAE's:
pixels in [-1, 1], and the latents that the UNet takes and gives. In our own files the scaling factor is 1,
and the decoder gives one channel, the depth picture; DecoderTiny maps its output from [0, 1] to [-1, 1].
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import shortened
from training.weights.configuration import Config, empty_module, read_json
from training.weights.errors import CheckpointError
from training.weights.folder import UNSTATED, read_config, read_model_card, read_part
from training.weights.ours import config_json, decoded
from training.weights.prior import PriorAutoencoderTiny
from training.weights.tensors import (
    Tensors,
    fill_module,
    hash_files,
    read_tensors,
    without_prefix,
)

FORMAT = "fiffdepth-light-vae"
FORMAT_VERSION = 1
HALVES = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightInfo:
    """What our own file says of itself; JSON in the metadata. teacher: name of the checkpoint it imitates."""

    name: str
    teacher: str
    licence: str
    data_sources: tuple[str, ...]
    training: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightHalf:
    """vae: AutoencoderTiny, with a prior or without, in fp32 and eval mode, whose other half is None.

    sha256: over the files read.
    """

    name: str
    vae: Any
    licence: str
    data_sources: tuple[str, ...]
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a layout yields before the half is built. files: those that were read, in order."""

    files: list[Path]
    tensors: Tensors
    config: Config
    name: str
    licence: str
    data_sources: tuple[str, ...]


def new_light_vae(
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


def save_light_vae(path: Path, vae: AutoencoderTiny, halves: tuple[str, ...], info: LightInfo) -> None:
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


def load_light_vae(path: Path) -> tuple[AutoencoderTiny, tuple[str, ...], LightInfo]:
    """A file written by `save_light_vae` -> the autoencoder, its halves, and its info.

    The autoencoder is in eval mode, without gradients; a half that is not in the file is None in it.
    Raises CheckpointError.
    """
    tensors, metadata = read_tensors(path)
    config, info = _read_metadata(metadata, path.name)
    halves = tuple(h for h in HALVES if any(k.startswith(f"{h}.") for k in tensors))
    vae = _empty(config, halves, len(tensors), path.name)
    return fill_module(vae, tensors, path.name), halves, info


def read_light_half(path: Path, half: str) -> LightHalf:
    """path, "encoder" or "decoder" -> that half, of a file that may hold both.

    Raises CheckpointError for what cannot be read, or whose tensors do not fit.
    """
    where = f"{path.name} (light {half})"
    parts = _folder(path) if path.is_dir() else _file(path)
    known = (AutoencoderTiny.__name__, PriorAutoencoderTiny.__name__)
    if (found := parts.config.get("_class_name", known[0])) not in known:
        raise CheckpointError(
            f"{where} is a {shortened(found)}, not an AutoencoderTiny. A full VAE is given with --vae, whole."
        )
    mine = without_prefix(parts.tensors, f"{half}.")
    if not mine:
        others = sorted({key.partition(".")[0] for key in parts.tensors})
        raise CheckpointError(
            f"{where} holds no {half}: its tensors begin with {', '.join(others[:5]) or 'nothing'}. "
            f"Give a file whose keys are {half}.layers.*, as diffusers' AutoencoderTiny has them."
        )
    vae = _empty(parts.config, (half,), len(parts.tensors), where)
    fill_module(getattr(vae, half), mine, where)
    return LightHalf(
        name=parts.name,
        vae=vae.eval().requires_grad_(False),
        licence=parts.licence,
        data_sources=parts.data_sources,
        sha256=hash_files(parts.files),
    )


def check_latent(where: str, unet: Any, halves: Mapping[str, Any]) -> None:
    """unet, and by "encoder" and "decoder" the autoencoders around it: do they speak of the same latent?

    Raises CheckpointError where a half has another number of channels than the UNet gives.
    """
    channels = unet.config["out_channels"]
    for half, vae in halves.items():
        if (own := vae.config["latent_channels"]) != channels:
            raise CheckpointError(
                f"{where}: its UNet gives latents of {channels} channels, the {half} is for {own}. Give the "
                "VAE that the UNet was trained with."
            )


def _empty(config: Config, halves: tuple[str, ...], tensors: int, where: str) -> AutoencoderTiny:
    """An autoencoder without weights; a half that is not named is None."""
    # block_out_channels: diffusers writes it, and complains
    stated = {k: v for k, v in config.items() if k != "block_out_channels"}
    has_prior = "prior_channels" in stated or stated.get("_class_name") == PriorAutoencoderTiny.__name__
    kind = PriorAutoencoderTiny if has_prior else AutoencoderTiny
    vae: AutoencoderTiny = empty_module(kind, stated, tensors, where)
    for half in HALVES:
        if half not in halves:
            setattr(vae, half, None)
    return vae


def _read_metadata(metadata: Mapping[str, str], where: str) -> tuple[Config, LightInfo]:
    """The metadata of our own file -> AutoencoderTiny's configuration, and what the file says of itself."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{where} lacks the metadata format={FORMAT}: not written by training/.")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{where} has format {shortened(metadata.get('format_version'))}, this program reads "
            f"{FORMAT_VERSION}: use the version of this repository that wrote it."
        )
    info = decoded(metadata, "info", LightInfo, where)
    return decoded(metadata, "config", dict[str, Any], where), info


def _folder(path: Path) -> _Parts:
    folder = path / "vae" if (path / "vae").is_dir() else path
    config = read_config(folder)
    part = read_part(folder)
    card = read_model_card(path / "README.md")
    return _Parts(
        files=[folder / "config.json", *part.files],
        tensors=part.tensors,
        config=config,
        name=path.name,
        licence=card.licence,
        data_sources=card.data_sources,
    )


def _file(path: Path) -> _Parts:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == FORMAT:
        config, info = _read_metadata(metadata, path.name)
        return _Parts(
            files=[path],
            tensors=tensors,
            config=config,
            name=info.name,
            licence=info.licence,
            data_sources=info.data_sources,
        )
    beside = path.with_name("config.json")
    if not beside.is_file():
        raise CheckpointError(
            f"{path.name} does not carry its configuration: put AutoencoderTiny's config.json beside it, or "
            "give the folder that save_pretrained wrote."
        )
    return _Parts(
        files=[beside, path],
        tensors=tensors,
        config=read_json(beside),
        name=path.stem,
        licence=metadata.get("modelspec.license", UNSTATED),
        data_sources=(),
    )

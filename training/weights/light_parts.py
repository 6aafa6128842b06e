"""A light VAE's files -> its encoder or its decoder, to be exported in place of the full one.

    diffusers folder    config.json of an AutoencoderTiny (TAESD) and its weights, or a folder with a vae/
    .safetensors        the same weights, with config.json beside the file
    our own             one .safetensors of training/distill_vae.py; a half may be missing

Of a file with both halves the one asked for is read. Both ends of a half are the full VAE's: pixels in
[-1, 1], and the latents that the UNet takes and gives.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny

from export.errors import CheckpointError
from training.weights.folder import UNSTATED, read_config, read_json, read_model_card, read_weights
from training.weights.layouts import Config
from training.weights.light import FORMAT, HALVES, LightVaeError, read_metadata
from training.weights.tensors import Tensors, fill_module, hash_files, read_tensors, without_prefix


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightHalf:
    """vae: AutoencoderTiny in fp32 and eval mode, whose other half is None. sha256: over the files read."""

    name: str
    vae: Any
    licence: str
    data_sources: tuple[str, ...]
    sha256: str


def read_light_half(path: Path, half: str) -> LightHalf:
    """path, "encoder" or "decoder" -> that half.

    Raises CheckpointError for what cannot be read, or whose tensors do not fit.
    """
    where = f"{path.name} (light {half})"
    files, tensors, config, name, licence, data_sources = _folder(path) if path.is_dir() else _file(path)
    if (found := config.get("_class_name", "AutoencoderTiny")) != "AutoencoderTiny":
        raise CheckpointError(
            f"{where} is a {found}, not an AutoencoderTiny. A full VAE is given with --vae, whole."
        )
    mine = without_prefix(tensors, f"{half}.")
    if not mine:
        others = sorted({key.partition(".")[0] for key in tensors})
        raise CheckpointError(
            f"{where} holds no {half}: its tensors begin with {', '.join(others[:5]) or 'nothing'}. "
            f"Give a file whose keys are {half}.layers.*, as diffusers' AutoencoderTiny has them."
        )
    config.pop("block_out_channels", None)  # diffusers writes it, and complains of it when it reads it
    try:
        with torch.device("meta"):
            vae = AutoencoderTiny.from_config(config)
    except (ValueError, TypeError, IndexError) as e:
        raise CheckpointError(f"{where}: its configuration builds no AutoencoderTiny ({e}).") from e
    for other in HALVES:
        if other != half:
            setattr(vae, other, None)
    fill_module(getattr(vae, half), mine, where)
    return LightHalf(
        name=name,
        vae=vae.eval().requires_grad_(False),
        licence=licence,
        data_sources=data_sources,
        sha256=hash_files(files),
    )


_Read = tuple[list[Path], Tensors, Config, str, str, tuple[str, ...]]


def _folder(path: Path) -> _Read:
    folder = path / "vae" if (path / "vae").is_dir() else path
    config = read_config(folder)
    files, tensors = read_weights(folder)
    files = [folder / "config.json", *files]
    return files, tensors, config, path.name, *read_model_card(path / "README.md")


def _file(path: Path) -> _Read:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == FORMAT:
        try:
            config, info = read_metadata(metadata, path.name)
        except LightVaeError as e:
            raise CheckpointError(str(e)) from e
        return [path], tensors, config, info.name, info.licence, info.data_sources
    beside = path.with_name("config.json")
    if not beside.is_file():
        raise CheckpointError(
            f"{path.name} does not carry its configuration: put AutoencoderTiny's config.json beside it, or "
            "give the folder that save_pretrained wrote."
        )
    return (
        [beside, path],
        tensors,
        read_json(beside),
        path.stem,
        metadata.get("modelspec.license", UNSTATED),
        (),
    )

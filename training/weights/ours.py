"""Our own checkpoint: one .safetensors with UNet, VAE, prompt embedding and everything needed to use them.

Keys: `unet.*` and `vae.*` are diffusers state dicts, `prompt_embedding` is [1, tokens, C].
Metadata (strings, as safetensors wants them): see `CheckpointInfo`. Export takes the file as it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing

FORMAT = "fiffdepth-checkpoint"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself; written into the safetensors metadata as JSON.

    output_space: what the depth maps' values mean, by its name in fiffdepth_rt.space.
    size_default, size_max: longer side of the processed image in pixels.
    """

    name: str
    recipe: str
    output_space: str
    size_default: int
    size_max: int
    licence: str
    data_sources: tuple[str, ...]
    training: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The modules of one checkpoint, in eval mode and fp32 on the CPU.

    vae: a light one (training/weights/light.py) where the UNet was trained with it.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    prompt_embedding: torch.Tensor
    info: CheckpointInfo


class CheckpointError(ValueError):
    """The file is not one of our checkpoints, or its tensors do not fit its configuration."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all. Raises OutputError where the disk refuses."""
    tensors = {f"unet.{k}": v for k, v in checkpoint.unet.state_dict().items()}
    tensors |= {f"vae.{k}": v for k, v in checkpoint.vae.state_dict().items()}
    tensors["prompt_embedding"] = checkpoint.prompt_embedding
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "unet_config": config_json(checkpoint.unet),
        "vae_config": config_json(checkpoint.vae),
        "vae_class": type(checkpoint.vae).__name__,
        "info": json.dumps(dataclasses.asdict(checkpoint.info), sort_keys=True),
    }
    whole = {k: v.detach().float().contiguous() for k, v in tensors.items()}
    with replacing(path) as file:
        file.write(serialize(whole, metadata))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint written by `save`.

    Raises CheckpointError when the file is of another format or tensors are missing, surplus or misshapen.
    """
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except Exception as e:  # safetensors raises its own untyped errors for truncated or foreign files
        raise CheckpointError(f"{path} cannot be read as safetensors: {e}. Copy or download it again.") from e
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} lacks the metadata format={FORMAT}: not written by training/.")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has format {metadata.get('format_version')}, this program reads {FORMAT_VERSION}."
        )
    info = json.loads(metadata["info"])
    info["data_sources"] = tuple(info["data_sources"])
    unet = UNet2DConditionModel.from_config(json.loads(metadata["unet_config"]))
    vae_class = AutoencoderTiny if has_light_vae(metadata) else AutoencoderKL
    vae = vae_class.from_config(json.loads(metadata["vae_config"]))
    for prefix, module in (("unet.", unet), ("vae.", vae)):
        _load_strictly(
            module, {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, path
        )
    if "prompt_embedding" not in tensors:
        raise CheckpointError(f"{path} carries no prompt_embedding.")
    return Checkpoint(
        unet=unet.eval(),
        vae=vae.eval(),
        prompt_embedding=tensors["prompt_embedding"],
        info=CheckpointInfo(**info),
    )


def has_light_vae(metadata: Mapping[str, str]) -> bool:
    """Of a checkpoint's metadata. Those before there were light VAEs do not say, and have a full one."""
    return metadata.get("vae_class") == "AutoencoderTiny"


def config_json(module: Any) -> str:
    """A diffusers config without the keys that name this installation."""
    # block_out_channels is added to a light VAE's by diffusers, which complains on reading it
    drop = "block_out_channels" if isinstance(module, AutoencoderTiny) else ""
    public = {k: v for k, v in module.config.items() if not k.startswith("_") and k != drop}
    return json.dumps(public, sort_keys=True)


def _load_strictly(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    if wanted != given:
        missing = sorted(wanted.keys() - given.keys())
        surplus = sorted(given.keys() - wanted.keys())
        misshapen = sorted(k for k in wanted.keys() & given.keys() if wanted[k] != given[k])
        raise CheckpointError(
            f"{path}: {type(module).__name__} does not fit its configuration: "
            f"missing {missing}, surplus {surplus}, misshapen {misshapen}."
        )
    module.load_state_dict(tensors)

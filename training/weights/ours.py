"""Our own checkpoint: one .safetensors with UNet, VAE, prompt embedding and everything needed to use them.

Keys: `unet.*` and `vae.*` are diffusers state dicts, `prompt_embedding` is [1, tokens, C].
Metadata (strings, as safetensors wants them): see `CheckpointInfo`. Export takes the file as it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.manifest import NAME_AT_MOST
from fiffdepth_rt.errors import shortened
from fiffdepth_rt.space import Space
from fiffdepth_rt.structs import InvalidError, convert, one_of
from training.weights.configuration import Config
from training.weights.errors import CheckpointError
from training.weights.prior import PriorAutoencoderTiny
from training.weights.tensors import Tensors, build_module, listed, read_tensors, without_prefix

T = TypeVar("T")

FORMAT = "fiffdepth-checkpoint"
FORMAT_VERSION = 1
VaeClass = type[AutoencoderKL] | type[AutoencoderTiny]
VAE_CLASSES: tuple[VaeClass, ...] = (AutoencoderKL, AutoencoderTiny, PriorAutoencoderTiny)
"""By their names in a file."""
Side = Annotated[int, msgspec.Meta(ge=16, le=16_384)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself; written into the safetensors metadata as JSON.

    output_space: what the depth maps' values mean, by its name in fiffdepth_rt.space.
    size_default, size_max: longer side of the processed image in pixels.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_AT_MOST)]
    recipe: str
    output_space: Annotated[str, one_of(*Space)]
    size_default: Side
    size_max: Side
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnParts:
    """A checkpoint of ours before its networks are built. prompt_embedding: None where it is missing."""

    unet: Tensors
    unet_config: Config
    vae: Tensors
    vae_config: Config
    vae_class: VaeClass
    prompt_embedding: torch.Tensor | None
    info: CheckpointInfo


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
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


def load_checkpoint(path: Path) -> Checkpoint:
    """A file written by `save_checkpoint` -> its modules, without gradients. Other layouts: reading.py.

    Raises CheckpointError when the file is of another format, or tensors are missing, surplus, misshapen or
    not finite.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} lacks the metadata format={FORMAT}: not written by training/.")
    own = split_own(tensors, metadata, path.name)
    if own.prompt_embedding is None:
        raise CheckpointError(f"{path} carries no prompt_embedding. Write it again with training/.")
    return Checkpoint(
        unet=build_module(UNet2DConditionModel, own.unet_config, own.unet, f"{path.name} (UNet)"),
        vae=build_module(own.vae_class, own.vae_config, own.vae, f"{path.name} (VAE)"),
        prompt_embedding=own.prompt_embedding,
        info=own.info,
    )


def split_own(tensors: Tensors, metadata: Mapping[str, str], where: str) -> OwnParts:
    """The tensors and the metadata of one of our files -> its parts.

    Raises CheckpointError for another format version, metadata that is incomplete or of wrong types, and
    tensors of no part.
    """
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{where} has checkpoint format {shortened(metadata.get('format_version'))}, this program reads "
            f"{FORMAT_VERSION}: use the version of this repository that wrote it."
        )
    info = decoded(metadata, "info", CheckpointInfo, where)
    if info.size_default > info.size_max:
        raise CheckpointError(
            f"{where}: its metadata says a default size of {info.size_default} px beyond its largest, "
            f"{info.size_max} px. Write it again with training/."
        )
    unet_config, vae_config = (
        decoded(metadata, f"{part}_config", dict[str, Any], where) for part in ("unet", "vae")
    )
    known = ("unet.", "vae.", "prompt_embedding")
    if surplus := [k for k in tensors if not k.startswith(known)]:
        raise CheckpointError(f"{where}: tensors that belong to no part: {listed(surplus)}.")
    return OwnParts(
        unet=without_prefix(tensors, "unet."),
        unet_config=unet_config,
        vae=without_prefix(tensors, "vae."),
        vae_config=vae_config,
        vae_class=_vae_class(metadata.get("vae_class", "AutoencoderKL"), where),  # older files do not say
        prompt_embedding=tensors.get("prompt_embedding"),
        info=info,
    )


def _vae_class(name: str, where: str) -> VaeClass:
    for known in VAE_CLASSES:
        if known.__name__ == name:
            return known
    raise CheckpointError(
        f"{where} has a VAE of the class {shortened(name)}, which this program does not know: use the "
        "version of this repository that wrote it."
    )


def decoded(metadata: Mapping[str, str], key: str, kind: type[T], where: str) -> T:
    """JSON in a file's metadata -> `kind`. Raises CheckpointError naming the key."""
    try:
        return convert(json.loads(metadata[key]), kind)
    except KeyError:
        what = f"lacks {key}"
    except InvalidError as e:
        what = f"holds {key} where {shortened(e)}"
    except (ValueError, RecursionError) as e:
        what = f"holds {key}, which is not JSON ({shortened(e)})"
    raise CheckpointError(
        f"{where}: its metadata {what}. Take the file as it was written, or write it again."
    )


def config_json(module: Any) -> str:
    """A diffusers config without the keys that name this installation."""
    # block_out_channels is added to a light VAE's by diffusers, which complains on reading it
    drop = "block_out_channels" if isinstance(module, AutoencoderTiny) else ""
    public = {k: v for k, v in module.config.items() if not k.startswith("_") and k != drop}
    return json.dumps(public, sort_keys=True)

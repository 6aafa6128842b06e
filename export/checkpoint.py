"""Checkpoints as people hold them -> the model to export.

    our own      one .safetensors of training/: `unet.*`, `vae.*`, `prompt_embedding`, and metadata

The layout is recognised by keys, never by the file's name, and said back by `Model.description`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from export.errors import CheckpointError
from export.recipe import Recipe, recipe_named
from export.tensors import (
    Tensors,
    build_module,
    check_values,
    hash_files,
    read_tensors,
    without_prefix,
)
from training.checkpoint import FORMAT, FORMAT_VERSION, CheckpointInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """All that is exported. The modules are in fp32 and eval mode on the CPU.

    prompt_embedding: [1, tokens, C]. scheduler_config: of the checkpoint, None if it carries none.
    size_default, size_max: longer side of the processed image in px. sha256: over the weight files.
    """

    layout: str
    name: str
    recipe: Recipe
    output_space: str
    size_default: int
    size_max: int
    licence: str
    data_sources: tuple[str, ...]
    unet: Any
    vae: Any
    prompt_embedding: torch.Tensor
    scheduler_config: Mapping[str, Any] | None
    sha256: str

    @property
    def description(self) -> str:
        """One line that says back what was recognised."""
        count = parameter_count(self.unet) + parameter_count(self.vae)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (
            f"{self.name}: recipe {self.recipe.name}, {self.layout}, "
            f"UNet {self.unet.config.in_channels}→{self.unet.config.out_channels} channels, "
            f"{count / 1e6:.1f} M parameters, VAE KL-f{factor}, "
            f"prompt of {self.prompt_embedding.shape[1]} tokens, output space {self.output_space}"
        )


def read_checkpoint(path: Path, *, recipe: str | None = None) -> Model:
    """path -> Model. `recipe` overrides what the checkpoint says of itself.

    Raises CheckpointError, RecipeError.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path.name} is of no layout that is known here.")
    return _own(path, tensors, metadata, recipe)


def _own(path: Path, tensors: Tensors, metadata: Mapping[str, str], recipe: str | None) -> Model:
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path.name} has checkpoint format {metadata.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}: use the version of this repository that wrote it."
        )
    try:
        stated = json.loads(metadata["info"])
        info = CheckpointInfo(**{**stated, "data_sources": tuple(stated["data_sources"])})
        configs = {part: json.loads(metadata[f"{part}_config"]) for part in ("unet", "vae")}
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"{path.name}: its metadata is incomplete ({e}). Write it again with training/."
        ) from e
    prompt = tensors.pop("prompt_embedding", None)
    if prompt is None:
        raise CheckpointError(f"{path.name} carries no prompt_embedding. Write it again with training/.")
    check_values({"prompt_embedding": prompt}, path.name)
    if surplus := [k for k in tensors if not k.startswith(("unet.", "vae."))]:
        raise CheckpointError(f"{path.name} holds tensors that belong to no part: {', '.join(surplus[:20])}.")
    return Model(
        layout="single file of training/",
        name=info.name,
        recipe=recipe_named(recipe or info.recipe),
        output_space=info.output_space,
        size_default=info.size_default,
        size_max=info.size_max,
        licence=info.licence,
        data_sources=info.data_sources,
        unet=build_module(UNet2DConditionModel, configs["unet"], without_prefix(tensors, "unet."), path.name),
        vae=build_module(AutoencoderKL, configs["vae"], without_prefix(tensors, "vae."), path.name),
        prompt_embedding=prompt.float(),
        scheduler_config=None,
        sha256=hash_files([path]),
    )


def parameter_count(module: torch.nn.Module) -> int:
    """Numbers that a module holds, buffers included."""
    return sum(t.numel() for t in (*module.parameters(), *module.buffers()))

"""Checkpoints as people hold them -> the model to export.

    our own            one .safetensors of training/: `unet.*`, `vae.*`, `prompt_embedding`, and metadata
    diffusers folder   `unet/`, `vae/` with config.json and weights (fp32 or fp16 variant, sharded or not)
    UNet folder        a `unet/` alone; the VAE is given beside it
    LDM                one .safetensors with `model.diffusion_model.*`, `first_stage_model.*`
    state dict         one .safetensors with diffusers' names, under any prefix (`unet.`, `module.`, `model.`)

The layout is recognised by keys and files, never by a name, and said back by `Model.description`. What is
missing is asked for, never guessed: the VAE, the prompt embedding, a configuration that shapes cannot tell.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from export.errors import CheckpointError
from export.recipe import Recipe, recipe_named
from training.weights import layouts
from training.weights.folder import UNSTATED, read_config, read_json, read_model_card, read_weights
from training.weights.layouts import Config
from training.weights.light import HALVES
from training.weights.light_parts import LightHalf, read_light_half
from training.weights.ours import FORMAT, FORMAT_VERSION, CheckpointInfo, has_light_vae
from training.weights.tensors import (
    Tensors,
    build_module,
    check_values,
    hash_files,
    listed,
    read_tensors,
    without_prefix,
)

SIZE_DEFAULT = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What the user says beside the checkpoint; it wins over what the checkpoint says. None: not said."""

    recipe: str | None = None
    output_space: str | None = None
    name: str | None = None
    vae: Path | None = None
    encoder: Path | None = None
    decoder: Path | None = None
    prompt_embedding: Path | None = None
    unet_config: Path | None = None
    vae_config: Path | None = None
    scheduler_config: Path | None = None
    licence: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """All that is exported. The modules are in fp32 and eval mode on the CPU.

    vae: the checkpoint's, which may itself be light; None where it has none and both halves are given. light:
    halves in its place, by "encoder" and "decoder".
    prompt_embedding: [1, tokens, C]. scheduler_config: of the checkpoint, None if it carries none.
    size_default, size_max: longer side of the processed image in px. licence_file: text to pass on, if there
    is one. sha256: over the files read, the light halves' own apart.
    """

    layout: str
    name: str
    recipe: Recipe
    output_space: str
    size_default: int
    size_max: int
    licence: str
    data_sources: tuple[str, ...]
    licence_file: Path | None
    unet: Any
    vae: Any
    light: Mapping[str, LightHalf] = dataclasses.field(default_factory=dict)
    prompt_embedding: torch.Tensor
    scheduler_config: Mapping[str, Any] | None
    sha256: str

    def vae_of(self, half: str) -> Any:
        """The autoencoder whose "encoder" or "decoder" is exported: AutoencoderKL, or AutoencoderTiny."""
        return self.light[half].vae if half in self.light else self.vae

    @property
    def description(self) -> str:
        """One line that says back what was recognised."""
        return ", ".join(
            (
                f"{self.recipe.title}, {self.layout}",
                f"UNet {self.unet.config.in_channels}→{self.unet.config.out_channels} channels",
                f"{_millions(self.unet)} M parameters",
                *self._vae_described(),
                f"prompt of {self.prompt_embedding.shape[1]} tokens",
                f"output is {self.output_space}",
            )
        )

    def _vae_described(self) -> list[str]:
        """A word per autoencoder in use."""
        full = [half for half in HALVES if half not in self.light]
        said = []
        if full:
            config = self.vae.config
            levels, kind = (
                (config.encoder_block_out_channels, "light")
                if isinstance(self.vae, AutoencoderTiny)
                else (config.block_out_channels, "KL")
            )
            which, part = (
                ("VAE", self.vae) if len(full) == 2 else (f"VAE {full[0]}", getattr(self.vae, full[0]))
            )
            said.append(f"{which} {kind}-f{2 ** (len(levels) - 1)}, {_millions(part)} M parameters")
        for half, light in self.light.items():
            said.append(f"light {half} {light.name}, {_millions(light.vae)} M parameters")
        return said


@dataclasses.dataclass(kw_only=True)
class _Parts:
    """What a layout yields before it is built. None: not found."""

    layout: str
    files: list[Path]
    unet: Tensors
    unet_config: Config | None = None
    vae: Tensors | None = None
    vae_config: Config | None = None
    vae_is_light: bool = False
    prompt_embedding: torch.Tensor | None = None
    text_folder: Path | None = None
    scheduler_config: Config | None = None
    info: CheckpointInfo | None = None
    licence: str = UNSTATED
    data_sources: tuple[str, ...] = ()
    licence_file: Path | None = None


def read_checkpoint(path: Path, given: Given | None = None) -> Model:
    """path -> Model.

    Raises CheckpointError for what cannot be read, is missing, surplus, misshapen, of a wrong dtype or not
    finite, and RecipeError.
    """
    given = given or Given()
    parts = _folder(path) if path.is_dir() else _file(path)
    if given.vae is not None:
        parts.vae, parts.vae_config, files = _vae_at(given.vae)
        parts.vae_is_light = False
        parts.files += files
    for attribute in ("unet_config", "vae_config", "scheduler_config"):
        if (config := getattr(given, attribute)) is not None:
            setattr(parts, attribute, read_json(config))
    light = {
        half: read_light_half(path, half)
        for half, path in (("encoder", given.encoder), ("decoder", given.decoder))
        if path is not None
    }
    if parts.vae is None and len(light) < len(HALVES):
        raise CheckpointError(
            f"{path.name} holds a UNet and no VAE. Give Stable Diffusion's with --vae PATH (a folder or a "
            ".safetensors), or a light one with --encoder and --decoder."
        )
    unet_where, vae_where = f"{path.name} (UNet)", f"{(given.vae or path).name} (VAE)"
    unet = build_module(
        UNet2DConditionModel,
        parts.unet_config or layouts.unet_config(parts.unet, unet_where),
        parts.unet,
        unet_where,
    )
    vae = None
    if parts.vae is not None:
        vae_config = parts.vae_config or layouts.vae_config(parts.vae, vae_where)
        vae_class = AutoencoderTiny if parts.vae_is_light else AutoencoderKL
        vae = build_module(vae_class, vae_config, parts.vae, vae_where)
    recipe = _recipe(given, parts, unet)
    sample = unet.config.sample_size
    size = sample * 8 if isinstance(sample, int) and parts.unet_config is not None else SIZE_DEFAULT
    info = parts.info
    return Model(
        layout=parts.layout,
        name=given.name or (info.name if info else recipe.name),
        recipe=recipe,
        output_space=given.output_space or (info.output_space if info else recipe.output_space),
        size_default=info.size_default if info else size,
        size_max=info.size_max if info else 2 * size,
        licence=given.licence or (info.licence if info else parts.licence),
        data_sources=info.data_sources if info else parts.data_sources,
        licence_file=parts.licence_file,
        unet=unet,
        vae=vae,
        light=light,
        prompt_embedding=_prompt(given, parts, unet.config.cross_attention_dim, path),
        scheduler_config=parts.scheduler_config,
        sha256=hash_files(parts.files),
    )


def parameter_count(module: torch.nn.Module) -> int:
    """Numbers that a module holds, buffers included."""
    return sum(t.numel() for t in (*module.parameters(), *module.buffers()))


def _file(path: Path) -> _Parts:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == FORMAT:
        return _own(path, tensors, metadata)
    prompt = next((tensors.pop(k) for k in layouts.PROMPT_KEYS if k in tensors), None)
    if layouts.ldm_prefixes(tensors)[0] is not None:
        unet, vae, rest = layouts.split_ldm(tensors, path.name)
        rest = {k: v for k, v in rest.items() if not layouts.LDM_UNUSED.match(k)}
        layout = "single-file LDM layout"
    else:
        unet, vae, rest = _by_prefix(tensors, path.name)
        layout = "diffusers state dict"
    if rest:
        raise CheckpointError(
            f"{path.name}: {len(rest)} tensors belong to no part that is known: {listed(sorted(rest))}. "
            "Take them out, or give UNet and VAE as separate files."
        )
    return _Parts(
        layout=layout,
        files=[path],
        unet=unet,
        vae=vae,
        prompt_embedding=prompt,
        licence=metadata.get("modelspec.license", UNSTATED),
    )


def _by_prefix(tensors: Tensors, where: str) -> tuple[Tensors, Tensors | None, Tensors]:
    """A dict of diffusers' names under prefixes -> UNet, VAE (None: there is none) and the other tensors."""
    prefix, vae_prefix = layouts.unet_prefix(tensors), layouts.vae_prefix(tensors)
    if prefix is None:
        what = "a VAE and no UNet" if vae_prefix is not None else "no network that is known"
        raise CheckpointError(
            f"{where} holds {what}: neither diffusers' names (conv_in.weight, time_embedding.linear_1.weight)"
            f" nor LDM's. Its first tensors: {listed(sorted(tensors)[:5])}."
        )
    ours = tuple(p for p in (prefix, vae_prefix) if p)
    rest = {k: v for k, v in tensors.items() if ours and not k.startswith((*ours, "text_encoder."))}
    vae = None if vae_prefix is None else layouts.modern_vae(without_prefix(tensors, vae_prefix))
    return without_prefix(tensors, prefix), vae, rest


def _own(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> _Parts:
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
    if surplus := [k for k in tensors if not k.startswith(("unet.", "vae."))]:
        raise CheckpointError(f"{path.name}: tensors that belong to no part: {listed(surplus)}.")
    return _Parts(
        layout="single file of training/",
        files=[path],
        unet=without_prefix(tensors, "unet."),
        unet_config=configs["unet"],
        vae=without_prefix(tensors, "vae."),
        vae_config=configs["vae"],
        vae_is_light=has_light_vae(metadata),
        prompt_embedding=prompt,
        info=info,
    )


def _folder(path: Path) -> _Parts:
    alone = not (path / "unet").is_dir()
    folder = path if alone else path / "unet"
    config = read_config(folder)
    if config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise CheckpointError(f"{folder.name} holds a {config['_class_name']}, not a UNet2DConditionModel.")
    files, unet = read_weights(folder)
    parts = _Parts(
        layout="diffusers UNet folder" if alone else "diffusers folder",
        files=files,
        unet=unet,
        unet_config=config,
    )
    if (path / "vae").is_dir():
        parts.vae, parts.vae_config, files = _vae_at(path / "vae")
        parts.files += files
    if (path / "scheduler" / "scheduler_config.json").is_file():
        parts.scheduler_config = read_json(path / "scheduler" / "scheduler_config.json")
    if (path / "text_encoder").is_dir() and (path / "tokenizer").is_dir():
        parts.text_folder = path
    parts.licence, parts.data_sources = read_model_card(path / "README.md")
    parts.licence_file = next((p for p in sorted(path.glob("LICEN[SC]E*")) if p.is_file()), None)
    return parts


def _vae_at(path: Path) -> tuple[Tensors, Config | None, list[Path]]:
    """A VAE folder, a diffusers folder with one, or a .safetensors -> tensors, configuration, files read."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        files, tensors = read_weights(folder)
        return layouts.modern_vae(tensors), read_config(folder), files
    tensors, _ = read_tensors(path)
    if (prefix := layouts.vae_prefix(tensors)) is not None:
        return layouts.modern_vae(without_prefix(tensors, prefix)), None, [path]
    if (prefix := layouts.ldm_prefixes(tensors)[1]) is not None:
        return layouts.vae_from_ldm(without_prefix(tensors, prefix), path.name), None, [path]
    raise CheckpointError(f"{path.name} holds no VAE, neither with diffusers' names nor with LDM's.")


def _recipe(given: Given, parts: _Parts, unet: Any) -> Recipe:
    """The recipe said, or stated by the checkpoint, or FiffDepth's where the network can be nothing else."""
    name = given.recipe or (parts.info.recipe if parts.info else None)
    if name is None:
        if unet.config.in_channels != 4 or unet.config.class_embed_type is not None:
            raise CheckpointError(
                f"This UNet takes {unet.config.in_channels} channels"
                + (" and a class embedding" if unet.config.class_embed_type else "")
                + ", so it is not FiffDepth's, and nothing says what it is. Say it with --recipe."
            )
        name = "fiffdepth"
    return recipe_named(name)


def _prompt(given: Given, parts: _Parts, channels: int, path: Path) -> torch.Tensor:
    """[1, tokens, C] in fp32: from the file given, the checkpoint, or its text encoder; never guessed."""
    where = path.name
    if given.prompt_embedding is not None:
        tensors, _ = read_tensors(given.prompt_embedding)
        parts.files.append(given.prompt_embedding)
        where = given.prompt_embedding.name
        if len(tensors) != 1:
            raise CheckpointError(f"{where} holds {len(tensors)} tensors; a prompt embedding is one alone.")
        prompt = next(iter(tensors.values()))
    elif parts.prompt_embedding is not None:
        prompt = parts.prompt_embedding
    elif parts.text_folder is not None:
        prompt = _encode_empty_prompt(parts.text_folder)
    else:
        raise CheckpointError(
            f"{where} carries no embedding of the empty prompt, and no text encoder to compute it. Give it "
            f"with --prompt-embedding FILE.safetensors: a tensor [1, 2, {channels}], the text encoder's "
            'output for the tokens of "" with padding="do_not_pad".'
        )
    if prompt.ndim != 3 or prompt.shape[0] != 1 or prompt.shape[2] != channels:
        raise CheckpointError(
            f"{where}: the prompt embedding has shape {list(prompt.shape)}, this UNet wants "
            f"[1, tokens, {channels}]."
        )
    check_values({"prompt embedding": prompt}, where)
    return prompt.float()


def _encode_empty_prompt(folder: Path) -> torch.Tensor:
    """The text encoder's last hidden state for "", not padded: BOS and EOS."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as e:
        raise CheckpointError(
            f"{folder.name} has a text encoder, but transformers, which runs it, is not installed: "
            "pip install transformers, or give --prompt-embedding FILE.safetensors."
        ) from e
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as e:
        raise CheckpointError(
            f"The text encoder of {folder.name} cannot be loaded ({e}). Give "
            "--prompt-embedding FILE.safetensors."
        ) from e
    tokens = tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    with torch.no_grad():
        embedding: torch.Tensor = encoder.float().eval()(tokens)[0]
    return embedding


def _millions(module: torch.nn.Module) -> str:
    count = parameter_count(module) / 1e6
    return f"{count:.0f}" if count >= 10 else f"{count:.2g}"

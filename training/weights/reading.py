"""START HERE. Checkpoints as people hold them -> their networks: the only reader of weight files.

    our own            one .safetensors of training/: `unet.*`, `vae.*`, `prompt_embedding`, and metadata
    diffusers folder   `unet/`, `vae/` with config.json and weights (fp32 or fp16 variant, sharded or not)
    UNet folder        a `unet/` alone; the VAE is given beside it
    folder of a file   one .safetensors and its model card, as a hub keeps them
    LDM                one .safetensors with `model.diffusion_model.*`, `first_stage_model.*`
    state dict         one .safetensors with diffusers' names, under any prefix (`unet.`, `module.`, `model.`)

A name on a hub (OWNER/NAME) is fetched to such a folder first: hub.py.

The layout is recognised by keys and files, never by a name, and said back by `Weights.layout`. What is
missing is asked for, never guessed: the prompt embedding, a configuration that shapes cannot tell. Pickles
are refused (from_pickle.py makes safetensors of them). What is left out, converted or chosen is a note.

    path -> _folder | _file: tensors and configurations -> the networks, strictly -> Weights
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from fiffdepth_rt.errors import shortened
from training.config import Base
from training.weights import hub, layouts
from training.weights.configuration import Config, read_json
from training.weights.errors import CheckpointError
from training.weights.folder import (
    UNSTATED,
    files_below,
    read_config,
    read_model_card,
    read_part,
    single_file,
    unet_part,
)
from training.weights.ours import FORMAT, CheckpointInfo, OwnParts, VaeClass, split_own
from training.weights.prompt import PROMPT_BESIDE, TextEncoder, check_prompt, encode_empty_prompt, read_prompt
from training.weights.tensors import (
    Tensors,
    build_module,
    hash_files,
    listed,
    low_precision,
    read_tensors,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """Files given beside the checkpoint; each wins over what the checkpoint holds. None: not given.

    vae: a folder, a diffusers folder that has one, or a .safetensors. text: computes the embedding of the
    empty prompt, where none is given.
    """

    vae: Path | None = None
    prompt_embedding: Path | None = None
    text: TextEncoder | None = None
    unet_config: Path | None = None
    vae_config: Path | None = None
    scheduler_config: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ways:
    """What the user of a program types to give each of these, for the messages."""

    prompt: str
    unet_config: str
    vae_config: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """All that a checkpoint holds. The networks are in fp32 and eval mode on the CPU, without gradients.

    layout: what was recognised, in words; source: the same, and which one it is. vae: None where there is
    none. prompt_embedding: [1, tokens, C]. scheduler_config: None where the checkpoint carries none.
    info: what one of our own says of itself, else None. sample_size: side of the latents that the network
    was made for, where a configuration states it. licence_file: text to pass on, if there is one.
    sha256: over the weight files read. notes: what was left out, converted or chosen among several, each as a
    phrase for the user and the manifest.
    """

    layout: str
    source: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny | None
    prompt_embedding: torch.Tensor
    scheduler_config: Mapping[str, Any] | None
    info: CheckpointInfo | None
    sample_size: int | None
    licence: str
    data_sources: tuple[str, ...]
    licence_file: Path | None
    sha256: str
    notes: tuple[str, ...]


@dataclasses.dataclass(kw_only=True)
class _Parts:
    """What a layout yields before it is built. None: not found. files: those that were read, in order."""

    layout: str
    files: list[Path]
    unet: Tensors
    unet_config: Config | None = None
    vae: Tensors | None = None
    vae_config: Config | None = None
    vae_class: VaeClass = AutoencoderKL
    prompt_embedding: torch.Tensor | None = None
    text: TextEncoder | None = None
    scheduler_config: Config | None = None
    info: CheckpointInfo | None = None
    licence: str = UNSTATED
    data_sources: tuple[str, ...] = ()
    licence_file: Path | None = None
    notes: tuple[str, ...] = ()


def read_weights(
    path: Path, beside: Beside | None = None, *, ways: Ways, half_first: bool = False
) -> Weights:
    """path -> Weights. half_first: of a folder with both, the fp16 variant is read, else full precision.

    Raises CheckpointError for what cannot be read, is missing, surplus, misshapen, of a wrong dtype or not
    finite.
    """
    beside = beside or Beside()
    parts = _folder(path, half_first=half_first) if path.is_dir() else _file(path)
    _put_beside(parts, beside, half_first=half_first)
    unet_where, vae_where = f"{path.name} (UNet)", f"{(beside.vae or path).name} (VAE)"
    unet_config = parts.unet_config or layouts.unet_config(parts.unet, unet_where, way=ways.unet_config)
    unet = build_module(UNet2DConditionModel, unet_config, parts.unet, unet_where)
    vae = None
    if parts.vae is not None:
        vae_config = parts.vae_config or layouts.vae_config(parts.vae, vae_where, way=ways.vae_config)
        vae = build_module(parts.vae_class, vae_config, parts.vae, vae_where)
    prompt, prompt_where = _prompt(path, parts, beside, unet.config.cross_attention_dim, ways.prompt)
    sample = unet.config.sample_size if parts.unet_config is not None else None
    if isinstance(sample, int) and sample > SAMPLE_AT_MOST:
        raise CheckpointError(
            f"{unet_where}: its configuration says sample_size {sample}, and a model is made for latents of "
            f"at most {SAMPLE_AT_MOST}. Take the configuration that was published with it."
        )
    kept = low_precision(parts.unet | (parts.vae or {}))
    return Weights(
        layout=parts.layout,
        source=f"{parts.layout} {path.name}",
        unet=unet,
        vae=vae,
        prompt_embedding=check_prompt(prompt, unet.config.cross_attention_dim, prompt_where),
        scheduler_config=parts.scheduler_config,
        info=parts.info,
        sample_size=sample if isinstance(sample, int) else None,
        licence=parts.licence,
        data_sources=parts.data_sources,
        licence_file=parts.licence_file,
        sha256=hash_files(parts.files),
        notes=(*parts.notes, *((kept,) if kept else ())),
    )


def read_base(base: Base) -> Weights:
    """[base] of a training configuration -> the weights to start from, with a full VAE.

    Raises CheckpointError, with the ways to get weights where there are none.
    """
    path, text = Path(base.model), None
    name = None if path.exists() else hub.parse_hub_name(base.model)
    if name is not None:
        name = dataclasses.replace(name, revision=base.revision or name.revision)
        path, text = hub.download_base(name)
    elif not path.exists():
        raise CheckpointError(
            f'base.model = "{base.model}" is neither a folder nor a file here, nor a Hub id '
            f"(OWNER/NAME).\n{hub.WAYS}"
        )
    if base.text and not base.prompt_embedding:
        text_name = hub.parse_hub_name(base.text)
        text = hub.download_text_encoder(text_name) if text_name else TextEncoder(folder=Path(base.text))
    config = Path(base.config)
    beside = Beside(
        prompt_embedding=Path(base.prompt_embedding) if base.prompt_embedding else None,
        text=text,
        unet_config=config / "unet" / "config.json" if base.config else None,
        vae_config=config / "vae" / "config.json" if base.config else None,
    )
    weights = read_weights(path, beside, ways=_BASE_WAYS)
    if isinstance(weights.vae, AutoencoderTiny):
        raise CheckpointError(
            f"{path.name} carries a light VAE, and training wants a full one: start from the checkpoint that "
            "the light one was distilled from."
        )
    if weights.vae is None:
        raise CheckpointError(f"{path.name} holds a UNet and no VAE, and training needs both.\n{hub.WAYS}")
    if weights.unet.config["in_channels"] != weights.vae.config["latent_channels"]:
        raise CheckpointError(
            f"The UNet of {base.model} takes {weights.unet.config['in_channels']} channels, its VAE gives "
            f"{weights.vae.config['latent_channels']}: not a text-to-image model, nor one of ours."
        )
    if name is not None:
        source = f"{name.repository}, revision {name.revision or 'main'}"
        weights = dataclasses.replace(weights, source=source)
    return weights


SAMPLE_AT_MOST = 512
"""Of a configuration's sample_size: images of 4096 px."""
_BASE_WAYS = Ways(
    prompt=(
        "base.prompt_embedding = FILE.safetensors, or base.text = a folder or Hub id with text_encoder/ and "
        "tokenizer/ of the same model"
    ),
    unet_config="base.config = a folder with unet/config.json and vae/config.json",
    vae_config="base.config = a folder with unet/config.json and vae/config.json",
)


def _file(path: Path) -> _Parts:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == FORMAT:
        return _own(path, split_own(tensors, metadata, path.name))
    prompt = next((tensors.pop(k) for k in layouts.PROMPT_KEYS if k in tensors), None)
    tensors, notes = layouts.without_needless(tensors, path.name)
    if layouts.ldm_prefixes(tensors)[0] is not None:
        unet, vae, rest = layouts.split_ldm(tensors, path.name)
        layout = "single-file LDM layout"
    else:
        unet, vae, rest = layouts.split_diffusers(tensors, path.name)
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
        notes=notes,
    )


def _own(path: Path, own: OwnParts) -> _Parts:
    return _Parts(
        layout="single file of training/",
        files=[path],
        unet=own.unet,
        unet_config=own.unet_config,
        vae=own.vae,
        vae_config=own.vae_config,
        vae_class=own.vae_class,
        prompt_embedding=own.prompt_embedding,
        info=own.info,
        licence=own.info.licence,
        data_sources=own.info.data_sources,
    )


def _folder(path: Path, *, half_first: bool) -> _Parts:
    files = files_below(path)
    part = unet_part(files)
    if part is None and "config.json" not in files and (one := single_file(files)) is not None:
        return _with_card(_file(path / one), path)
    there = [name for name in ("unet", "unet_ema") if (path / name).is_dir()]
    folder = path / part if part else path / there[0] if there else path
    config = read_config(folder)
    if (found := config.get("_class_name", "UNet2DConditionModel")) != "UNet2DConditionModel":
        raise CheckpointError(f"{folder.name} holds a {shortened(found)}, not a UNet2DConditionModel.")
    unet = read_part(folder, half_first=half_first)
    notes = {
        ("unet", "unet_ema"): ("left out: unet_ema/, a moving average (EMA) of unet/, which is taken",),
        ("unet_ema",): ("unet_ema/, a moving average (EMA) of the weights, is taken: there is no unet/",),
    }
    parts = _Parts(
        layout="diffusers folder" if part else "diffusers UNet folder",
        files=[*unet.files],
        unet=unet.tensors,
        unet_config=config,
        notes=(*notes.get(tuple(there), ()), *unet.notes),
    )
    if (path / "vae").is_dir():
        _put_vae(parts, path / "vae", half_first=half_first)
    if (path / "scheduler" / "scheduler_config.json").is_file():
        parts.scheduler_config = read_json(path / "scheduler" / "scheduler_config.json")
    if (path / "text_encoder").is_dir() and (path / "tokenizer").is_dir():
        parts.text = TextEncoder(folder=path, half_first=half_first)
    return _with_card(parts, path)


def _with_card(parts: _Parts, folder: Path) -> _Parts:
    """What the folder's model card and its licence file say, where the weights do not."""
    card = read_model_card(folder / "README.md")
    if parts.licence == UNSTATED:
        parts.licence = card.licence
    parts.data_sources = parts.data_sources or card.data_sources
    parts.licence_file = next((p for p in sorted(folder.glob("LICEN[SC]E*")) if p.is_file()), None)
    return parts


def _put_beside(parts: _Parts, beside: Beside, *, half_first: bool) -> None:
    """The VAE and the configurations that were given, in place of the checkpoint's own."""
    if beside.vae is not None:
        _put_vae(parts, beside.vae, half_first=half_first)
        parts.vae_class = AutoencoderKL
    if beside.unet_config is not None:
        parts.unet_config = read_json(beside.unet_config)
    if beside.vae_config is not None:
        parts.vae_config = read_json(beside.vae_config)
    if beside.scheduler_config is not None:
        parts.scheduler_config = read_json(beside.scheduler_config)


def _put_vae(parts: _Parts, path: Path, *, half_first: bool) -> None:
    """Put the VAE of a folder, a diffusers folder or a .safetensors in the place of the checkpoint's."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        part = read_part(folder, half_first=half_first)
        parts.vae, parts.vae_config = layouts.modern_vae(part.tensors), read_config(folder)
        parts.files += part.files
        parts.notes += part.notes
        return
    tensors, notes = layouts.without_needless(read_tensors(path)[0], path.name)
    parts.vae, parts.vae_config = layouts.vae_of(tensors, path.name), None
    parts.files.append(path)
    parts.notes += notes


def _prompt(path: Path, parts: _Parts, beside: Beside, channels: int, way: str) -> tuple[torch.Tensor, str]:
    """The prompt embedding and where it was found: given, carried, beside, or from a text encoder."""
    neighbour = path.with_name(path.name + PROMPT_BESIDE)
    file = beside.prompt_embedding
    if file is None and beside.text is None and parts.prompt_embedding is None:
        file = neighbour if os.path.isfile(neighbour) else None  # noqa: PTH113 - is_file raises on long names
    if file is not None:
        parts.files.append(file)
        return read_prompt(file), file.name
    if beside.text is not None:
        return encode_empty_prompt(beside.text, way=way), beside.text.folder.name
    if parts.prompt_embedding is not None:
        return parts.prompt_embedding, path.name
    if parts.text is not None:
        return encode_empty_prompt(parts.text, way=way), path.name
    raise CheckpointError(
        f"{path.name} carries no embedding of the empty prompt, and no text encoder to compute it. Give "
        f"{way}: "
        f'a tensor [1, 2, {channels}], the text encoder\'s output for the tokens of "" with '
        f'padding="do_not_pad". The same file is found by itself as {neighbour.name} beside the checkpoint.'
    )

"""The pieces of a diffusers folder, on a hub or on this disk: weights, configuration, model card."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard as HubCard

from fiffdepth_rt.errors import shortened
from fiffdepth_rt.structs import InvalidError, convert
from training.weights.configuration import Config, read_json
from training.weights.errors import CheckpointError
from training.weights.tensors import Tensors, listed, read_tensors

STEM, TEXT_STEM = "diffusion_pytorch_model", "model"
"""What the weight files of a network are called, and those of a text encoder."""
VARIANTS = ("", ".fp16", ".bf16", ".non_ema")
"""In this order: "non_ema" is what a fine-tuning would start from; images come from the average."""

UNSTATED = "not stated by the checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The weights of one diffusers part. files: those read, in order. notes: what the user should know."""

    files: tuple[Path, ...]
    tensors: Tensors
    notes: tuple[str, ...] = ()


def read_part(folder: Path, *, half_first: bool = False) -> Part:
    """One part of a diffusers folder: full precision before halves, and both before non-EMA weights.

    half_first: the fp16 variant is taken before full precision.
    Raises CheckpointError where there is none of these, or a file that an index names is none beside it.
    """
    names = sorted(p.name for p in folder.glob("*"))
    for variant in _variants(half_first):
        files = _files(folder, names, STEM, variant)
        if not files:
            continue
        tensors: Tensors = {}
        for file in files:
            tensors |= read_tensors(folder / file)[0]
        plain = half_first and _files(folder, names, STEM, "")
        why = "before the plain files" if plain else "as there is no plain one"
        notes = (f"{folder.name}: the variant {variant[1:]} is taken, {why}",) if variant else ()
        return Part(files=tuple(folder / file for file in files), tensors=tensors, notes=notes)
    pickles = sorted(p for p in folder.glob("*") if p.suffix in (".bin", ".ckpt", ".pt"))
    if pickles:
        read_tensors(pickles[0])
    raise CheckpointError(
        f"{folder} holds no {STEM}.safetensors, nor its variants {', '.join(v[1:] for v in VARIANTS if v)}, "
        "nor an index of shards. Give the folder that save_pretrained wrote, or one .safetensors."
    )


def weight_files(
    folder: Path, names: Collection[str], *, stem: str = STEM, half_first: bool = False
) -> tuple[str, ...]:
    """Which of `names` are the weights of one part, in the order of reading; empty: there is no .safetensors.

    names: the files of the part, on a hub or on this disk, without folders. folder: where the index of shards
    is read, if there is one. half_first: as in `read_part`.
    Raises CheckpointError for an index that cannot be used.
    """
    found = (_files(folder, names, stem, variant) for variant in _variants(half_first))
    return next((files for files in found if files), ())


def _variants(half_first: bool) -> tuple[str, ...]:
    return (".fp16", *(v for v in VARIANTS if v != ".fp16")) if half_first else VARIANTS


def _files(folder: Path, names: Collection[str], stem: str, variant: str) -> tuple[str, ...]:
    """The weight files of a variant: all that its index names, or the one. Empty where there is none."""
    index, whole = f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors"
    if index not in names:
        return (whole,) if whole in names else ()
    try:
        shards = set(convert(read_json(folder / index).get("weight_map"), dict[str, str]).values())
    except InvalidError as e:
        where = folder / index
        raise CheckpointError(f"{where}: in weight_map, {shortened(e)}. Copy or download it again.") from e
    for shard in shards:
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise CheckpointError(
                f"{folder / index} names {shortened(repr(shard))}, which is not the plain name of a file "
                "beside it."
            )
    return tuple(sorted(shards))


def unet_part(files: Iterable[str]) -> str | None:
    """The folder of the UNet: "unet", or the only "unet_*" (GenPercept's repositories); None: there is none.

    files: paths below the checkpoint, with "/". Raises CheckpointError where several could be meant.
    """
    parts = {file.split("/")[0] for file in files if re.fullmatch(r"unet(_\w+)?/config\.json", file)}
    for only in ({"unet"}, parts - {"unet_ema"}, parts):
        if len(only) == 1 and only <= parts:
            return next(iter(only))
    if not parts:
        return None
    raise CheckpointError(
        f"{len(parts)} UNets lie here, and none is called unet: {listed(sorted(parts))}. Give one of them as "
        "the checkpoint, such as FOLDER/unet_depth_v2, with --vae FOLDER (from a hub: hf download OWNER/NAME "
        "--local-dir FOLDER)."
    )


def files_below(folder: Path) -> list[str]:
    """The files in a folder and in its folders, as a hub lists them: with "/", sorted."""
    return sorted(
        p.relative_to(folder).as_posix() for p in (*folder.glob("*"), *folder.glob("*/*")) if p.is_file()
    )


def single_file(files: Iterable[str]) -> str | None:
    """The one .safetensors beside the model card, where a repository holds no folders of parts."""
    found = [file for file in files if "/" not in file and file.endswith(".safetensors")]
    return found[0] if len(found) == 1 else None


def read_config(folder: Path) -> Config:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json and no unet/ with one: it is no diffusers folder. Give the folder "
            "that save_pretrained wrote, or one .safetensors."
        )
    return read_json(folder / "config.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the head of a README.md says. licence: its own name, where the card calls it "other"."""

    licence: str = UNSTATED
    data_sources: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def read_model_card(path: Path) -> ModelCard:
    """README.md -> what its head says; nothing where there is none, or no head that can be read."""
    if not path.is_file():
        return ModelCard()
    try:
        head = HubCard(path.read_text(encoding="utf-8", errors="replace")).data
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        return ModelCard()
    licence = head.get("license_name") if head.get("license") == "other" else None
    return ModelCard(
        licence=shortened(str(licence or head.get("license") or UNSTATED)),
        data_sources=_words(head.get("datasets")),
        tags=_words(head.get("tags")),
    )


def _words(value: Any) -> tuple[str, ...]:
    """A word, a list of words or nothing -> a tuple of them."""
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),) if value else ()

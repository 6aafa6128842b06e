"""The pieces of a diffusers folder: weights, configuration, model card."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from fiffdepth_rt.errors import shortened
from fiffdepth_rt.structs import InvalidError, convert
from training.weights.configuration import Config, read_json
from training.weights.errors import CheckpointError
from training.weights.tensors import Tensors, read_tensors

STEM = "diffusion_pytorch_model"
VARIANTS = ("", ".fp16", ".bf16", ".non_ema")
"""In this order: "non_ema" is what a fine-tuning would start from; images come from the average."""

UNSTATED = "not stated by the checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The weights of one diffusers part. files: those read, in order. notes: what the user should know."""

    files: tuple[Path, ...]
    tensors: Tensors
    notes: tuple[str, ...] = ()


def read_part(folder: Path) -> Part:
    """One part of a diffusers folder: full precision before halves, and both before non-EMA weights.

    Raises CheckpointError where there is none of these, or a file that an index names is none beside it.
    """
    for variant in VARIANTS:
        files = _files(folder, variant)
        if not files:
            continue
        tensors: Tensors = {}
        for file in files:
            tensors |= read_tensors(file)[0]
        notes = (f"{folder.name}: the variant {variant[1:]} is taken, as there is no plain one",)
        return Part(files=files, tensors=tensors, notes=notes if variant else ())
    pickles = sorted(p for p in folder.glob("*") if p.suffix in (".bin", ".ckpt", ".pt"))
    if pickles:
        read_tensors(pickles[0])
    raise CheckpointError(
        f"{folder} holds no {STEM}.safetensors, nor its variants {', '.join(v[1:] for v in VARIANTS if v)}, "
        "nor an index of shards. Give the folder that save_pretrained wrote, or one .safetensors."
    )


def _files(folder: Path, variant: str) -> tuple[Path, ...]:
    """The weight files of a variant: all that its index names, or the one. Empty where there is none."""
    index, whole = folder / f"{STEM}.safetensors.index{variant}.json", folder / f"{STEM}{variant}.safetensors"
    if not index.is_file():
        return (whole,) if whole.is_file() else ()
    try:
        shards = set(convert(read_json(index).get("weight_map"), dict[str, str]).values())
    except InvalidError as e:
        raise CheckpointError(f"{index}: in weight_map, {shortened(e)}. Copy or download it again.") from e
    for shard in shards:
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise CheckpointError(
                f"{index} names {shortened(repr(shard))}, which is not the plain name of a file beside it."
            )
    return tuple(folder / shard for shard in sorted(shards))


def read_config(folder: Path) -> Config:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json and no unet/ with one: it is no diffusers folder. Give the folder "
            "that save_pretrained wrote, or one .safetensors."
        )
    return read_json(folder / "config.json")


def read_model_card(path: Path) -> tuple[str, tuple[str, ...]]:
    """Licence and data sets from the YAML head of a model card; UNSTATED and () where it says nothing."""
    if not path.is_file():
        return UNSTATED, ()
    head = re.match(r"---\n(.*?)\n---", path.read_text(errors="replace"), flags=re.DOTALL)
    text = head[1] if head else ""
    licence = re.search(r"^license(?:_name)?:\s*(\S.*)$", text, flags=re.MULTILINE)
    datasets = re.search(r"^datasets:\s*\n((?:\s*-\s*.+\n?)+)", text, flags=re.MULTILINE)
    sources = re.findall(r"-\s*(.+)", datasets[1]) if datasets else []
    return licence[1].strip() if licence else UNSTATED, tuple(s.strip() for s in sources)

"""The pieces of a diffusers folder: weights, configuration, model card."""

from __future__ import annotations

import json
import re
from pathlib import Path

from training.weights.errors import CheckpointError
from training.weights.tensors import Config, Tensors, read_tensors

UNSTATED = "not stated by the checkpoint"


def read_part(folder: Path) -> tuple[list[Path], Tensors]:
    """The weight files of one diffusers part, full precision before fp16, and the tensors in them."""
    stem = "diffusion_pytorch_model"
    for variant in ("", ".fp16"):
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            files = [folder / Path(shard).name for shard in shards]
        else:
            files = [folder / f"{stem}{variant}.safetensors"]
        if not index.is_file() and not files[0].is_file():
            continue
        tensors: Tensors = {}
        for file in files:
            tensors |= read_tensors(file)[0]
        return files, tensors
    pickles = sorted(p for p in folder.glob("*") if p.suffix in (".bin", ".ckpt", ".pt"))
    if pickles:
        read_tensors(pickles[0])
    raise CheckpointError(
        f"{folder} holds no {stem}.safetensors, nor its fp16 variant, nor an index of shards."
    )


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


def read_json(path: Path) -> Config:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path} cannot be read as JSON: {e}.") from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no configuration: it holds no JSON object.")
    return content

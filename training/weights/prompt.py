"""The embedding of the empty prompt, [1, tokens, C] in fp32: the only text that a depth model is ever asked.

It lies in a file, or a text encoder computes it for the tokens of "" without padding: BOS and EOS. What was
computed is kept in the user's cache by the hash of the text encoder, which all relatives of SD 2 share:

    <cache>/prompts/<key>.safetensors
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.errors import OutputError, shortened
from training.weights.configuration import read_json
from training.weights.errors import CheckpointError
from training.weights.folder import TEXT_STEM, weight_files
from training.weights.tensors import in_fp32, read_tensors

PROMPT_BESIDE = ".prompt.safetensors"
"""A file of the checkpoint's whole name and this ending, beside it, is its prompt embedding."""
_KEPT_KEY = "prompt_embedding"
# Of config.json: who wrote it and with what, which changes no embedding.
_NO_MATTER = ("transformers_version", "torch_dtype", "dtype", "architectures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A text encoder and its tokenizer.

    folder: with text_encoder/ and tokenizer/. weights_sha256: of its weight files, in order, where a hub has
    said them; None: they are hashed. fetch: brings the weights into the folder, and is called only where the
    embedding is not kept already; None: they are there. half_first: see `folder.weight_files`.
    """

    folder: Path
    weights_sha256: tuple[str, ...] | None = None
    fetch: Callable[[], object] | None = None
    half_first: bool = False


def read_prompt(path: Path) -> torch.Tensor:
    """file.safetensors -> the one tensor in it. Raises CheckpointError where it holds another number."""
    tensors, _ = read_tensors(path)
    if len(tensors) != 1:
        raise CheckpointError(f"{path.name} holds {len(tensors)} tensors; a prompt embedding is one alone.")
    return next(iter(tensors.values()))


def encode_empty_prompt(text: TextEncoder, *, way: str) -> torch.Tensor:
    """A text encoder -> its last hidden state for "", not padded: [1, tokens, C], computed once per machine.

    way: how the user can give the embedding instead, for the message.
    Raises CheckpointError where the text encoder cannot be loaded.
    """
    folder = text.folder
    try:
        from transformers import CLIPTextModel, CLIPTokenizer  # seconds to import, and needed here alone
    except ImportError as e:
        raise CheckpointError(
            f"{folder.name} has a text encoder, but transformers, which runs it, is not installed: "
            f"pip install transformers, or give {way}."
        ) from e
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        tokens = tokenizer("", padding="do_not_pad").input_ids
        kept = _kept_at(_key(text, tokens))
        if (embedding := _read_kept(kept)) is not None:
            return embedding
        if text.fetch is not None:
            text.fetch()
        encoder: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True, variant=_variant(text)
        )
    except CheckpointError:
        raise
    except Exception as e:  # a broken file or configuration, in any kind of error
        raise CheckpointError(
            f"The text encoder of {folder.name} cannot be loaded ({type(e).__name__}: {shortened(e)}). "
            f"Give {way}."
        ) from e
    with torch.no_grad():
        embedding = encoder.float().eval()(torch.tensor([tokens]))[0].contiguous()
    _keep(kept, embedding)
    return embedding


def check_prompt(prompt: torch.Tensor, channels: int, where: str) -> torch.Tensor:
    """A prompt embedding -> the same in fp32.

    Raises CheckpointError unless it is [1, tokens, channels] and finite. where: the file it came from.
    """
    if prompt.ndim != 3 or prompt.shape[0] != 1 or prompt.shape[2] != channels:
        raise CheckpointError(
            f"{where}: the prompt embedding has shape {list(prompt.shape)}, this UNet wants "
            f"[1, tokens, {channels}]: they are of two models."
        )
    return in_fp32({"prompt embedding": prompt}, where)["prompt embedding"]


def _files(text: TextEncoder) -> tuple[str, ...]:
    folder = text.folder / "text_encoder"
    names = [p.name for p in folder.glob("*")]
    return weight_files(folder, names, stem=TEXT_STEM, half_first=text.half_first)


def _variant(text: TextEncoder) -> str | None:
    """transformers' word for the weights that are read, such as "fp16"; None for full precision."""
    files = _files(text)
    match = re.match(rf"{TEXT_STEM}\.(\w+?)(-\d+-of-\d+)?\.safetensors", files[0]) if files else None
    return match[1] if match else None


def _key(text: TextEncoder, tokens: Sequence[int]) -> str | None:
    """What the embedding depends on: weights, architecture, tokens. None: the weights' hash is not known."""
    hashes: Sequence[str] | None = text.weights_sha256
    if hashes is None:
        hashes = [hash_file(text.folder / "text_encoder" / name).sha256 for name in _files(text)]
    if not hashes:
        return None
    config = read_json(text.folder / "text_encoder" / "config.json")
    architecture = {k: v for k, v in config.items() if not k.startswith("_") and k not in _NO_MATTER}
    depends = json.dumps([list(hashes), architecture, list(tokens)], sort_keys=True)
    return hashlib.sha256(depends.encode()).hexdigest()[:32]


def _kept_at(key: str | None) -> Path | None:
    cache = cache_folder()
    return None if cache is None or key is None else cache / "prompts" / f"{key}.safetensors"


def _read_kept(file: Path | None) -> torch.Tensor | None:
    """What is kept; None where there is nothing, or nothing that can be used."""
    if file is None or not file.is_file():
        return None
    try:
        embedding = read_tensors(file)[0].get(_KEPT_KEY)
    except CheckpointError:
        return None
    usable = embedding is not None and embedding.ndim == 3 and bool(embedding.isfinite().all())
    return embedding if usable else None


def _keep(file: Path | None, embedding: torch.Tensor) -> None:
    """Without a cache, the embedding is computed again the next time."""
    if file is not None:
        with contextlib.suppress(OSError, OutputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as opened:
                opened.write(serialize({_KEPT_KEY: embedding}))

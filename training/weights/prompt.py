"""The embedding of the empty prompt, [1, tokens, C] in fp32: the only text that a depth model is ever asked.

It lies in a file, or a text encoder computes it for the tokens of "" without padding: BOS and EOS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fiffdepth_rt.errors import shortened
from training.weights.errors import CheckpointError
from training.weights.tensors import in_fp32, read_tensors

PROMPT_BESIDE = ".prompt.safetensors"
"""A file of the checkpoint's whole name and this ending, beside it, is its prompt embedding."""


def read_prompt(path: Path) -> torch.Tensor:
    """file.safetensors -> the one tensor in it. Raises CheckpointError where it holds another number."""
    tensors, _ = read_tensors(path)
    if len(tensors) != 1:
        raise CheckpointError(f"{path.name} holds {len(tensors)} tensors; a prompt embedding is one alone.")
    return next(iter(tensors.values()))


def encode_empty_prompt(folder: Path, *, way: str) -> torch.Tensor:
    """folder with text_encoder/ and tokenizer/ -> the text encoder's last hidden state for "", not padded.

    way: how the user can give the embedding instead, for the message.
    Raises CheckpointError where the text encoder cannot be loaded.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer  # seconds to import, and needed here alone
    except ImportError as e:
        raise CheckpointError(
            f"{folder.name} has a text encoder, but transformers, which runs it, is not installed: "
            f"pip install transformers, or give {way}."
        ) from e
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True
        )
    except Exception as e:  # a broken file or configuration, in any kind of error
        raise CheckpointError(
            f"The text encoder of {folder.name} cannot be loaded ({type(e).__name__}: {shortened(e)}). "
            f"Give {way}."
        ) from e
    tokens = tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    with torch.no_grad():
        embedding: torch.Tensor = encoder.float().eval()(tokens)[0]
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

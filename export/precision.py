"""A stage in fp32 -> the same stage in the precision its graph will have.

SD 2.1's attention overflows float16 where logits are scaled after their product. Here the cross-attention is
folded into a sigmoid layer, and self-attention is traced with sqrt(scale) on Q and on K before the product.
What still overflows can be kept in fp32 by name.
"""

from __future__ import annotations

import copy
import enum
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn

from export.errors import UnsupportedModelError
from export.stages import Stage

# Whole blocks are looked into by their parents, so they cannot be wrapped; these can.
KEEPABLE = (
    *(nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm),
    *(ResnetBlock2D, AutoencoderTinyBlock, BasicTransformerBlock),
)


class Precision(enum.Enum):
    """What a graph computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.value]


class InFp32(nn.Module):  # type: ignore[misc]
    """A module that computes in fp32 inside a stage of another precision."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.float()

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        up = [a.float() if torch.is_tensor(a) else a for a in args]
        named = {k: a.float() if torch.is_tensor(a) else a for k, a in kwargs.items()}
        return self.inner(x.float(), *up, **named).to(x.dtype)


def cast(stage: Stage, precision: Precision, *, keep_fp32: Sequence[str] = ()) -> Stage:
    """stage in fp32 -> a copy in `precision`.

    keep_fp32: module names in the stage, with wildcards (`up_blocks.3.resnets.*`), that go on in fp32.
    Raises UnsupportedModelError when a name matches no layer, resnet or transformer block.
    """
    stage = copy.deepcopy(stage).to(precision.dtype).eval()
    stage.dtype = precision.dtype
    if precision is not Precision.FP32:
        for pattern in keep_fp32:
            _keep(stage, pattern)
    return stage


def _keep(stage: Stage, pattern: str) -> None:
    names = [name for name, m in stage.named_modules() if isinstance(m, KEEPABLE)]
    chosen = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not chosen:
        raise UnsupportedModelError(
            f"--keep-fp32 {pattern!r} names no layer that can be kept in fp32 there. Some that can: "
            f"{', '.join(names[:3])}, …, {names[-1]}."
        )
    for name in chosen:
        if any(name.startswith(other + ".") for other in chosen):
            continue  # inside one that is kept already
        parent, _, child = name.rpartition(".")
        holder = stage.get_submodule(parent)
        holder._modules[child] = InFp32(holder._modules[child])

"""Norms as plain arithmetic, for TensorRT 8.5.

It imports neither LayerNormalization nor GroupNormalization, and its InstanceNormalization is a plugin that
needs cuDNN. Statistics are taken in fp32 whatever the precision, since a group can hold a million elements.
"""

from __future__ import annotations

import torch
from torch import nn


class PlainGroupNorm(nn.Module):  # type: ignore[misc]
    """nn.GroupNorm, [B, C, h, w] or [B, C, n], by means and products."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.float().reshape(x.shape[0], self.num_groups, -1)
        centred = grouped - grouped.mean(dim=2, keepdim=True)
        variance = (centred * centred).mean(dim=2, keepdim=True)
        normal = (centred / torch.sqrt(variance + self.eps)).reshape(x.shape).to(x.dtype)
        per_channel = (1, -1) + (1,) * (x.ndim - 2)
        return normal * self.weight.reshape(per_channel) + self.bias.reshape(per_channel)


class PlainLayerNorm(nn.Module):  # type: ignore[misc]
    """nn.LayerNorm over the last dimension, by means and products."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        centred = wide - wide.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return (centred / torch.sqrt(variance + self.eps)).to(x.dtype) * self.weight + self.bias


def use_plain_norms(module: nn.Module) -> None:
    """Replace every GroupNorm and LayerNorm inside, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, PlainGroupNorm(child))
        elif isinstance(child, nn.LayerNorm):
            setattr(module, name, PlainLayerNorm(child))
        else:
            use_plain_norms(child)

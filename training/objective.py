"""The depth losses of the paper's equations 5 and 6, on latents or on depth pictures alike (N×C×h×w)."""

from __future__ import annotations

import torch


def mae(target: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """L_MAE = 1/M Σ |d_i − d*_i|  (eq. 5)."""
    return (target - predicted).abs().mean()


def gradient_matching(target: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """L_GM = 1/M Σ (|∇x R_i| + |∇y R_i|), R = d − d*, forward differences, one scale  (eq. 6)."""
    residual = target - predicted
    along_x = (residual[..., :, 1:] - residual[..., :, :-1]).abs().sum()
    along_y = (residual[..., 1:, :] - residual[..., :-1, :]).abs().sum()
    return (along_x + along_y) / residual.numel()


def depth_loss(
    target: torch.Tensor, predicted: torch.Tensor, *, gradient_weight: float = 0.5
) -> torch.Tensor:
    """L_MAE + λ_GM · L_GM, the t = 0 term of eq. 7 with λ_MAE = 1 and λ_GM = 0.5."""
    return mae(target, predicted) + gradient_weight * gradient_matching(target, predicted)

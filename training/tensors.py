"""Arrays as they are stored -> tensors as networks take them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import procedural


def photo_tensor(photos: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 N×H×W×3 -> float N×3×H×W in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(photos.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def depth_tensor(depth: NDArray[np.uint16]) -> torch.Tensor:
    """Stored depth N×H×W -> float N×3×H×W in [-1, 1]: what the VAE sees, three equal channels."""
    return torch.from_numpy(procedural.to_picture(depth))[:, None].expand(-1, 3, -1, -1)


def autocast() -> torch.autocast:
    """bfloat16 where the CPU multiplies it fast; fp32 elsewhere (bf16 without hardware is slower)."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())

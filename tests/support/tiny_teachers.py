"""A real Depth Anything of a few thousand random parameters, saved as transformers does it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

SIZE = 56
"""Of the processor, px; 518 in the published ones."""


def save_depth_anything(folder: Path, *, card: str | None = "license: cc0-1.0", **config: object) -> Path:
    """Model, processor and (unless None) a model card with this front matter -> folder."""
    torch.manual_seed(0)
    trunk = Dinov2Config(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=trunk,
            reassemble_hidden_size=24,
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            head_hidden_size=8,
            **config,
        )
    )
    with torch.no_grad():  # as initialised, its output is 0 all over
        for name, parameter in model.named_parameters():
            if name.startswith(("neck", "head")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.head.conv3.bias.fill_(1.0)
    model.save_pretrained(folder)
    DPTImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        ensure_multiple_of=14,
        keep_aspect_ratio=True,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    if card is not None:
        (folder / "README.md").write_text(f"---\n{card}\n---\nA test.\n")
    return folder

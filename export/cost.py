"""What a model costs before and after the folds: parameters, and FLOPs at a size (2 per multiply-add)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.folding import FOLD_NAMES
from export.graph_set import build_stage
from export.model import Model, parameter_count
from export.stages import LATENT_CHANNELS, STAGES, VAE_FACTOR, Stage


def cost_table(model: Model, *, leave_out: frozenset[str], size: int) -> str:
    """A table, a line per stage and one for all: parameters in millions and GFLOPs at size × size px.

    "before" is the networks with their time and text projections, "after" what is exported. With a light VAE
    a last line gives its share of the arithmetic that the checkpoint's own VAE would need.
    """
    before = {
        "encoder": _vae_half(model.vae_of("encoder"), "encoder", "quant_conv"),
        "unet": parameter_count(model.unet),
        "decoder": _vae_half(model.vae_of("decoder"), "decoder", "post_quant_conv"),
    }
    rows, totals = [], [0.0] * 4
    for name in STAGES:
        plain = build_stage(name, model, leave_out=frozenset(FOLD_NAMES))
        plain_flops = _flops(name, plain, size)
        del plain
        folded = build_stage(name, model, leave_out=leave_out)
        row = [before[name] / 1e6, parameter_count(folded) / 1e6, plain_flops / 1e9]
        row.append(_flops(name, folded, size) / 1e9)
        rows.append((name, row))
        totals = [a + b for a, b in zip(totals, row, strict=True)]
    head = f"{'':8} {'M parameters':>21}   {f'GFLOPs at {size}×{size}':>21}\n"
    head += f"{'':8} {'before':>10} {'after':>10}   {'before':>10} {'after':>10}\n"
    lines = [
        f"{n:8} {r[0]:10.2f} {r[1]:10.2f}   {r[2]:10.1f} {r[3]:10.1f}" for n, r in (*rows, ("all", totals))
    ]
    if model.light and model.vae is not None:
        full = dataclasses.replace(model, light={})
        whole = totals[3]
        for name, row in rows:
            if name in model.light:
                whole += _flops(name, build_stage(name, full, leave_out=leave_out), size) / 1e9 - row[3]
        lines.append(
            f"{100 * totals[3] / whole:.0f} % of the {whole:.1f} GFLOPs with the checkpoint's own VAE"
        )
    return head + "\n".join(lines)


def _vae_half(vae: Any, half: str, beside: str) -> int:
    conv = getattr(vae, beside, None)  # a light VAE has none
    return parameter_count(getattr(vae, half)) + (parameter_count(conv) if conv is not None else 0)


def _flops(name: str, stage: Stage, size: int) -> int:
    """FLOPs of one picture, counted on shapes alone. The stage is emptied."""
    stage = stage.to("meta")
    latent = torch.empty(1, LATENT_CHANNELS, size // VAE_FACTOR, size // VAE_FACTOR, device="meta")
    image = torch.empty(1, size, size, 3, dtype=torch.uint8, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        stage(image if name == "encoder" else latent)
    return int(counter.get_total_flops())

"""What a model costs before and after the folds: parameters, and FLOPs at a size (2 per multiply-add).

Counted on shapes alone: networks of the same shapes on torch's meta device, where a tensor has no values.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from export.folding import FOLD_NAMES
from export.graph_set import build_stage
from export.model import Model, parameter_count
from export.stages import STAGES, VAE_FACTOR, Stage


def cost_table(model: Model, *, leave_out: frozenset[str], size: int) -> str:
    """A table, a line per stage and one for all: parameters in millions and GFLOPs at size × size px.

    "before" is the networks with their time and text projections, "after" what is exported. With a light VAE
    a last line gives its share of the arithmetic that the checkpoint's own VAE would need.
    """
    model = _shapes_of(model)
    before = {
        "encoder": _vae_half(model.vae_of("encoder"), "encoder", "quant_conv"),
        "unet": parameter_count(model.unet),
        "decoder": _vae_half(model.vae_of("decoder"), "decoder", "post_quant_conv"),
    }
    rows, totals = [], [0.0] * 4
    for name in STAGES:
        plain = build_stage(name, model, leave_out=frozenset(FOLD_NAMES))
        folded = build_stage(name, model, leave_out=leave_out)
        flops = (_flops(name, plain, size) / 1e9, _flops(name, folded, size) / 1e9)
        row = [before[name] / 1e6, parameter_count(folded) / 1e6, *flops]
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


def _shapes_of(model: Model) -> Model:
    """The same model without values: no weight is copied."""

    def empty(module: Any) -> Any:
        shapes: dict[int, Any] = {
            id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
            for p in module.parameters()
        }
        shapes |= {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
        return copy.deepcopy(module, shapes)  # what `shapes` knows is taken from there instead of copied

    return dataclasses.replace(
        model,
        unet=empty(model.unet),
        vae=None if model.vae is None else empty(model.vae),
        light={half: dataclasses.replace(part, vae=empty(part.vae)) for half, part in model.light.items()},
    )


def _flops(name: str, stage: Stage, size: int) -> int:
    """FLOPs of one picture through a stage on the meta device."""
    latent = torch.empty(1, stage.latent_channels, size // VAE_FACTOR, size // VAE_FACTOR, device="meta")
    image = torch.empty(1, size, size, 3, dtype=torch.uint8, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        stage(image if name == "encoder" else latent)
    return int(counter.get_total_flops())

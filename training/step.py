"""One step, the same on one process or on many: this rank's rows -> loss terms of all rows, gradients.

    this rank's rows ──encoder──► halves ──split──► parts of at most `per_device` rows
    valid elements of all parts, of all ranks, added up  ─►  what every term is divided by
    each part: loss × world, backward           (DDP averages gradients over the ranks: × world undoes it)

So accumulation and distribution change the order of additions, and nothing else. Noise and timesteps of a row
follow from (seed, step, its number in the batch of all ranks).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from training.latents import part
from training.objective import Counts, Diffusion, Half, Method, count_valid, objective


class Losses(torch.nn.Module):
    """The network and its objective as one module, so that DDP sees one forward pass per backward pass."""

    def __init__(self, unet: Any, prompt: torch.Tensor, method: Method, diffusion: Diffusion) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("prompt", prompt, persistent=False)
        self._method = method
        self._diffusion = diffusion

    def forward(
        self, synthetic: Half, real: Half | None, t: torch.Tensor, noise: torch.Tensor, counts: Counts
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-> eq. 7 with gradient, and its unweighted terms by name."""
        terms = objective(
            self.unet,
            self.prompt,
            self._method,
            self._diffusion,
            synthetic,
            real,
            t=t,
            noise=noise,
            counts=counts,
        )
        return terms.total, dict(terms.parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Randomness:
    """What L_k needs of a step: t long [B], noise float32 B×C×h×w, on the CPU."""

    t: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(
        cls, diffusion: Diffusion, *, seed: int, step: int, rows: range, shape: tuple[int, int, int]
    ) -> Randomness:
        """rows: numbers in the batch of all ranks; shape: C×h×w."""
        drawn = [_row(diffusion, (seed, step, row), shape) for row in rows]
        return cls(t=torch.cat([t for t, _ in drawn]), noise=torch.stack([noise for _, noise in drawn]))


def _row(
    diffusion: Diffusion, key: tuple[int, int, int], shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)
    generator = torch.Generator().manual_seed(int(seed))
    return diffusion.random_steps(1, generator), torch.randn(shape, generator=generator)


def backward(
    accelerator: Accelerator,
    losses: torch.nn.Module,
    method: Method,
    synthetic: Half,
    real: Half | None,
    randomness: Randomness,
    *,
    at_once: int,
) -> dict[str, float]:
    """Gradients of the whole batch's loss -> the parameters' .grad; the terms of the whole batch by name.

    at_once: rows per forward pass. Parts: "loss" (eq. 7), and the unweighted terms. Values may be NaN or
    infinite; they are the same on every rank.
    """
    counts = _over_all_ranks(accelerator, count_valid(method, synthetic, real))
    pieces = _pieces(len(synthetic.image), at_once)
    sums: dict[str, torch.Tensor] = {}
    for i, rows in enumerate(pieces):
        last = i + 1 == len(pieces)
        with contextlib.nullcontext() if last else accelerator.no_sync(losses):
            total, parts = losses(
                part(synthetic, rows),
                None if real is None else part(real, rows),
                randomness.t[rows],
                randomness.noise[rows].to(synthetic.image.device),
                counts,
            )
            accelerator.backward(total * accelerator.num_processes)
        for name, value in {"loss": total.detach(), **parts}.items():
            sums[name] = sums.get(name, 0) + value.float()
    together = accelerator.reduce(torch.stack(list(sums.values())), "sum")
    return dict(zip(sums, together.tolist(), strict=True))


def _pieces(rows: int, at_once: int) -> list[slice]:
    """As few slices as `at_once` allows, of sizes as even as can be."""
    number = math.ceil(rows / at_once)
    edges = [rows * i // number for i in range(number + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _over_all_ranks(accelerator: Accelerator, counts: Counts) -> Counts:
    fields = [f.name for f in dataclasses.fields(counts)]
    flat = torch.cat([getattr(counts, name).reshape(-1) for name in fields])
    flat = accelerator.reduce(flat.float().to(accelerator.device), "sum").double().cpu()
    values: Iterator[torch.Tensor] = iter(flat.split([getattr(counts, name).numel() for name in fields]))
    return Counts(**{name: next(values).reshape(getattr(counts, name).shape) for name in fields})


def learning_rate(step: int, *, lr: float, warmup: int, decay_steps: int, floor: float) -> float:
    """Linear to `lr` over `warmup` steps, exponential to `floor` × lr at `decay_steps`, then constant."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * floor ** min(1.0, (step - warmup) / (decay_steps - warmup))

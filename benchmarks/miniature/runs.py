"""prior, worlds, variant, seed -> a trained network and its scores, as one JSON file.

The objective is training/objective.py's own: what trains the product is what is put to the test.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.evaluation.boundary_metrics import boundary_f1
from benchmarks.miniature.prior import PROMPT, Size, decode, depth_latent, load_network, photo_latent
from benchmarks.miniature.worlds import LabelledWorld, Worlds
from fiffdepth_rt.atomic import replacing
from training import metrics
from training.alignment import align
from training.loop import Schedule, fit
from training.objective import Diffusion, Half, Method, feed_forward, objective

Array = NDArray[np.float32]

VARIANTS = {
    "full method": Method(),
    "no L_k": Method(trajectory="off"),
    "L_k on image latents": Method(trajectory="image"),
    "no teacher": Method(teacher="off"),
    "teacher on d0": Method(teacher="d0"),
}
"""The paper's method and its Fig. 7, all from one start, with one budget and the same batches per seed."""

MIN_M, MAX_M = 0.5, 12.0
"""The rooms' range; aligned predictions are clipped to it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """steps optimiser steps at peak rate lr."""

    steps: int = 900
    lr: float = 2e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """Means over a test world's pictures, each 0 … 1: AbsRel and boundary_f1 after alignment, δ1."""

    abs_rel: float
    delta1: float
    boundary_f1: float


def score_pictures(pictures: Array, depth_m: Array) -> Figures:
    """Depth pictures N×32×32 against metres N×32×32: align each by least squares, clip, compare."""
    everywhere = np.ones(depth_m.shape[1:], bool)
    results, edges = [], []
    for picture, truth in zip(pictures, depth_m, strict=True):
        results.append(metrics.score(picture, truth, space="depth", min_m=MIN_M, max_m=MAX_M))
        aligned = align(picture, truth, everywhere, space="depth")
        edges.append(boundary_f1(np.clip(aligned, MIN_M, MAX_M), truth))
    return Figures(
        abs_rel=float(np.mean([r.abs_rel for r in results])),
        delta1=float(np.mean([r.delta1 for r in results])),
        boundary_f1=float(np.mean(edges)),
    )


@torch.no_grad()
def predict(network: torch.nn.Module, photos: NDArray[np.uint8]) -> Array:
    """Photos -> depth pictures, as at inference: one step at t = 0."""
    parts = photo_latent(photos).split(50)
    return np.concatenate([decode(feed_forward(network, part, PROMPT)) for part in parts])


def run(
    name: str, seed: int, worlds: Worlds, *, prior: Path, place: Path, size: Size, budget: Budget
) -> Path:
    """Train and score one variant under one seed -> its JSON file; one that is there is left as it is.

    The file holds the figures on both test worlds, each part of the loss at the end, and the seconds taken.
    The averaged weights and the predictions on the real-looking test photos stay beside it.
    """
    result = place / "result.json"
    if result.exists():
        return result
    network, method, diffusion = load_network(size, prior), VARIANTS[name], Diffusion.of()
    parts: dict[str, float] = {}

    def loss_at(step: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
        synthetic, real = _half(worlds.synthetic, size.batch, rng), _half(worlds.real, size.batch, rng)
        t = diffusion.random_steps(size.batch, rng)
        noise = torch.randn(synthetic.image.shape, generator=rng)
        terms = objective(network, PROMPT, method, diffusion, synthetic, real, t=t, noise=noise)
        parts.update({part: round(value.item(), 5) for part, value in terms.parts.items()})
        return terms.total

    schedule = Schedule(
        steps=budget.steps,
        lr=budget.lr,
        warmup=min(25, budget.steps),
        save_every=min(100, budget.steps),
        average=0.98,
    )
    started = time.process_time()
    fit(network, loss_at, schedule, place, validate=lambda averaged: dict(parts))
    seconds = time.process_time() - started
    network = load_network(size, place)
    on_real = predict(network, worlds.test.photos)
    on_synthetic = predict(network, worlds.synthetic_test.photos)
    with replacing(place / "pictures.npy") as file:
        np.save(file, on_real.astype(np.float16))
    record = {
        "variant": name,
        "seed": seed,
        "method": msgspec.to_builtins(method),
        "real": dataclasses.asdict(score_pictures(on_real, worlds.test.depth_m)),
        "synthetic": dataclasses.asdict(score_pictures(on_synthetic, worlds.synthetic_test.depth_m)),
        "last_losses": parts,
        "cpu_seconds": round(seconds, 1),
    }
    with replacing(result) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    return result


def _half(world: LabelledWorld, count: int, rng: torch.Generator) -> Half:
    """A random batch, half of it flipped left to right, as latents."""
    rows = torch.randint(len(world.photos), (count,), generator=rng).numpy()
    flip = torch.rand(count, generator=rng).numpy() < 0.5
    photos, pictures = world.photos[rows], world.pictures[rows]
    photos[flip], pictures[flip] = photos[flip, :, ::-1], pictures[flip, :, ::-1]
    latent = depth_latent(pictures)
    valid = torch.ones(count, 1, *latent.shape[2:], dtype=torch.bool)
    return Half(image=photo_latent(photos), depth=latent, valid=valid)

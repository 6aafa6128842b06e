"""What a light VAE costs in accuracy: the full VAE and the light one on held-out depth, by the same code.

    python -m benchmarks.light_vae runs/nano/full.safetensors runs/nano/light/light.safetensors --scenes 100
    python -m benchmarks.light_vae CKPT LIGHT --rgbd DIR --pictures out/ --save

CKPT is one of our checkpoints, with a full VAE, LIGHT what training/distill_vae.py made of it. Held-out
depth: scenes rendered from seeds that training never sees, with exact metres, or a folder of RGB-D pairs as
benchmarks/accuracy.py takes it. Two questions:

    depth map -> latent -> depth map            what the decoder alone loses
    photo -> latent -> depth latent -> depth    what the whole chain loses, by the halves replaced

Predictions are aligned to metres by least squares (training/metrics.py), clipped to 1 mm … the range of the
data, and scored on valid pixels: AbsRel, δ1, and boundary F1 (benchmarks/boundaries.py) of the aligned depth.
In torch, fp32, by diffusers' own modules; exported graphs are held against these by the export.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections import defaultdict
from typing import Any

import click
import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import commands
from benchmarks.evaluation.frame_scores import score
from benchmarks.report import Report, publish, table
from benchmarks.sets import rgbd as rgbd_pairs
from benchmarks.sets import scenes as held_out_scenes
from fiffdepth_rt import DepthMap, Space
from fiffdepth_rt.image import fit, grid_for, to_grid, to_photo
from fiffdepth_rt.machine import installed, machine_card
from training import objective
from training.data.normalise import normalise
from training.data.samples import MetricPair
from training.metrics import NEAREST_M
from training.weights.errors import CheckpointError
from training.weights.light import check_latent, load_light_vae
from training.weights.ours import Checkpoint, load_checkpoint

GRID = 64
Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalvesScores:
    """Means over frames, 0 … 1. question: "depth map" or "photo"; halves: which are light."""

    question: str
    halves: str
    frames: int
    abs_rel: float
    delta1: float
    f1: float


class Chain:
    """The full model, with the full or the light half of the VAE at either end. Pixels in [-1, 1]."""

    def __init__(self, model: Checkpoint, light: Any) -> None:
        self.model, self.light = model, light
        self.scale = model.vae.config.scaling_factor

    def encode(self, pixels: torch.Tensor, *, light: bool) -> torch.Tensor:
        if light:
            return self.light.encode(pixels).latents
        return self.model.vae.encode(pixels).latent_dist.mode() * self.scale

    def depth_latent(self, latent: torch.Tensor) -> torch.Tensor:
        return objective.feed_forward(self.model.unet, latent, self.model.prompt_embedding)

    def decode(self, latent: torch.Tensor, *, light: bool) -> Array:
        """1×4×h×w -> H×W in [0, 1]."""
        picture = (
            self.light.decode(latent).sample if light else self.model.vae.decode(latent / self.scale).sample
        )
        return (picture.mean((0, 1)).clamp(-1, 1) * 0.5 + 0.5).numpy()


@torch.no_grad()
def predictions(
    chain: Chain, halves: tuple[str, ...], frame: MetricPair, size: int, space: Space
) -> dict[tuple[str, str], Array]:
    """(question, light halves) -> depth H×W in [0, 1]. Depth maps with holes are left out."""
    hw = (frame.photo.shape[0], frame.photo.shape[1])
    fitted = fit(hw, grid_for(hw, size=size))
    found: dict[tuple[str, str], Array] = {}
    whole = (frame.valid | (frame.depth_m >= frame.farthest_m)).all() and not (hw[0] % GRID or hw[1] % GRID)
    if "decoder" in halves and whole:
        picture = torch.from_numpy(normalise(frame.depth_m, frame.valid, space=space))
        latent = chain.encode(picture.expand(1, 3, -1, -1), light=False)
        for name, light in (("none", False), ("decoder", True)):
            found["depth map", name] = chain.decode(latent, light=light)
    pixels = torch.from_numpy(to_grid(frame.photo, fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1
    for encoder in (False, True)[: 1 + ("encoder" in halves)]:
        depth_latent = chain.depth_latent(chain.encode(pixels, light=encoder))
        for decoder in (False, True)[: 1 + ("decoder" in halves)]:
            name = {(0, 0): "none", (1, 0): "encoder", (0, 1): "decoder", (1, 1): "both"}[encoder, decoder]
            found["photo", name] = to_photo(chain.decode(depth_latent, light=decoder), fitted)
    return found


def evaluate(
    chain: Chain, halves: tuple[str, ...], held_out: list[MetricPair], *, pictures: Path | None
) -> list[HalvesScores]:
    """Every frame, every question, every choice of halves -> means."""
    info = chain.model.info
    space = Space(info.output_space)
    scores: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for frame in tqdm(held_out, unit="frame"):
        found = predictions(chain, halves, frame, info.size_default, space)
        for key, prediction in found.items():
            scores[key].append(score(prediction, frame, space=space))
        if pictures is not None:
            _write_picture(pictures / f"{frame.name}.png", frame, found, space)
    return [
        HalvesScores(question=question, halves=light, frames=len(of), abs_rel=a, delta1=d, f1=f)
        for (question, light), of in scores.items()
        for a, d, f in [np.mean(of, axis=0).tolist()]
    ]


def _write_picture(path: Path, frame: MetricPair, found: dict[tuple[str, str], Array], space: Space) -> None:
    """Photo, truth, then every prediction in the order of the table, near = bright; no reading = black."""
    truth = normalise(frame.depth_m, frame.valid, space=Space.DEPTH) * 0.5 + 0.5
    shown = [frame.photo, DepthMap(values=truth, space=Space.DEPTH).colors()]
    shown[1][frame.depth_m <= NEAREST_M] = 0
    shown += [DepthMap(values=prediction, space=space).colors() for prediction in found.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(np.hstack(shown), cv2.COLOR_RGB2BGR))


def markdown(rows: list[HalvesScores]) -> str:
    headers = ["from", "light halves", "n", "AbsRel % ↓", "δ1 % ↑", "boundary F1 ↑"]
    lines = [
        [r.question, r.halves, r.frames, f"{100 * r.abs_rel:.2f}", f"{100 * r.delta1:.2f}", f"{r.f1:.3f}"]
        for r in rows
    ]
    return table(headers, lines, align="llrrrr")


@commands.command(__doc__)
@click.argument("full", metavar="CKPT", type=commands.FILE)
@click.argument("light", metavar="LIGHT", type=commands.FILE)
@click.option(
    "--scenes", metavar="N", type=int, default=100, show_default=True, help="Held-out scenes to render."
)
@click.option("--rgbd", metavar="DIR", type=commands.FOLDER, help="A folder of RGB-D pairs instead.")
@commands.pictures
@commands.save
def main(full: Path, light: Path, scenes: int, rgbd: Path | None, pictures: Path | None, save: bool) -> None:
    vae, halves, info = load_light_vae(light)
    model = load_checkpoint(full)
    if isinstance(model.vae, AutoencoderTiny):
        raise click.ClickException(
            f"{full} carries a light VAE: give the one that {light.name} was made from, with a full VAE "
            "(`make nano` leaves it as full.safetensors)."
        )
    try:
        check_latent(full.name, model.unet, dict.fromkeys(halves, vae))
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    held_out = list(rgbd_pairs.frames(rgbd) if rgbd else held_out_scenes.frames(scenes))
    rows = evaluate(Chain(model, vae), halves, held_out, pictures=pictures)
    report = Report(
        benchmark="light_vae",
        title="Light VAE",
        command=commands.typed("light_vae"),
        card=machine_card(installed(["torch", "diffusers"])),
        text=markdown(rows),
        figures={
            "teacher": info.teacher,
            "training": info.training,
            "rows": [dataclasses.asdict(r) for r in rows],
        },
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

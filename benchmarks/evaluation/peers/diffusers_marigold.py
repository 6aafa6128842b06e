"""Marigold, through diffusers' MarigoldDepthPipeline: one map per photo, seed 1234, no ensemble.

Seed and ensemble are those of Marigold's script/depth/eval/0_infer_eval_all.sh; the number of steps is the
pipeline's own default. Where a protocol has brought the photo to its size, it is taken at that size; else
at the pipeline's default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, MarigoldDepthPipeline

from benchmarks.evaluation.methods import Map, Photo
from benchmarks.evaluation.peers import name_of, weights_sha256
from fiffdepth_rt.machine import installed
from training.alignment import AlignmentSpace
from training.data.samples import DataError

SEED = 1234


def load(which: str, *, space: AlignmentSpace | None) -> Marigold:
    """Raises DataError: no such pipeline, another pipeline than Marigold's for depth."""
    folder = Path(which).expanduser()
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(folder) if folder.is_dir() else which)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise DataError(f"{which} is no pipeline that diffusers opens: {lines[0]}") from error
    if not isinstance(pipeline, MarigoldDepthPipeline):
        raise DataError(
            f"{which} is a {type(pipeline).__name__}, and depth comes from a MarigoldDepthPipeline."
        )
    said = pipeline.config.prediction_type or "depth"
    return Marigold(which, pipeline, space=space or AlignmentSpace(said))


class Marigold:
    """A Method."""

    def __init__(self, which: str, pipeline: Any, *, space: AlignmentSpace) -> None:
        self.name, self.space = name_of(which), space
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pipeline = pipeline.to(self._device)
        self._pipeline.set_progress_bar_config(disable=True)
        # Of the folder that the weights came from: the user's, or the hub's snapshot in the cache.
        sha256 = weights_sha256(str(Path(pipeline.unet.config._name_or_path).parent), None)
        self.key = sha256[:16]
        self.choices: dict[str, Any] = {
            "model": self.name,
            "model_sha256": sha256,
            "library": "diffusers",
            "class": type(pipeline).__name__,
            "steps": pipeline.config.default_denoising_steps,
            "ensemble": 1,
            "seed": SEED,
            "device": self._device,
            "precision": str(pipeline.dtype).removeprefix("torch."),
            "versions": installed(["diffusers", "torch"]),
            "output_space": str(space),
        }

    @torch.inference_mode()
    def predict(self, photo: Photo) -> Map:
        found = self._pipeline(
            photo.pixels.astype(np.float32) / 255,
            processing_resolution=0 if photo.at_protocol_size else None,
            generator=torch.Generator(self._device).manual_seed(SEED),
        )
        return np.asarray(found.prediction[0, :, :, 0], np.float32)

    def close(self) -> None:
        pass

"""What the checkpoint computes, and the graphs held against it (by fiffdepth_rt.engine_dir.golden).

The reference is computed from diffusers' own modules and scheduler, not from our stages, in fp32. It is kept
as golden.npz, so that a machine without torch can judge its own engines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny

from export.model import Model
from export.precision import Precision
from export.recipe import scheduler_of
from export.stages import STAGES
from fiffdepth_rt.engine_dir import golden as parity
from fiffdepth_rt.engine_dir.golden import Array, Golden, Row, StageValues, Where
from fiffdepth_rt.errors import ParityError

CAMERA_MEAN_ABS = (
    5e-3  # of depth in [0, 1]: the host rounds the resized picture to 8 bits, the graph does not
)
ADVICE: Mapping[Precision, str] = {
    Precision.FP32: "A fault of the export or the engine: try --leave-out with each fold, and report it.",
    Precision.FP16: "Try --keep-fp32 with the layers at fault, or --precision bf16.",
    Precision.BF16: "Try --keep-fp32 with the layers at fault, or --precision fp16.",
}
GOLDEN_STEP = 2.0**-17
"""Of the deviation; half of it is a 26th of the tightest gate, 1e-4. Below lies an eighth of the file."""
OVERRIDE = "--accept-parity records the override in the manifest."

Run = Callable[[str, Array], Array]  # stage name, its input -> its output; the decoder's before the clip


def reference(model: Model, images: Mapping[str, Array]) -> Golden:
    """images by name, uint8 h×w×3 -> every stage's input and output, by diffusers' own modules in fp32.

    Raises ParityError when a photo's depth is constant or saturated: agreement would prove nothing.
    """
    golden = {name: _reference_of(model, image) for name, image in images.items()}
    parity.check_reference(golden)
    return golden


def _reference_of(model: Model, image_hw3: Array) -> dict[str, StageValues]:
    recipe = model.recipe
    scheduler = scheduler_of(recipe, model.scheduler_config)
    with torch.no_grad():
        pixels = torch.from_numpy(image_hw3).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        latent = _encode(model.vae_of("encoder"), pixels)
        beside = torch.zeros(1, recipe.zero_channels, *latent.shape[2:])
        raw = model.unet(
            torch.cat([latent, beside], dim=1),
            torch.tensor(recipe.timestep),
            encoder_hidden_states=model.prompt_embedding,
            class_labels=recipe.class_labels_tensor(),
        ).sample
        if scheduler is None:
            depth_latent = raw
        else:
            # the scheduler denoises the zeros beside the photo's latent, or where there are none the latent
            sample = beside if recipe.zero_channels else latent
            depth_latent = scheduler.step(raw, recipe.timestep, sample).pred_original_sample
        vae = model.vae_of("decoder")
        depth = vae.decode(depth_latent / vae.config.scaling_factor).sample.mean(dim=1)
    values = [image_hw3[None], latent.numpy(), depth_latent.numpy(), depth.numpy()]
    return {
        stage: StageValues(input=before, output=after)
        for stage, before, after in zip(STAGES, values[:-1], values[1:], strict=True)
    }


def _encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> latent: the scaled posterior mean, or what a light encoder gives for it."""
    encoded = vae.encode(pixels)
    latent = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mean
    return latent * vae.config.scaling_factor


def write_golden(path: Path, golden: Golden) -> None:
    """Every stage's values -> golden.npz, floats rounded to GOLDEN_STEP of their deviation."""
    arrays = {
        f"{image}/{stage}/{side}": _rounded(getattr(values, side))
        for image, stages in golden.items()
        for stage, values in stages.items()
        for side in ("input", "output")
    }
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _rounded(values: Array) -> Array:
    if not np.issubdtype(values.dtype, np.floating) or not (deviation := float(values.std())) > 0:
        return values
    step = GOLDEN_STEP * 2.0 ** np.floor(np.log2(deviation))
    rounded: Array = (np.round(values / step) * step).astype(values.dtype)
    return rounded


def compare(golden: Golden, run: Run, where: Where, *, finite_only: bool = False) -> list[Row]:
    """Every stage alone and the whole chain, on every golden image. Raises nothing: see `judge`.

    finite_only: no gate but that every value is finite.
    """
    runs = {stage: partial(run, stage) for stage in STAGES}
    rows = [row for stage in STAGES for row in parity.compare_stage(golden, stage, runs[stage], where)]
    rows += parity.compare_chain(golden, runs, where)
    if finite_only:
        return [dataclasses.replace(row, gated=False, passed=row.note != parity.NOT_FINITE) for row in rows]
    return rows


def compare_camera(photos: Mapping[str, tuple[Array, Array]], run: Run, where: Where) -> list[Row]:
    """A camera's graphs against the host's resizing around the reference.

    photos: by name, the picture (uint8 H×W×3) and the depth map to be expected (float32 H×W in [0, 1]).
    """
    rows = []
    for image, (picture, expected) in photos.items():
        value: Array = picture[None]
        for stage in STAGES:
            value = run(stage, value)
        error = np.abs(np.clip(value[0], -1, 1) * 0.5 + 0.5 - expected.astype(np.float64))
        row = Row(
            **{**dataclasses.asdict(where), "note": "against the host's resizing; in [0, 1]"},
            stage=parity.CHAIN,
            image=image,
            grid="{}x{}".format(*expected.shape),
            max_abs=float(error.max()),
            p999=float(np.quantile(error, 0.999)),
            mean_abs=float(error.mean()),
            reference_std=float(expected.std()),
            gated=True,
            passed=bool(error.mean() <= CAMERA_MEAN_ABS),  # also false for NaN
        )
        rows.append(row)
    return rows


def judge(rows: Sequence[Row], precision: Precision) -> None:
    """Raises ParityError naming the first stage beyond its gate, and the next thing to try."""
    for row in rows:
        if "-camera-" in row.graph_set and not row.passed:
            raise ParityError(
                f"{row.graph_set} on {row.image} differs from the host's resizing by {row.mean_abs:.2g} in "
                f"the mean, beyond {CAMERA_MEAN_ABS:g}. Leave out --camera: the host resizes. {OVERRIDE}"
            )
    parity.judge(rows, advice=f"{ADVICE[precision]} {OVERRIDE}")

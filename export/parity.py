"""What the checkpoint computes, and the graphs held against it (by fiffdepth_rt.engine_dir.golden).

The reference is computed from diffusers' own modules and scheduler, not from our stages, in fp64. torch then
computes the same in fp32, and the distance is what rounding alone does to this model: graphs are allowed a
multiple of it. Both are kept in golden.npz, so that a machine without torch can judge its own engines.

On a CPU all this takes four to six times as long as the model in fp32. One part of the model is in fp64 at a
time, so the UNet's weights need twice their memory while its turn lasts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from fiffdepth_rt.engine_dir.golden import Array, Golden, ParityRow, StageValues, Where
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

log = logging.getLogger("fiffdepth_export")
Run = Callable[[str, Array], Array]  # stage name, its input -> its output; the decoder's before the clip


def reference(model: Model, images: Mapping[str, Array]) -> Golden:
    """images by name, uint8 h×w×3 -> every stage's input and output in fp64, and torch's rounding in fp32.

    Latents are handed on as float32, as the graphs hand them on. Raises ParityError when a photo's depth is
    constant, saturated or mostly rounding: agreement would prove nothing.
    """
    inputs = {image: pixels[np.newaxis] for image, pixels in images.items()}
    in_fp32 = dict(inputs)  # how far a chain in fp32 has come
    golden: Golden = {image: {} for image in images}
    outputs: dict[str, Array] = {}
    for stage in STAGES:
        log.info("  the %s in fp64 and in fp32", stage)
        module = _module_of(model, stage)
        run = partial(_run_stage, model, stage)
        with _in_fp64(module):
            outputs = {image: run(value) for image, value in inputs.items()}
        for image, value in inputs.items():
            alone = run(value)
            in_fp32[image] = alone if stage == STAGES[0] else run(in_fp32[image])
            golden[image][stage] = StageValues(
                input=value,
                output=outputs[image].astype(np.float32),
                rounding=parity.errors_of(alone, outputs[image]),
            )
        inputs = {image: stages[stage].output for image, stages in golden.items()}
    found = {
        image: parity.with_chain(stages, parity.errors_of(in_fp32[image], outputs[image]))
        for image, stages in golden.items()
    }
    parity.check_reference(found)
    return found


def depth_in_fp32(model: Model, image_hw3: Array) -> Array:
    """image, uint8 h×w×3 -> depth before the clip, float32 h×w, by diffusers' own modules.

    Raises ParityError as `reference` does.
    """
    stages: dict[str, StageValues] = {}
    value: Array = image_hw3[np.newaxis]
    for stage in STAGES:
        after = _run_stage(model, stage, value)
        stages[stage], value = StageValues(input=value, output=after), after
    parity.check_reference({"photo": parity.with_chain(stages, None)})
    depth: Array = value[0]
    return depth


def _module_of(model: Model, stage: str) -> Any:
    return model.unet if stage == "unet" else model.vae_of(stage)


@contextlib.contextmanager
def _in_fp64(module: Any) -> Iterator[None]:
    """A module of fp32 weights computes in fp64 meanwhile; both conversions are exact."""
    module.double()
    try:
        yield
    finally:
        module.float()


def _run_stage(model: Model, stage: str, value: Array) -> Array:
    """A stage's input -> its output, by diffusers, in the precision that the weights are in."""
    module = _module_of(model, stage)
    with torch.no_grad():
        x = torch.from_numpy(value)
        if stage == "encoder":
            pixels = x.permute(0, 3, 1, 2).to(module.dtype) / 255 * 2 - 1
            return np.asarray(_encode(module, pixels))
        latent = x.to(module.dtype)
        if stage == "unet":
            return np.asarray(_denoise(model, latent))
        return np.asarray(module.decode(latent / module.config.scaling_factor).sample.mean(dim=1))


def _denoise(model: Model, latent: torch.Tensor) -> torch.Tensor:
    """latent -> depth latent, both [1, C, h/8, w/8]."""
    recipe, labels = model.recipe, model.recipe.class_labels_tensor()
    scheduler = scheduler_of(recipe, model.scheduler_config)
    beside = torch.zeros_like(latent)
    raw: torch.Tensor = model.unet(
        torch.cat([latent, beside], dim=1) if recipe.zero_latent else latent,
        torch.tensor(recipe.timestep),
        encoder_hidden_states=model.prompt_embedding.to(latent.dtype),
        class_labels=None if labels is None else labels.to(latent.dtype),
    ).sample
    if scheduler is None:
        return raw
    # the scheduler denoises the zeros beside the photo's latent, or where there are none the latent
    sample = beside if recipe.zero_latent else latent
    depth_latent: torch.Tensor = scheduler.step(raw, recipe.timestep, sample).pred_original_sample
    return depth_latent


def _encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> latent: the scaled posterior mean, or what a light encoder gives for it."""
    encoded = vae.encode(pixels)
    latent = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mean
    return latent * vae.config.scaling_factor


def write_golden(path: Path, golden: Golden) -> None:
    """Every stage's values -> golden.npz, depth rounded to GOLDEN_STEP of its deviation.

    Latents stay as they are: they are inputs too, and what rounds an input counts as the next stage's error.
    """
    arrays: dict[str, Array] = {}
    for image, stages in golden.items():
        for stage, values in stages.items():
            if stage != parity.CHAIN:
                arrays[f"{image}/{stage}/input"] = values.input
                depth = stage == STAGES[-1]
                arrays[f"{image}/{stage}/output"] = _rounded(values.output) if depth else values.output
            if values.rounding is not None:
                arrays[f"{image}/{stage}/rounding"] = np.array(dataclasses.astuple(values.rounding))
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _rounded(values: Array) -> Array:
    if not (deviation := float(values.std())) > 0:
        return values
    step = GOLDEN_STEP * 2.0 ** np.floor(np.log2(deviation))
    rounded: Array = (np.round(values / step) * step).astype(values.dtype)
    return rounded


def compare(golden: Golden, run: Run, where: Where, *, finite_only: bool = False) -> list[ParityRow]:
    """Every stage alone and the whole chain, on every golden image. Raises nothing: see `judge`.

    finite_only: no gate but that every value is finite.
    """
    runs = {stage: partial(run, stage) for stage in STAGES}
    rows = [row for stage in STAGES for row in parity.compare_stage(golden, stage, runs[stage], where)]
    rows += parity.compare_chain(golden, runs, where)
    if finite_only:
        return [dataclasses.replace(row, gated=False, passed=row.note != parity.NOT_FINITE) for row in rows]
    return rows


def compare_camera(photos: Mapping[str, tuple[Array, Array]], run: Run, where: Where) -> list[ParityRow]:
    """A camera's graphs against the host's resizing around the reference.

    photos: by name, the picture (uint8 H×W×3) and the depth map to be expected (float32 H×W in [0, 1]).
    """
    rows = []
    for image, (picture, expected) in photos.items():
        value: Array = picture[None]
        for stage in STAGES:
            value = run(stage, value)
        error = np.abs(np.clip(value[0], -1, 1) * 0.5 + 0.5 - expected.astype(np.float64))
        row = ParityRow(
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


def judge(rows: Sequence[ParityRow], precision: Precision) -> None:
    """Raises ParityError naming the first stage beyond its gate, and the next thing to try."""
    for row in rows:
        if "-camera-" in row.graph_set and not row.passed:
            raise ParityError(
                f"{row.graph_set} on {row.image} differs from the host's resizing by {row.mean_abs:.2g} in "
                f"the mean, beyond {CAMERA_MEAN_ABS:g}. Leave out --camera: the host resizes. {OVERRIDE}"
            )
    parity.judge(rows, advice=f"{ADVICE[precision]} {OVERRIDE}")

"""Do the graphs compute what the checkpoint computes? Reference values, errors, gates.

The reference is computed from diffusers' own modules and scheduler, not from our stages, in fp32. Each stage
is given the reference's input; "chain" is the whole journey from the image. Errors are taken before the clip
and are judged relative to the reference's standard deviation (see Gate for the one exception).

`golden.npz` keeps the reference: "<image>/<stage>/input" and "<image>/<stage>/output" (the decoder's output
is depth_unclipped), so that a machine without torch can judge its own engines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.checkpoint import Model
from export.errors import ParityError
from export.precision import Precision
from export.recipe import scheduler_of
from export.stages import STAGES

Array = npt.NDArray[Any]
NOISE = "noise"
NOT_FINITE = "NaN or infinity"
CONSTANT_BELOW_STD = 1e-4
# Training maps the 2 % and 98 % quantiles to ±1, so honest depth leaves [-1, 1] a little, but not by this.
SATURATED_BEYOND = 1.5
SATURATED_SHARE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """Largest errors allowed; None: reported only.

    max_abs and mean_abs are in the values' own unit: the one worst pixel of a map is rounding noise that a
    sharp network has made tens of times larger. p999 and mean are relative to the reference's
    standard deviation.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    p999: float | None = None
    mean: float | None = None


CAMERA_GATE = Gate(mean_abs=5e-3)
GATES: Mapping[Precision, Gate] = {
    Precision.FP32: Gate(max_abs=1e-4, p999=1e-4),
    Precision.FP16: Gate(p999=2e-2, mean=2e-3),
    Precision.BF16: Gate(p999=6e-2, mean=8e-3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageValues:
    """What goes into one stage and what comes out, in the reference."""

    input: Array
    output: Array


Golden = dict[str, dict[str, StageValues]]  # image name -> stage name -> values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison, as the manifest keeps it. Errors are absolute; divide by reference_std for the gate."""

    graph_set: str
    stage: str
    backend: str
    device: str
    image: str
    grid: str
    max_abs: float
    p999: float
    mean_abs: float
    reference_std: float
    gated: bool
    passed: bool
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def gate(self, precision: Precision) -> Gate:
        """The gate that the row was judged by."""
        return CAMERA_GATE if "-camera-" in self.graph_set else GATES[precision]


def reference(model: Model, images: Mapping[str, Array]) -> Golden:
    """images by name, uint8 h×w×3 -> every stage's input and output, by diffusers' own modules in fp32.

    Raises ParityError when a photo's depth is constant or saturated: agreement would prove nothing.
    """
    golden = {name: _reference_of(model, image) for name, image in images.items()}
    for name, values in golden.items():
        if not name.startswith(NOISE):
            _check_reference(name, values["decoder"].output)
    return golden


def _reference_of(model: Model, image_hw3: Array) -> dict[str, StageValues]:
    recipe, scaling = model.recipe, model.vae.config.scaling_factor
    scheduler = scheduler_of(recipe, model.scheduler_config)
    with torch.no_grad():
        pixels = torch.from_numpy(image_hw3).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        latent = model.vae.encode(pixels).latent_dist.mean * scaling
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
        depth = model.vae.decode(depth_latent / scaling).sample.mean(dim=1)
    values = [image_hw3[None], latent.numpy(), depth_latent.numpy(), depth.numpy()]
    return {
        stage: StageValues(input=before, output=after)
        for stage, before, after in zip(STAGES, values[:-1], values[1:], strict=True)
    }


def _check_reference(name: str, unclipped: Array) -> None:
    if not np.isfinite(unclipped).all():
        raise ParityError(f"The checkpoint itself gives NaN or infinity on {name}, in fp32: it is broken.")
    if unclipped.std() < CONSTANT_BELOW_STD:
        raise ParityError(
            f"The checkpoint's depth of {name} is constant, so agreement proves nothing. Is the model "
            "trained, and is the recipe the right one?"
        )
    share = float((np.abs(unclipped) > SATURATED_BEYOND).mean())
    if share > SATURATED_SHARE:
        raise ParityError(
            f"{share:.1%} of the checkpoint's depth of {name} lie far outside [-1, 1] and will be clipped, "
            "so agreement proves little. Is the model trained, and is the recipe the right one?"
        )


def write_golden(path: Path, golden: Golden) -> None:
    """Every stage's values -> golden.npz."""
    arrays = {
        f"{image}/{stage}/{side}": getattr(values, side)
        for image, stages in golden.items()
        for stage, values in stages.items()
        for side in ("input", "output")
    }
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_golden(path: Path) -> Golden:
    """golden.npz -> every stage's values."""
    with np.load(path, allow_pickle=False) as file:
        images = dict.fromkeys(key.split("/")[0] for key in file.files)
        return {
            image: {
                stage: StageValues(
                    input=file[f"{image}/{stage}/input"], output=file[f"{image}/{stage}/output"]
                )
                for stage in STAGES
            }
            for image in images
        }


RunStage = Callable[[str, Array], Array]  # stage name, its input -> its output; the decoder's before the clip


def compare(
    golden: Golden,
    run: RunStage,
    *,
    precision: Precision,
    backend: str,
    graph_set: str,
    gated: bool = True,
    note: str = "",
) -> list[Row]:
    """Run every stage alone and the whole chain on every golden image. Nothing is raised: see `judge`.

    gated: whether the gates apply, or only that every value is finite.
    """
    outputs: dict[tuple[str, str], Array] = {}
    chained = {image: stages["encoder"].input for image, stages in golden.items()}
    for stage in STAGES:  # stage by stage, so that one need be open at a time
        for image, stages in golden.items():
            outputs[image, stage] = run(stage, stages[stage].input)
            same = stage == STAGES[0]  # both start from the image
            chained[image] = outputs[image, stage] if same else run(stage, chained[image])
    rows = []
    for image, stages in golden.items():
        height, width = stages["encoder"].input.shape[1:3]
        results = {stage: (outputs[image, stage], stages[stage].output) for stage in STAGES}
        results["chain"] = (chained[image], stages["decoder"].output)
        rows += [
            _row(
                *result,
                gate=GATES[precision],
                gated=gated and (precision is Precision.FP32 or not image.startswith(NOISE)),
                graph_set=graph_set,
                stage=stage,
                backend=backend,
                device="cpu",
                image=image,
                grid=f"{height}x{width}",
                note=note,
            )
            for stage, result in results.items()
        ]
    return rows


def compare_camera(
    photos: Mapping[str, tuple[Array, Array]], run: RunStage, *, backend: str, graph_set: str
) -> list[Row]:
    """The camera's graphs against the host's resizing around the reference.

    photos: by name, the picture (uint8 H×W×3) and the depth map to be expected (float32 H×W in [0, 1]).
    """
    rows = []
    for image, (picture, expected) in photos.items():
        value: Array = picture[None]
        for stage in STAGES:
            value = run(stage, value)
        rows.append(
            _row(
                np.clip(value, -1, 1) * 0.5 + 0.5,
                expected[None],
                gate=CAMERA_GATE,
                gated=True,
                graph_set=graph_set,
                stage="chain",
                backend=backend,
                device="cpu",
                image=image,
                grid="{}x{}".format(*picture.shape[:2]),
                note="camera resolution, against the host's resizing; in [0, 1]",
            )
        )
    return rows


def _row(ours: Array, theirs: Array, *, gate: Gate, gated: bool, **where: Any) -> Row:
    finite = bool(np.isfinite(ours).all())
    error = np.abs(ours.astype(np.float64) - theirs) if finite else np.full(1, np.finfo(np.float32).max)
    std = float(theirs.std())
    max_abs, p999, mean_abs = float(error.max()), float(np.quantile(error, 0.999)), float(error.mean())
    found = Gate(max_abs=max_abs, mean_abs=mean_abs, p999=p999 / std, mean=mean_abs / std)
    within = all(
        allowed is None or getattr(found, name) <= allowed
        for name, allowed in dataclasses.asdict(gate).items()
    )
    if not finite:
        where["note"] = NOT_FINITE
    return Row(
        max_abs=max_abs,
        p999=p999,
        mean_abs=mean_abs,
        reference_std=std,
        gated=gated,
        passed=finite and (within or not gated),
        **where,
    )


def judge(rows: list[Row], precision: Precision) -> None:
    """Raises ParityError naming the first stage beyond its gate, and the next thing to try."""
    failed = [row for row in rows if not row.passed]
    if not failed:
        return
    worst = next((row for row in failed if row.stage != "chain"), failed[0])
    if worst.note.startswith(NOT_FINITE):
        found = "gives NaN or infinity"
    else:
        found = (
            f"differs from the checkpoint by max {worst.max_abs:.2g}, mean {worst.mean_abs:.2g}, relative to "
            f"its deviation by {worst.p999 / worst.reference_std:.2g} at the 99.9th percentile and "
            f"{worst.mean_abs / worst.reference_std:.2g} in the mean, beyond {_said(worst.gate(precision))}"
        )
    advice = {
        Precision.FP32: "A fault of the export or the engine: try --leave-out with each fold, and report it.",
        Precision.FP16: "Try --keep-fp32 with the layers at fault, or --precision bf16.",
        Precision.BF16: "Try --keep-fp32 with the layers at fault, or --precision fp16.",
    }[precision]
    raise ParityError(
        f"{worst.graph_set}/{worst.stage} on {worst.image} ({worst.grid}, {worst.backend}) {found}. {advice} "
        "--accept-parity records the override in the manifest."
    )


def _said(gate: Gate) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in dataclasses.asdict(gate).items() if v is not None)

"""Does an engine compute what the checkpoint computes? Golden values, errors, gates; numpy alone.

`golden.npz` keeps "<image>/<stage>/input" and "<image>/<stage>/output", where the decoder's output is
depth_unclipped: errors are taken before the clip, which would hide them. They are judged relative to the
reference's standard deviation (see Gate for the one exception). Each stage is given the reference's input;
"chain" is the whole journey from the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.engine_dir.manifest import STAGES
from fiffdepth_rt.errors import ParityError

Array = npt.NDArray[Any]
RunStage = Callable[[Array], Array]  # a stage's input -> its output; the decoder's before the clip

NOISE = "noise"
CHAIN = "chain"
CONSTANT_BELOW_STD = 1e-4
# Training maps the 2 % and 98 % quantiles to ±1, so honest depth leaves [-1, 1] a little, but not by this.
SATURATED_BEYOND = 1.5
SATURATED_SHARE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """Largest errors allowed; None: reported only.

    max_abs is in the values' own unit, since the one worst pixel of a map is rounding noise that a sharp
    network has made tens of times larger. p999 and mean are relative to the reference's standard deviation.
    """

    max_abs: float | None = None
    p999: float | None = None
    mean: float | None = None


GATES: Mapping[str, Gate] = {  # by what the engine computes in
    "fp32": Gate(max_abs=1e-4, p999=1e-4),
    "fp16": Gate(p999=2e-2, mean=2e-3),
    "bf16": Gate(p999=6e-2, mean=8e-3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageValues:
    """What goes into one stage and what comes out, in the reference."""

    input: Array
    output: Array


Golden = dict[str, dict[str, StageValues]]  # image name -> stage name -> values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """What was compared: a graph set, on a backend and a device, with a batch; note: for the reader."""

    graph_set: str
    backend: str
    device: str
    batch: int = 1
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Where):
    """One comparison, as the manifest keeps it. Errors are absolute; divide by reference_std for the gate."""

    stage: str
    image: str
    grid: str
    max_abs: float
    p999: float
    mean_abs: float
    reference_std: float
    gated: bool
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_golden(path: Path) -> Golden:
    """golden.npz -> every stage's values. Raises ParityError where it cannot be read or lacks some."""
    try:
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
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ParityError(
            f"The golden values in {path} cannot be read ({error}). Export the directory again."
        ) from error


def grid_of(values: Mapping[str, StageValues]) -> tuple[int, int]:
    """(height, width) of the grid that an image's golden values lie on."""
    _, height, width, _ = values["encoder"].input.shape
    return height, width


def of_shape(golden: Golden, shapes: Mapping[str, tuple[int, ...]]) -> Golden:
    """The images whose values fit a journey: each stage's input has the shape given for it, at batch 1."""
    return {
        image: values
        for image, values in golden.items()
        if all(values[stage].input.shape == shape for stage, shape in shapes.items())
    }


def is_photo(image: str) -> bool:
    """Whether a golden image is a photo; noise is what no camera sees, and no gate of half precision."""
    return not image.startswith(NOISE)


def check_reference(golden: Golden) -> None:
    """Raises ParityError where a photo's depth is not finite, constant or saturated: that proves nothing."""
    for image, values in golden.items():
        if not is_photo(image):
            continue
        unclipped = values["decoder"].output
        if not np.isfinite(unclipped).all():
            raise ParityError(
                f"The checkpoint itself gives NaN or infinity on {image}, in fp32: it is broken."
            )
        if unclipped.std() < CONSTANT_BELOW_STD:
            raise ParityError(
                f"The checkpoint's depth of {image} is constant, so agreement proves nothing. Is the model "
                "trained, and is the recipe the right one?"
            )
        share = float((np.abs(unclipped) > SATURATED_BEYOND).mean())
        if share > SATURATED_SHARE:
            raise ParityError(
                f"{share:.1%} of the checkpoint's depth of {image} lie far outside [-1, 1] and will be "
                "clipped, so agreement proves little. Is the model trained, and is the recipe the right one?"
            )


def compare_stage(golden: Golden, stage: str, run: RunStage, where: Where) -> list[Row]:
    """Run one stage on the reference's input of every golden image. Raises nothing: see `judge`."""
    return [
        _row(run(_batch(values[stage].input, where)), values[stage].output, stage, image, values, where)
        for image, values in golden.items()
    ]


def compare_chain(golden: Golden, run: Mapping[str, RunStage], where: Where) -> list[Row]:
    """Run the whole journey from every golden image. run: by stage. Raises nothing: see `judge`.

    All images pass one stage before the next one starts, so that a large model's stages can take turns.
    """
    reached = {image: _batch(values["encoder"].input, where) for image, values in golden.items()}
    for stage in STAGES:
        reached = {image: run[stage](value) for image, value in reached.items()}
    return [
        _row(reached[image], values["decoder"].output, CHAIN, image, values, where)
        for image, values in golden.items()
    ]


def judge(rows: Sequence[Row], *, advice: str) -> None:
    """Raises ParityError that names the first stage beyond its gate, and `advice`."""
    failed = [row for row in rows if not row.passed]
    if not failed:
        return
    worst = next((row for row in failed if row.stage != CHAIN), failed[0])
    if worst.note == NOT_FINITE:
        what = "gives NaN or infinity"
    else:
        allowed = _said(gate_of(worst.graph_set))
        what = (
            f"differs from the checkpoint by max {worst.max_abs:.2g}, and relative to its deviation by "
            f"{worst.p999 / worst.reference_std:.2g} at the 99.9th percentile and "
            f"{worst.mean_abs / worst.reference_std:.2g} in the mean, beyond {allowed}"
        )
    raise ParityError(
        f"{worst.graph_set}/{worst.stage} on {worst.image} ({worst.grid}, {worst.backend}) {what}. {advice}"
    )


NOT_FINITE = "NaN or infinity"


def gate_of(graph_set: str) -> Gate:
    """The gate of a graph set: "fp16-trt8.5" is judged as fp16."""
    return GATES[graph_set.partition("-")[0]]


def _batch(value: Array, where: Where) -> Array:
    return np.repeat(value, where.batch, axis=0)


def _row(
    ours: Array, theirs: Array, stage: str, image: str, values: Mapping[str, StageValues], where: Where
) -> Row:
    gate = gate_of(where.graph_set)
    gated = where.graph_set.startswith("fp32") or is_photo(image)
    finite = bool(np.isfinite(ours).all())
    error = np.abs(ours.astype(np.float64) - theirs) if finite else np.full(1, np.finfo(np.float32).max)
    std = max(float(theirs.std()), 1e-12)  # a constant noise reference is no reason to divide by 0
    max_abs, p999, mean_abs = float(error.max()), float(np.quantile(error, 0.999)), float(error.mean())
    found = {"max_abs": max_abs, "p999": p999 / std, "mean": mean_abs / std}
    within = all(
        allowed is None or found[name] <= allowed for name, allowed in dataclasses.asdict(gate).items()
    )
    height, width = grid_of(values)
    return Row(
        **{**dataclasses.asdict(where), "note": where.note if finite else NOT_FINITE},
        stage=stage,
        image=image,
        grid=f"{height}x{width}",
        max_abs=max_abs,
        p999=p999,
        mean_abs=mean_abs,
        reference_std=std,
        gated=gated,
        passed=finite and (within or not gated),
    )


def _said(gate: Gate) -> str:
    return ", ".join(
        f"{name} {value:g}" for name, value in dataclasses.asdict(gate).items() if value is not None
    )

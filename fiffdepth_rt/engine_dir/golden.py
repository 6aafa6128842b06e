"""Does an engine compute what the checkpoint computes? Golden values, errors, gates; numpy alone.

`golden.npz` keeps "<image>/<stage>/input" and "<image>/<stage>/output", computed in fp64, where the decoder's
output is depth_unclipped: errors are taken before the clip, which would hide them. Each stage is given the
reference's input; "chain" is the whole journey from the image.

An error is allowed up to the larger of two limits: a constant of the precision (GATES), and ROUNDING_MULTIPLE
times the error that torch itself makes in fp32, by rounding alone, on the same values. That error is kept as
"<image>/<stage or chain>/rounding" (max_abs, p999, mean_abs). Golden files of exports before it was measured
hold a reference in fp32 and no rounding; there the constants alone are the limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
ROUNDING_MULTIPLE = 8.0
"""Engines sum in another order and multiply convolutions in other tiles than torch: on sound models their
errors were 0.06 to 4 times torch's rounding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """Largest errors allowed; None: reported only.

    max_abs is in the values' own unit, since the one worst pixel of a map is rounding noise that a sharp
    network has made tens of times larger. p999 and mean are relative to the reference's standard deviation.
    For fp32 these are floors, below which nobody sees an error. For fp16 and bf16 they say what is still
    usable depth: a model that half precision takes further has to keep layers in fp32. They are not measured,
    since torch computes half precision on a CPU many times more slowly than fp32.
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
class Errors:
    """How far values lie from the reference, absolute, in the values' own unit."""

    max_abs: float
    p999: float
    mean_abs: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageValues:
    """What goes into one stage, or into the chain, and what comes out, in the reference.

    rounding: the errors of torch in fp32 on the same input; None where the export has not measured them.
    """

    input: Array
    output: Array
    rounding: Errors | None = None


Golden = dict[str, dict[str, StageValues]]  # image name -> stage name, or CHAIN -> values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """What was compared: a graph set, on a backend and a device, with a batch; note: for the reader."""

    graph_set: str
    backend: str
    device: str
    batch: int = 1
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow(Where):
    """One comparison, as the manifest keeps it. Errors are absolute; divide by reference_std for the gate.

    rounding_*: torch's own errors in fp32 on the same values, None where they were not measured.
    """

    stage: str
    image: str
    grid: str
    max_abs: float
    p999: float
    mean_abs: float
    reference_std: float
    gated: bool
    passed: bool
    rounding_max_abs: float | None = None
    rounding_p999: float | None = None
    rounding_mean_abs: float | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def with_chain(stages: Mapping[str, StageValues], rounding: Errors | None) -> dict[str, StageValues]:
    """The stages of one image -> the same and the chain, from the encoder's input to the decoder's output."""
    chain = StageValues(input=stages[STAGES[0]].input, output=stages[STAGES[-1]].output, rounding=rounding)
    return {**stages, CHAIN: chain}


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
    """Raises ParityError where a photo's depth is not finite, constant, saturated, or rounding for the most.

    Agreement would prove nothing there.
    """
    for image, values in golden.items():
        if not is_photo(image):
            continue
        unclipped, rounding = values[CHAIN].output, values[CHAIN].rounding
        if not np.isfinite(unclipped).all():
            raise ParityError(f"The checkpoint itself gives NaN or infinity on {image}: it is broken.")
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
        most = GATES["fp16"].p999
        if rounding is not None and not (share := rounding.p999 / unclipped.std()) <= most:
            raise ParityError(
                f"Rounding alone moves the checkpoint's depth of {image}, in fp32, by {share:.2g} of its "
                f"deviation, more than fp16 is allowed ({most:g}), so agreement proves little. Is the model "
                "trained, and is the recipe the right one?"
            )


def compare_stage(golden: Golden, stage: str, run: RunStage, where: Where) -> list[ParityRow]:
    """Run one stage on the reference's input of every golden image. Raises nothing: see `judge`."""
    return [
        _row(run(_batch(values[stage].input, where)), values[stage], stage, image, grid_of(values), where)
        for image, values in golden.items()
    ]


def compare_chain(golden: Golden, run: Mapping[str, RunStage], where: Where) -> list[ParityRow]:
    """Run the whole journey from every golden image. run: by stage. Raises nothing: see `judge`.

    All images pass one stage before the next one starts, so that a large model's stages can take turns.
    """
    reached = {image: _batch(values[CHAIN].input, where) for image, values in golden.items()}
    for stage in STAGES:
        reached = {image: run[stage](value) for image, value in reached.items()}
    return [
        _row(reached[image], values[CHAIN], CHAIN, image, grid_of(values), where)
        for image, values in golden.items()
    ]


def judge(rows: Sequence[ParityRow], *, advice: str) -> None:
    """Raises ParityError that names the first stage beyond its gate, and `advice`."""
    failed = [row for row in rows if not row.passed]
    if not failed:
        return
    worst = next((row for row in failed if row.stage != CHAIN), failed[0])
    if worst.note == NOT_FINITE:
        what = "gives NaN or infinity"
    else:
        allowed = _said(_gate_of_row(worst))
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


def errors_of(ours: Array, reference: Array) -> Errors:
    """Values and their reference, both finite -> how far apart they lie."""
    error = np.abs(ours.astype(np.float64) - reference)
    return Errors(
        max_abs=float(error.max()), p999=float(np.quantile(error, 0.999)), mean_abs=float(error.mean())
    )


def _row(
    ours: Array, values: StageValues, stage: str, image: str, grid: tuple[int, int], where: Where
) -> ParityRow:
    finite = bool(np.isfinite(ours).all())
    most = float(np.finfo(np.float32).max)
    errors = errors_of(ours, values.output) if finite else Errors(max_abs=most, p999=most, mean_abs=most)
    rounding = {} if values.rounding is None else dataclasses.asdict(values.rounding)
    row = ParityRow(
        **{**dataclasses.asdict(where), "note": where.note if finite else NOT_FINITE},
        stage=stage,
        image=image,
        grid="{}x{}".format(*grid),
        **dataclasses.asdict(errors),
        # a constant noise reference is no reason to divide by 0
        reference_std=max(float(values.output.std()), 1e-12),
        gated=where.graph_set.startswith("fp32") or is_photo(image),
        passed=finite,
        **{f"rounding_{name}": value for name, value in rounding.items()},
    )
    return dataclasses.replace(row, passed=finite and (not row.gated or _within(row)))


def _within(row: ParityRow) -> bool:
    gate, std = _gate_of_row(row), row.reference_std
    found = {"max_abs": row.max_abs, "p999": row.p999 / std, "mean": row.mean_abs / std}
    return all(
        allowed is None or found[name] <= allowed for name, allowed in dataclasses.asdict(gate).items()
    )


def _gate_of_row(row: ParityRow) -> Gate:
    """The gate of the row's precision, or what torch's rounding in fp32 allows where that is more."""
    gate, std = gate_of(row.graph_set), row.reference_std

    def wider(floor: float | None, rounding: float | None, unit: float) -> float | None:
        if floor is None or rounding is None:
            return floor
        return max(floor, ROUNDING_MULTIPLE * rounding / unit)

    return Gate(
        max_abs=wider(gate.max_abs, row.rounding_max_abs, 1.0),
        p999=wider(gate.p999, row.rounding_p999, std),
        mean=wider(gate.mean, row.rounding_mean_abs, std),
    )


def _said(gate: Gate) -> str:
    return ", ".join(
        f"{name} {value:.2g}" for name, value in dataclasses.asdict(gate).items() if value is not None
    )

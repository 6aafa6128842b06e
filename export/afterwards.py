"""What this machine adds to an export: OpenVINO's parity in bf16, memory, and plans, or how to build them.

None of it decides whether the export is whole: what this machine cannot do is said on the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from export.onnx_graphs import GraphForm
from export.precision import Precision
from fiffdepth_rt.backends.onnxruntime import backend as onnxruntime
from fiffdepth_rt.backends.openvino import backend as openvino
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import Finished, build_plans
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX, Flavour
from fiffdepth_rt.backends.tensorrt.jobs import Request
from fiffdepth_rt.errors import BackendError, BackendUnavailableError, BuildError, ParityError
from fiffdepth_rt.memory import record_memory
from fiffdepth_rt.verify import record_parity

log = logging.getLogger("fiffdepth_export")


def check_bf16_here(directory: Path, forms: Iterable[GraphForm]) -> None:
    """A row of the parity table for OpenVINO, where it computes bf16 sets: the gates above judged torch."""
    for form in forms:
        if form.precision is not Precision.BF16 or form.camera_hw is not None:
            continue
        if not openvino.computes_bf16():
            log.info("OpenVINO computes no bf16 here. Where it does: fiffdepth verify DIR")
            return
        try:
            record_parity(directory, backend=openvino.NAME, precision=form.name)
        except ParityError as e:
            log.warning("OpenVINO on this machine: %s", e)


def measure_memory_here(directory: Path, forms: Iterable[GraphForm]) -> None:
    """Records of what ONNX Runtime takes for each graph set, by which a machine without room refuses it."""
    for form in forms:
        if form.precision is Precision.BF16:
            continue
        log.info("measuring the memory that %s takes on ONNX Runtime: four depth maps", form.name)
        try:
            records = record_memory(directory, backend=onnxruntime.NAME, precision=form.name)
        except BackendError as e:
            log.warning("%s", e)
            continue
        for record in records:
            most = max(record.opening_bytes, record.opened_bytes + record.computing_bytes)
            log.info("memory of %s at %sx%s: %.0f MB", form.name, *record.grid, most / 1e6)


def build_plans_here(
    directory: Path, forms: Iterable[GraphForm], *, command: str, compute_capability: str | None = None
) -> None:
    """Finished engine directory -> the same with plans of `forms`, or the commands to type, on the log.

    compute_capability: of the cards that TensorRT for RTX builds for alone; None: Ampere and newer.
    A graph set that a library cannot build leaves the others their plans. What cannot be built here is no
    failure: TensorRT's plans belong to the machine that runs them, and TensorRT for RTX may not be installed.
    """
    deployed = forms_to_deploy(forms)
    for flavour in (TENSORRT_RTX, TENSORRT):
        capability = compute_capability if flavour.portable else None
        if (why_not := _why_not_here(flavour)) is None:
            _build(directory, deployed, flavour, capability, command=command)
        else:
            to_type = build_commands(directory, deployed, flavour, capability)
            commands = "".join(f"\n  {line}" for line in to_type)
            where = "after its installation" if flavour.portable else "on the machine that will run them"
            log.info(
                "%s plans are still to be built, %s (not here: %s):%s",
                *(flavour.title, where, why_not, commands),
            )


def _why_not_here(flavour: Flavour) -> str | None:
    """Why plans of this flavour cannot be built on this machine; None where they can."""
    if flavour.portable:
        try:
            here.require_builder(flavour)
        except BackendUnavailableError as e:
            return str(e)
        return None
    usability = here.usable(flavour)
    return None if usability.usable else usability.why


def _build(
    directory: Path, deployed: list[GraphForm], flavour: Flavour, capability: str | None, *, command: str
) -> None:
    for form in deployed:
        request = Request(
            flavour=flavour,
            precision=form.name,
            grids=() if form.grid_hw is None else (form.grid_hw,),
            compute_capability=capability,
            command=command,
        )
        try:
            build_plans(directory, request, on_finished=_say)
        except BuildError as e:
            log.warning("No %s plans of %s: %s", flavour.title, form.name, e)


def _say(finished: Finished) -> None:
    state = "" if finished.record.checked else ", not yet run on a GPU"
    log.info("%s: built in %.0f s%s", finished.record.file, finished.seconds, state)


def forms_to_deploy(forms: Iterable[GraphForm]) -> list[GraphForm]:
    """Those that TensorRT runs. fp32 is the reference, not something to deploy: only where nothing else is.

    Graphs for a camera are left out: they have no golden values that a plan could be checked on.
    """
    runnable = [form for form in forms if form.camera_hw is None]
    return [form for form in runnable if form.precision is not Precision.FP32] or runnable


def build_commands(
    directory: Path,
    deployed: list[GraphForm],
    flavour: Flavour = TENSORRT,
    compute_capability: str | None = None,
) -> list[str]:
    """What to type for each form; with one form of any grid, `fiffdepth build DIR` finds it by itself."""
    plain = f"fiffdepth build {directory}{' --flavour rtx' if flavour.portable else ''}"
    if compute_capability is not None:
        plain += f" --compute-capability {compute_capability}"
    if len(deployed) == 1 and deployed[0].grid_hw is None:
        return [plain]
    return [
        f"{plain} --precision {form.name}"
        + ("" if form.grid_hw is None else " --grid {}x{}".format(*form.grid_hw))
        for form in deployed
    ]

"""TensorRT plans after an export: built here, or the commands that build them on the target machine."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from export.onnx_graphs import GraphForm
from export.precision import Precision
from fiffdepth_rt.backends.tensorrt import here as tensorrt
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.jobs import Request
from fiffdepth_rt.errors import BuildError

log = logging.getLogger("fiffdepth_export")


def build_plans_here(directory: Path, forms: Iterable[GraphForm], *, command: str) -> None:
    """Finished engine directory -> the same with plans of `forms`, or the commands to type, on the log.

    A graph set that this TensorRT cannot read leaves the others their plans. Without TensorRT or a GPU
    nothing is built, and that is no failure: plans belong to the machine that runs them.
    """
    deployed = forms_to_deploy(forms)
    usability = tensorrt.usable()
    if not usability.usable:
        commands = "".join(f"\n  {line}" for line in build_commands(directory, deployed))
        log.info(
            "TensorRT plans are still to be built, on the machine that will run them (not here: %s):%s",
            usability.why,
            commands,
        )
        return
    for form in deployed:
        grids = () if form.grid_hw is None else (form.grid_hw,)
        try:
            build_plans(directory, Request(precision=form.name, grids=grids, command=command))
        except BuildError as e:
            log.warning("No plans of %s: %s", form.name, e)


def forms_to_deploy(forms: Iterable[GraphForm]) -> list[GraphForm]:
    """Those that TensorRT runs. fp32 is the reference, not something to deploy: only where nothing else is.

    Graphs for a camera are left out: they have no golden values that a plan could be checked on.
    """
    runnable = [form for form in forms if form.camera_hw is None]
    return [form for form in runnable if form.precision is not Precision.FP32] or runnable


def build_commands(directory: Path, deployed: list[GraphForm]) -> list[str]:
    """What to type for each form; with one form of any grid, `fiffdepth build DIR` finds it by itself."""
    plain = f"fiffdepth build {directory}"
    if len(deployed) == 1 and deployed[0].grid_hw is None:
        return [plain]
    return [
        f"{plain} --precision {form.name}"
        + ("" if form.grid_hw is None else " --grid {}x{}".format(*form.grid_hw))
        for form in deployed
    ]

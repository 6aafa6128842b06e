"""Which of a directory's plans run here, and what they take together. Only values: no TensorRT, no GPU."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fiffdepth_rt.backends.tensorrt.versions import (
    Target,
    check_fits,
    graph_digest,
    parse_version,
    rebuild_command,
)
from fiffdepth_rt.engine_dir.manifest import STAGES, Manifest, PlanProfile, PlanRecord
from fiffdepth_rt.errors import BackendUnavailableError, DriverError, PlanMismatchError

# The CUDA that the wheels of a TensorRT need, by its major version. Jetsons have none but JetPack's.
_CUDA_OF_WHEELS = {11: 13}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """One shape that photos can take through all three stages. plans: by stage."""

    precision: str
    profile: PlanProfile
    plans: Mapping[str, PlanRecord]


def check_tensorrt_driver(tensorrt_version: str, driver_cuda: str) -> None:
    """Raises DriverError unless the driver is new enough for this TensorRT. driver_cuda: such as "12.4"."""
    needed = _CUDA_OF_WHEELS.get(parse_version(tensorrt_version)[0])
    if needed is not None and int(driver_cuda.partition(".")[0]) < needed:
        raise DriverError(
            f"The NVIDIA driver is too old: it serves CUDA up to {driver_cuda}, and TensorRT "
            f"{tensorrt_version} is for CUDA {needed}. Update the driver, or run: "
            f"pip install 'tensorrt<{parse_version(tensorrt_version)[0]}'"
        )


def lanes(manifest: Manifest, precisions: Sequence[str], target: Target, directory: Path) -> tuple[Lane, ...]:
    """The shapes that the plans of these graph sets take here, in the order in which they were built.

    Raises PlanMismatchError (PlanVersionError, PlanGpuError) where there are plans, and none is for `target`;
    BackendUnavailableError where there are none, or no shape has one for every stage.
    """
    listed = [plan for plan in manifest.plans if plan.precision in precisions]
    fitting, misfits = [], list[PlanMismatchError]()
    for plan in listed:
        try:
            check_fits(plan, target, directory)
            _check_graph(plan, manifest, directory)
        except PlanMismatchError as misfit:
            misfits.append(misfit)
        else:
            fitting.append(plan)
    found = tuple(_complete(fitting))
    if found:
        return found
    if fitting or not listed:
        what = "plans for some stages only" if fitting else "no TensorRT plans"
        raise BackendUnavailableError(
            f"{directory} holds {what} of {', '.join(precisions)}. Run: fiffdepth build {directory} "
            f"--precision {precisions[0]}"
        )
    raise misfits[0]


def ready_sets(manifest: Manifest, target: Target, directory: Path) -> tuple[str, ...]:
    """The graph sets with plans that run here."""
    ready = []
    for precision in manifest.graph_sets:
        try:
            lanes(manifest, (precision,), target, directory)
        except (PlanMismatchError, BackendUnavailableError):
            continue
        ready.append(precision)
    return tuple(ready)


def _complete(plans: Sequence[PlanRecord]) -> Iterable[Lane]:
    """Of several plans for a shape: this GPU's own before one for its whole capability, then the newest."""
    ranked = sorted(enumerate(plans), key=lambda one: (one[1].hardware_compatibility == "none", one[0]))
    best = {(plan.precision, profile, plan.stage): plan for _, plan in ranked for profile in plan.profiles}
    shapes = dict.fromkeys((plan.precision, profile) for plan in plans for profile in plan.profiles)
    for precision, profile in shapes:
        chosen = {
            stage: best[precision, profile, stage] for stage in STAGES if (precision, profile, stage) in best
        }
        if len(chosen) == len(STAGES):
            yield Lane(precision=precision, profile=profile, plans=chosen)


def _check_graph(plan: PlanRecord, manifest: Manifest, directory: Path) -> None:
    if plan.graph_sha256 != graph_digest(manifest, plan.precision, plan.stage):
        raise PlanMismatchError(
            f"{plan.file} was built from other graphs than those in {directory}. "
            f"Run: {rebuild_command(plan, directory)}"
        )


# --- what TensorRT's log says about memory ---


def says_no_memory(lines: Iterable[str]) -> bool:
    """Whether TensorRT's log tells of memory that is not there."""
    return any(_NO_MEMORY.search(line) for line in lines)


def requested_bytes(lines: Iterable[str]) -> int | None:
    """How much TensorRT asked for, the largest number that its log names; None where it names none."""
    found = [int(match[1]) for line in lines for match in _REQUESTED.finditer(line)]
    return max(found, default=None)


_NO_MEMORY = re.compile(r"out ?of ?memory|MemoryAllocation|bad_alloc|could not be allocated", re.I)
_REQUESTED = re.compile(r"requested [^.\n]*?(\d+) bytes", re.I)

"""Which of a directory's plans run on this GPU with this TensorRT, and which shapes have one for every stage.

Only values: no TensorRT, no GPU and no disk is touched here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX, Version
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.jobs import graph_digest
from fiffdepth_rt.backends.tensorrt.versions import (
    AMPERE,
    SAME_CAPABILITY_SINCE,
    TURING,
    Release,
    parse_version,
    release_of,
)
from fiffdepth_rt.engine_dir.manifest import STAGES, Manifest, PlanProfile, PlanRecord
from fiffdepth_rt.errors import BackendUnavailableError, PlanGpuError, PlanMismatchError, PlanVersionError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """A shape of images that has a plan for all three stages. plans: by stage."""

    precision: str
    profile: PlanProfile
    plans: Mapping[str, PlanRecord]


def lanes(manifest: Manifest, precisions: Sequence[str], target: Target, directory: Path) -> tuple[Lane, ...]:
    """The lanes of these graph sets on `target`, in the order in which their plans were built.

    Raises PlanMismatchError (PlanVersionError, PlanGpuError) where the directory holds plans and none of them
    is for `target`; BackendUnavailableError where it holds none, or no shape has a plan for every stage.
    """
    name = target.flavour.name
    listed = [plan for plan in manifest.plans if plan.precision in precisions and plan.flavour == name]
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
        what = "plans for some stages only" if fitting else f"no {target.flavour.title} plans"
        for_turing = " --compute-capability 7.5" if target.compute_capability == TURING else ""
        rtx = f" --flavour rtx{for_turing}" if target.flavour.portable else ""
        raise BackendUnavailableError(
            f"{directory} holds {what} of {', '.join(precisions)}. Run: fiffdepth build {directory} "
            f"--precision {precisions[0]}{rtx}"
        )
    raise misfits[0]


def ready_sets(manifest: Manifest, target: Target, directory: Path) -> tuple[str, ...]:
    """The graph sets that have a lane on `target`."""
    ready = []
    for precision in manifest.graph_sets:
        try:
            lanes(manifest, (precision,), target, directory)
        except (PlanMismatchError, BackendUnavailableError):
            continue
        ready.append(precision)
    return tuple(ready)


_BREADTH = ("none", "same_compute_capability", "ampere_plus")


def _complete(plans: Sequence[PlanRecord]) -> Iterable[Lane]:
    """Plans -> lanes.

    Where several plans serve a stage of a shape, a plan for this GPU alone comes before one for every GPU of
    its compute capability, such a plan before one for newer GPUs too, and a newer plan before an older one.
    """
    ranked = sorted(
        enumerate(plans), key=lambda one: (-_BREADTH.index(one[1].hardware_compatibility), one[0])
    )
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


def check_fits(plan: PlanRecord, target: Target, directory: Path) -> None:
    """Raises PlanVersionError or PlanGpuError, with what fixes it, unless the plan may run on `target`."""
    if _lock(release_of(plan)) != _lock(target.release):
        raise PlanVersionError(
            f"{plan.file} was built by {release_of(plan)}; this machine has "
            f"{target.tensorrt_version}. Run: {rebuild_command(plan, directory)}   "
            f"(or install {release_of(plan)})"
        )
    if plan.hardware_compatibility == "ampere_plus":
        if parse_version(target.compute_capability) < parse_version(AMPERE):
            raise PlanGpuError(
                f"{plan.file} is for GPUs of compute capability {AMPERE} (Ampere) and newer; this machine "
                f"has {target.gpu_name}, of {target.compute_capability}. For {TURING} (Turing), run: "
                f"{rebuild_command(plan, directory)} --compute-capability {TURING}   "
                "(older GPUs are none of TensorRT for RTX's)"
            )
        return
    if plan.compute_capability != target.compute_capability:
        built = "for GPUs" if plan.gpu_name is None else f"on {plan.gpu_name},"
        raise PlanGpuError(
            f"{plan.file} was built {built} of compute capability {plan.compute_capability}; "
            f"this machine has {target.gpu_name}, of {target.compute_capability}. "
            f"Run: {rebuild_command(plan, directory)}"
        )
    if plan.gpu_name != target.gpu_name and plan.hardware_compatibility == "none":
        share = (
            "; with --hardware-compatible, a plan is for every GPU of its compute capability"
            if parse_version(plan.tensorrt_version) >= SAME_CAPABILITY_SINCE
            else ""
        )
        raise PlanGpuError(
            f"{plan.file} was built for {plan.gpu_name} only; this machine has {target.gpu_name}. "
            f"Run: {rebuild_command(plan, directory)}   (here{share})"
        )


def _lock(release: Release) -> Version:
    """The part of a version that plan and machine must share: all of TensorRT's, 1.x.y of 1.x.y.z for RTX."""
    return release.version[:3] if release.flavour.portable else release.version


def rebuild_command(plan: PlanRecord, directory: Path) -> str:
    """The command that makes such a plan anew, on the machine where it is run."""
    grids = dict.fromkeys(f"--grid {profile.grid[0]}x{profile.grid[1]}" for profile in plan.profiles)
    batches = dict.fromkeys(f"--batch {profile.batch}" for profile in plan.profiles)
    rtx = " --flavour rtx" if plan.flavour == TENSORRT_RTX.name else ""
    words = [f"fiffdepth build {directory} --precision {plan.precision}{rtx}", *grids]
    return " ".join(words + ([] if list(batches) == ["--batch 1"] else list(batches)))

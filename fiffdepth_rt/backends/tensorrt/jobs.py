"""Which plans are to be built: a request and a manifest -> jobs, with names and digests. Only values.

    plans/<stage>.<precision>.<gpu>.trt<version>.plan               one profile per grid and batch
    plans/<stage>.<precision>.<gpu>.trt<version>.<h>x<w>b<n>.plan   a static one, for one grid and batch
    plans/<stage>.<precision>.sm80plus.trtrtx<version>.plan         of TensorRT for RTX, for Ampere and newer

<gpu> is the GPU's name and compute capability, or "any-sm89" where every GPU of that capability will do.
No TensorRT, no GPU and no disk is touched here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from fiffdepth_rt.backends.grids import is_possible, own_grid, tensor_shape
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, Flavour, Version
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.versions import (
    AMPERE,
    OPT_LEVEL_SINCE,
    RTX_CAPABILITIES,
    SAME_CAPABILITY_SINCE,
    STRIP_PLAN_SINCE,
    TURING,
    Release,
    max_opset,
    parse_version,
    show_version,
    takes,
)
from fiffdepth_rt.engine_dir.manifest import STAGES, GraphSet, Manifest, PlanProfile, PlanRecord, Stage
from fiffdepth_rt.errors import BuildError, SizeError

OPTIMIZATION_LEVELS = range(6)
NUMBER_FORMATS = ("fp16", "bf16", "fp32")  # best first, where nobody says which precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to build, as `fiffdepth build` was asked.

    flavour: the library that builds. compute_capability: of the GPUs to build for, for TensorRT for RTX; None
    for Ampere (8.0) and newer.
    grids: (height, width) in px; empty for a square of the model's default size.
    batches: each goes with each grid.
    precision: a graph set; None for the first of NUMBER_FORMATS that TensorRT can read here.
    static: a plan for each grid and batch, instead of one plan with a profile for each.
    opt_level: 0 to 5, more is slower to build. workspace_mib: MiB of scratch memory. None: TensorRT's choice.
    strip_plan: leave the weights out of the plan.
    hardware_compatible: build for every GPU of this compute capability.
    command: what was typed, for the manifest.
    """

    flavour: Flavour = TENSORRT
    compute_capability: str | None = None
    grids: tuple[tuple[int, int], ...] = ()
    batches: tuple[int, ...] = (1,)
    precision: str | None = None
    static: bool = False
    opt_level: int | None = None
    workspace_mib: int | None = None
    strip_plan: bool = False
    hardware_compatible: bool = False
    command: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanJob:
    """One plan to build.

    record: what the manifest will say of the plan. graph: the ONNX file. stage: the graph's tensors.
    """

    record: PlanRecord
    graph: Path
    stage: Stage


def check_options(release: Release, request: Request) -> None:
    """Raises BuildError for an option that this release does not have, or a value that none has."""
    if request.workspace_mib is not None and request.workspace_mib < 1:
        raise BuildError(f"--workspace {request.workspace_mib} is no memory: say MiB, 1 or more.")
    if release.flavour.portable:
        _check_portable_options(release, request)
    else:
        _check_own_options(release, request)


def _check_portable_options(release: Release, request: Request) -> None:
    why = {
        "--opt-level": (
            request.opt_level is not None,
            "ignores it: kernels are compiled where a plan is opened",
        ),
        "--hardware-compatible": (
            request.hardware_compatible,
            "needs no such thing: its plans are for Ampere and newer, or for one --compute-capability",
        ),
        "--strip-plan": (request.strip_plan, "strips plans on a GPU only, and builds without one"),
    }
    for option, (asked, reason) in why.items():
        if asked:
            raise BuildError(f"{option} is for TensorRT; {release} {reason}. Leave it out.")
    capability = request.compute_capability
    if capability is not None and capability not in RTX_CAPABILITIES:
        raise BuildError(
            f"{release} does not build for compute capability {capability}: say one of "
            f"{', '.join(RTX_CAPABILITIES)}, or leave --compute-capability out, for Ampere and newer."
        )


def _check_own_options(release: Release, request: Request) -> None:
    version = release.version
    if request.compute_capability is not None:
        raise BuildError(
            f"{release} builds for the GPU that it runs on, and no other. Leave --compute-capability out, or "
            "say --flavour rtx."
        )
    if request.opt_level is not None and request.opt_level not in OPTIMIZATION_LEVELS:
        raise BuildError(f"--opt-level {request.opt_level} does not exist: say 0 to 5.")
    if request.opt_level is not None and version < OPT_LEVEL_SINCE:
        raise _absent(version, "--opt-level", OPT_LEVEL_SINCE, "Leave it out")
    if request.strip_plan and version < STRIP_PLAN_SINCE:
        raise _absent(
            version, "--strip-plan", STRIP_PLAN_SINCE, "Leave it out; the plan then holds the weights"
        )
    if request.hardware_compatible and version < SAME_CAPABILITY_SINCE:
        raise _absent(
            version,
            "--hardware-compatible",
            SAME_CAPABILITY_SINCE,
            "Run `fiffdepth build` without it on each GPU model; their plans can share one directory",
        )


def _absent(version: Version, option: str, since: Version, instead: str) -> BuildError:
    return BuildError(
        f"{option} needs TensorRT {show_version(since)} or newer; here is {show_version(version)}. {instead}."
    )


# --- graph sets ---


def number_format(precision: str) -> str:
    """A graph set's name -> the number format that it computes in: "fp16-trt8.5" -> "fp16"."""
    return precision.partition("-")[0]


def check_exported(
    manifest: Manifest, precision: str | None, directory: Path, flavour: Flavour = TENSORRT
) -> None:
    """Raises BuildError, with the export command, unless the graph set is there and is for the flavour."""
    for_tensorrt = [name for name, graphs in manifest.graph_sets.items() if takes(graphs, flavour)]
    if precision in for_tensorrt or (precision is None and for_tensorrt):
        return
    wanted = precision or NUMBER_FORMATS[0]
    there = ", ".join(sorted(for_tensorrt)) or "none for TensorRT"
    raise BuildError(
        f"The graph set {wanted} was not exported for TensorRT; {directory} holds {there}. Where the "
        f"checkpoint is, run: python -m export.build_engines CHECKPOINT -o {directory} --precision {wanted}"
    )


def choose_precision(
    manifest: Manifest,
    precision: str | None,
    release: Release,
    directory: Path,
    compute_capability: str | None = None,
) -> str:
    """The graph set to build. Raises BuildError, with the export command.

    compute_capability: what was asked for; for Turing, only fp16 will do.
    """
    check_exported(manifest, precision, directory, release.flavour)
    turing = compute_capability == TURING
    if precision is not None:
        number = number_format(precision)
        if turing and number != "fp16":
            raise BuildError(
                f"{release} computes no {number} on GPUs of compute capability {TURING} (Turing): "
                f"{_NOT_ON_TURING[number]}. Build --precision fp16 for them."
            )
        return precision
    readable = {
        name: graphs
        for name, graphs in manifest.graph_sets.items()
        if graphs.opset <= max_opset(release) and (number_format(name) == "fp16" or not turing)
    }
    if not readable:
        raise BuildError(
            f"{release} reads ONNX up to opset {max_opset(release)}, and no graph set of {directory} is as "
            f"old{' and in fp16, as Turing needs' if turing else ''}. Where the checkpoint is, run: "
            f"python -m export.build_engines CHECKPOINT -o {directory} "
            f"{'--precision fp16' if release.flavour.portable else '--target trt8.5'}"
        )
    return min(readable, key=lambda name: (_rank(name), -readable[name].opset, name))


_NOT_ON_TURING = {
    "bf16": "it came with Ampere",
    "fp32": "the library has no fp32 product of matrices for them",
}


def _rank(precision: str) -> int:
    name = number_format(precision)
    return NUMBER_FORMATS.index(name) if name in NUMBER_FORMATS else len(NUMBER_FORMATS)


def graph_digest(manifest: Manifest, precision: str, stage: str) -> str:
    """SHA-256 over the hashes of a stage's graph and of the files its weights lie in."""
    used = manifest.graph_sets[precision].stages[stage]
    hashes = [manifest.files[name].sha256 for name in (used.file, *used.external_data)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


# --- profiles ---


def choose_profiles(
    request: Request, manifest: Manifest, graphs: GraphSet, photo_grids: Sequence[tuple[int, int]]
) -> tuple[PlanProfile, ...]:
    """One profile for each grid and batch, in the order of the request.

    photo_grids: the grids of the golden photos. If none of these grids was asked for, the first that the
    graphs take is added with batch 1: a plan that was never compared on a photo is not worth listing.

    Raises SizeError for a grid or batch that the graphs do not take.
    """
    grids = request.grids or (_default_grid(manifest, graphs),)
    profiles = [PlanProfile(grid=grid, batch=batch) for grid in grids for batch in request.batches]
    for profile in profiles:
        check_profile(profile, manifest, graphs)
    if not set(photo_grids) & set(grids):
        extra = [PlanProfile(grid=grid, batch=1) for grid in photo_grids]
        profiles += [profile for profile in extra if _takes(profile, manifest, graphs)][:1]
    return tuple(dict.fromkeys(profiles))


def check_profile(profile: PlanProfile, manifest: Manifest, graphs: GraphSet) -> None:
    """Raises SizeError unless every stage of `graphs` takes the profile."""
    height, width = profile.grid
    if own_grid(graphs) is None and not is_possible(profile.grid, manifest.size):
        raise SizeError(
            f"A plan for {height}x{width} is not possible: {manifest.name} takes sides in multiples of "
            f"{manifest.size.multiple}, up to {manifest.size.max}."
        )
    if profile.batch < 1:
        raise SizeError(f"A plan for a batch of {profile.batch} is not possible: say 1 or more.")
    image = graphs.stages["encoder"].inputs[0]
    if tensor_shape(image, profile.grid, profile.batch) != (profile.batch, height, width, 3):
        fixed = "×".join(map(str, image.shape))
        raise SizeError(
            f"These graphs were exported for images of {fixed}, not for a batch of {profile.batch} at "
            f"{height}x{width}. Build what they are for, or export other ones."
        )


def find_profile(job: PlanJob, shape: Sequence[int]) -> int:
    """The index of the plan's profile that takes an input of this shape. Raises SizeError if none does."""
    taken = [
        tensor_shape(job.stage.inputs[0], profile.grid, profile.batch) for profile in job.record.profiles
    ]
    if tuple(shape) not in taken:
        there = ", ".join("×".join(map(str, one)) for one in taken)
        raise SizeError(
            f"{job.record.file} takes inputs of {there}, not {'×'.join(map(str, shape))}. "
            "Run `fiffdepth build` with the --grid and --batch that are needed."
        )
    return taken.index(tuple(shape))


def _takes(profile: PlanProfile, manifest: Manifest, graphs: GraphSet) -> bool:
    try:
        check_profile(profile, manifest, graphs)
    except SizeError:
        return False
    return True


def _default_grid(manifest: Manifest, graphs: GraphSet) -> tuple[int, int]:
    """The only grid of fixed graphs; else a square of the default size, rounded up to the multiple."""
    if (fixed := own_grid(graphs)) is not None:
        return fixed
    step = manifest.size.multiple
    side = -(-manifest.size.default // step) * step
    return side, side


# --- plans ---


def plan_jobs(
    request: Request,
    manifest: Manifest,
    target: Target,
    *,
    directory: Path,
    precision: str,
    profiles: tuple[PlanProfile, ...],
) -> tuple[tuple[PlanJob, ...], ...]:
    """Profiles -> journeys of one job per stage: one journey for all profiles; if static, one for each."""
    graphs = manifest.graph_sets[precision]
    journeys = [(profile,) for profile in profiles] if request.static else [profiles]
    return tuple(
        tuple(
            PlanJob(
                record=_wanted(request, manifest, target, precision=precision, stage=stage, profiles=chosen),
                graph=directory / graphs.stages[stage].file,
                stage=graphs.stages[stage],
            )
            for stage in STAGES
        )
        for chosen in journeys
    )


def _wanted(
    request: Request,
    manifest: Manifest,
    target: Target,
    *,
    precision: str,
    stage: str,
    profiles: tuple[PlanProfile, ...],
) -> PlanRecord:
    compatibility = _compatibility(request)
    return PlanRecord(
        stage=stage,
        precision=precision,
        file=plan_file(
            stage,
            precision,
            target,
            compatibility=compatibility,
            static=profiles[0] if request.static else None,
        ),
        flavour=target.flavour.name,
        gpu_name=target.gpu_name,
        compute_capability=target.compute_capability,
        tensorrt_version=target.tensorrt_version,
        profiles=profiles,
        hardware_compatibility=compatibility,
        stripped=request.strip_plan,
        opt_level=request.opt_level,
        workspace_mib=request.workspace_mib,
        graph_sha256=graph_digest(manifest, precision, stage),
        checked=False,
        memory=None,
        built={},
    )


def _compatibility(request: Request) -> str:
    """PlanRecord.hardware_compatibility of what is asked for."""
    if request.flavour.portable:
        return "ampere_plus" if request.compute_capability is None else "same_compute_capability"
    return "same_compute_capability" if request.hardware_compatible else "none"


def portable_target(request: Request, release: Release) -> Target:
    """What portable plans are for: no GPU by name, but a compute capability."""
    return Target(
        flavour=release.flavour,
        gpu_name=None,
        compute_capability=request.compute_capability or AMPERE,
        tensorrt_version=show_version(release.version),
    )


def is_for(compute_capability: str, request: Request) -> bool:
    """Whether portable plans of this request run on a GPU of this compute capability."""
    if request.compute_capability is not None:
        return compute_capability == request.compute_capability
    return parse_version(compute_capability) >= parse_version(AMPERE)


def plan_file(
    stage: str,
    precision: str,
    target: Target,
    *,
    compatibility: str = "none",
    static: PlanProfile | None = None,
) -> str:
    """The name of a plan, relative to its engine directory.

    compatibility: PlanRecord.hardware_compatibility. static: the profile of a static plan.
    """
    gpu = f"sm{target.compute_capability.replace('.', '')}"
    if compatibility == "ampere_plus":
        gpu += "plus"
    elif target.gpu_name is not None:
        name = "any" if compatibility == "same_compute_capability" else target.gpu_name
        # The first characters of two names may be all that differs, so none is dropped, only replaced.
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"
        gpu = f"{slug}-{gpu}"
    parts = [stage, precision, gpu, f"{target.flavour.plan_tag}{target.tensorrt_version}"]
    if static is not None:
        parts.append(f"{static.grid[0]}x{static.grid[1]}b{static.batch}")
    return f"plans/{'.'.join(parts)}.plan"


def find_built(plans: Collection[PlanRecord], wanted: PlanRecord) -> PlanRecord | None:
    """The listed plan that equals `wanted` in everything that was decided before it was built."""

    def decided(plan: PlanRecord) -> PlanRecord:
        return msgspec.structs.replace(plan, checked=False, memory=None, built={})

    return next((plan for plan in plans if decided(plan) == decided(wanted)), None)

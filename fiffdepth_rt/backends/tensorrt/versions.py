"""Which plans are built, what they are called, where they may run. No TensorRT, no GPU, no disk: only values.

    plans/<stage>.<precision>.<gpu>.trt<version>.plan               one profile per grid and batch
    plans/<stage>.<precision>.<gpu>.trt<version>.<h>x<w>b<n>.plan   a static one, for one grid and batch

<gpu> is the GPU's name and compute capability, or "any-sm89" where every GPU of that capability will do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fiffdepth_rt.engine_dir.manifest import (
    STAGES,
    GraphSet,
    Manifest,
    PlanProfile,
    PlanRecord,
    Stage,
    TensorSpec,
)
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    BuildError,
    PlanGpuError,
    PlanVersionError,
    SizeError,
)

Version = tuple[int, ...]

OLDEST: Version = (8, 5)
NEWEST: Version = (12,)  # the first that is not known
SAME_CAPABILITY_SINCE: Version = (10, 12)
OPTIMIZATION_LEVELS = range(6)
PREFERRED_KINDS = ("fp16", "bf16", "fp32")  # where nobody says which precision

# The highest ONNX opset that a TensorRT reads, by the first version that does. 10.9 and 10.13: by hearsay.
_MAX_OPSET = (((8, 5), 17), ((9,), 19), ((10,), 20), ((10, 9), 22), ((10, 13), 24), ((11,), 25))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where a plan runs: a GPU's name, its compute capability ("8.9"), and TensorRT's full version."""

    gpu_name: str
    compute_capability: str
    tensorrt_version: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to build.

    grids: (height, width) in px; empty for a square of the model's default size.
    batches: each goes with each grid.
    precision: a graph set; None for the first of PREFERRED_KINDS that TensorRT can read here.
    static: a plan per grid and batch, instead of one with a profile for each.
    opt_level: 0 to 5, more is slower to build; workspace_mib: MiB of scratch memory; None for TensorRT's own.
    strip_plan: leave the weights out of the plan. hardware_compatible: for every GPU of this capability.
    command: what was typed, for the manifest.
    """

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
    """One plan to build. record: as the manifest shall list it; graph: the ONNX file; stage: its tensors."""

    record: PlanRecord
    graph: Path
    stage: Stage


# --- versions: what a TensorRT can do, by its number ---


def parse_version(text: str) -> Version:
    """ "10.16.1.11" -> (10, 16, 1, 11); what follows the numbers (".post1") is left out.

    Raises BackendUnavailableError.
    """
    match = re.match(r"\d+(\.\d+)+", text)
    if match is None:
        raise BackendUnavailableError(
            f"TensorRT says that its version is {text!r}, which is not understood. Install TensorRT again."
        )
    return tuple(int(number) for number in match[0].split("."))


def is_strongly_typed(version: Version) -> bool:
    """Whether types are the graph's own; before, the builder chooses within what its flags allow."""
    return version >= (9,)


def network_flags(version: Version) -> tuple[str, ...]:
    """Names of NetworkDefinitionCreationFlag. EXPLICIT_BATCH is gone in 11 and idle in 10."""
    flags = []
    if version < (10,):
        flags.append("EXPLICIT_BATCH")
    if is_strongly_typed(version):
        flags.append("STRONGLY_TYPED")
    return tuple(flags)


def parser_flags(version: Version) -> tuple[str, ...]:
    """Names of OnnxParserFlag. Without it 8.6 and 9 normalise by a plugin that sums in fp16."""
    return ("NATIVE_INSTANCENORM",) if (8, 6) <= version < (10,) else ()


def builder_flags(version: Version, record: PlanRecord) -> tuple[str, ...]:
    """Names of BuilderFlag to set.

    Raises BuildError where a weakly typed TensorRT has no flag for the precision.
    """
    flags = []
    if not is_strongly_typed(version):
        kind = kind_of(record.precision)
        if kind == "bf16":
            raise BuildError(
                f"TensorRT {_show(version)} computes no bf16; it came with 9. Build --precision fp16 or fp32."
            )
        if kind == "fp16":
            flags.append("FP16")
    else:
        # Else compiled kernels lie in timing.cache too, which is read without a hash.
        flags.append("DISABLE_COMPILATION_CACHE")
    if record.stripped:
        flags += ["STRIP_PLAN", "REFIT_IDENTICAL"]
    return tuple(flags)


def tactic_sources(version: Version) -> tuple[str, ...] | None:
    """Names of TacticSource to choose from; None for the default.

    Up to 9 the default includes cuDNN and cuBLAS, which a machine with TensorRT need not have.
    """
    return ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS") if version < (10,) else None


def max_opset(version: Version) -> int:
    """The highest ONNX opset that this TensorRT reads."""
    return next(opset for since, opset in reversed(_MAX_OPSET) if version >= since)


def check_supported(text: str) -> None:
    """Raises BackendUnavailableError for a TensorRT that this package was not written for."""
    if not OLDEST <= parse_version(text) < NEWEST:
        raise BackendUnavailableError(
            f"TensorRT {text} is not supported; 8.5 to 11 are. Run: pip install 'fiffdepth-rt[tensorrt]'"
        )


def check_options(version: Version, request: Request) -> None:
    """Raises BuildError for an option that this TensorRT does not have, or a value that none has."""
    if request.opt_level is not None and request.opt_level not in OPTIMIZATION_LEVELS:
        raise BuildError(f"--opt-level {request.opt_level} does not exist: say 0 to 5.")
    if request.opt_level is not None and version < (8, 6):
        raise _absent(version, "--opt-level", "8.6", "Leave it out")
    if request.strip_plan and version < (10,):
        raise _absent(version, "--strip-plan", "10.0", "Leave it out; the plan then holds the weights")
    if request.hardware_compatible and version < SAME_CAPABILITY_SINCE:
        raise _absent(
            version,
            "--hardware-compatible",
            "10.12",
            "Run fiffdepth build without it on each GPU model; their plans can share one directory",
        )
    if request.workspace_mib is not None and request.workspace_mib < 1:
        raise BuildError(f"--workspace {request.workspace_mib} is no memory: say MiB, 1 or more.")


def _absent(version: Version, option: str, since: str, instead: str) -> BuildError:
    return BuildError(f"{option} needs TensorRT {since} or newer; here is {_show(version)}. {instead}.")


def _show(version: Version) -> str:
    return ".".join(map(str, version))


# --- graph sets ---


def kind_of(precision: str) -> str:
    """A graph set's name -> what it computes in: "fp16-trt8.5" -> "fp16"."""
    return precision.partition("-")[0]


def check_exported(manifest: Manifest, precision: str | None, directory: Path) -> None:
    """Raises BuildError, with the export command, unless the graph set is there and is for TensorRT."""
    for_tensorrt = [name for name, graphs in manifest.graph_sets.items() if "tensorrt" in graphs.backends]
    if precision in for_tensorrt or (precision is None and for_tensorrt):
        return
    wanted = precision or PREFERRED_KINDS[0]
    there = ", ".join(sorted(for_tensorrt)) or "none for TensorRT"
    raise BuildError(
        f"The graph set {wanted} was not exported for TensorRT; {directory} holds {there}. Where the "
        f"checkpoint is, run: python -m export.build_engines CHECKPOINT -o {directory} --precision {wanted}"
    )


def choose_precision(manifest: Manifest, precision: str | None, version: Version, directory: Path) -> str:
    """The graph set to build. Raises BuildError, with the export command."""
    check_exported(manifest, precision, directory)
    if precision is not None:
        return precision
    readable = {
        name: graphs
        for name, graphs in manifest.graph_sets.items()
        if "tensorrt" in graphs.backends and graphs.opset <= max_opset(version)
    }
    if not readable:
        raise BuildError(
            f"TensorRT {_show(version)} reads ONNX up to opset {max_opset(version)}, and no graph set of "
            f"{directory} is as old. Where the checkpoint is, run: "
            f"python -m export.build_engines CHECKPOINT -o {directory} --target trt8.5"
        )
    return min(readable, key=lambda name: (_rank(name), -readable[name].opset, name))


def _rank(precision: str) -> int:
    kind = kind_of(precision)
    return PREFERRED_KINDS.index(kind) if kind in PREFERRED_KINDS else len(PREFERRED_KINDS)


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

    photo_grids: those of the golden photos. If none of them was asked for, the first that these graphs take
    is added with batch 1: a plan that was never held against a photo is not worth listing.

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
    free = "height" in graphs.stages["encoder"].inputs[0].shape
    step, largest = manifest.size.multiple, manifest.size.max
    if free and (height % step or width % step or not 0 < min(profile.grid) <= max(profile.grid) <= largest):
        raise SizeError(
            f"A plan for {height}x{width} is not possible: {manifest.name} takes sides in multiples of "
            f"{step}, up to {largest}."
        )
    if profile.batch < 1:
        raise SizeError(f"A plan for a batch of {profile.batch} is not possible: say 1 or more.")
    image = graphs.stages["encoder"].inputs[0]
    if input_shape(image, profile) != (profile.batch, height, width, 3):
        fixed = "×".join(map(str, image.shape))
        raise SizeError(
            f"These graphs were exported for images of {fixed}, not for a batch of {profile.batch} at "
            f"{height}x{width}. Build what they are for, or export other ones."
        )


def input_shape(spec: TensorSpec, profile: PlanProfile) -> tuple[int, ...]:
    """The shape of a tensor under a profile."""
    height, width = profile.grid
    sizes = {
        "batch": profile.batch,
        "height": height,
        "width": width,
        "height/8": height // 8,
        "width/8": width // 8,
    }
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)


def find_profile(job: PlanJob, shape: Sequence[int]) -> int:
    """The index of the plan's profile that takes an input of this shape. Raises SizeError if none does."""
    taken = [input_shape(job.stage.inputs[0], profile) for profile in job.record.profiles]
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
    _, height, width, _ = graphs.stages["encoder"].inputs[0].shape
    if isinstance(height, int) and isinstance(width, int):
        return height, width
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
    """What to build, as journeys: one job for each stage, and one journey, or one per profile if static."""
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
    return PlanRecord(
        stage=stage,
        precision=precision,
        file=plan_file(
            stage,
            precision,
            target,
            hardware_compatible=request.hardware_compatible,
            static=profiles[0] if request.static else None,
        ),
        gpu_name=target.gpu_name,
        compute_capability=target.compute_capability,
        tensorrt_version=target.tensorrt_version,
        profiles=profiles,
        hardware_compatibility="same_compute_capability" if request.hardware_compatible else "none",
        stripped=request.strip_plan,
        opt_level=request.opt_level,
        workspace_mib=request.workspace_mib,
        graph_sha256=graph_digest(manifest, precision, stage),
    )


def plan_file(
    stage: str,
    precision: str,
    target: Target,
    *,
    hardware_compatible: bool = False,
    static: PlanProfile | None = None,
) -> str:
    """The name of a plan, relative to its engine directory. static: the one profile it is for."""
    name = "any" if hardware_compatible else target.gpu_name
    # The first characters of two names may be all that differs, so none is dropped, only replaced.
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"
    sm = target.compute_capability.replace(".", "")
    parts = [stage, precision, f"{slug}-sm{sm}", f"trt{target.tensorrt_version}"]
    if static is not None:
        parts.append(f"{static.grid[0]}x{static.grid[1]}b{static.batch}")
    return f"plans/{'.'.join(parts)}.plan"


def find_built(plans: Collection[PlanRecord], wanted: PlanRecord) -> PlanRecord | None:
    """The plan that is `wanted` in everything but when and how it was built."""
    return next((plan for plan in plans if dataclasses.replace(plan, built=wanted.built) == wanted), None)


def check_fits(plan: PlanRecord, target: Target, directory: Path) -> None:
    """Raises PlanVersionError or PlanGpuError, with what mends it, unless the plan may run on `target`."""
    if parse_version(plan.tensorrt_version) != parse_version(target.tensorrt_version):
        raise PlanVersionError(
            f"{plan.file} was built by TensorRT {plan.tensorrt_version}; this machine has "
            f"{target.tensorrt_version}. Run: {rebuild_command(plan, directory)}   "
            f"(or install TensorRT {plan.tensorrt_version})"
        )
    if plan.compute_capability != target.compute_capability:
        raise PlanGpuError(
            f"{plan.file} was built on {plan.gpu_name}, of compute capability {plan.compute_capability}; "
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


def rebuild_command(plan: PlanRecord, directory: Path) -> str:
    """The command that makes such a plan anew, on the machine where it is run."""
    grids = dict.fromkeys(f"--grid {profile.grid[0]}x{profile.grid[1]}" for profile in plan.profiles)
    batches = dict.fromkeys(f"--batch {profile.batch}" for profile in plan.profiles)
    words = [f"fiffdepth build {directory} --precision {plan.precision}", *grids]
    return " ".join(words + ([] if list(batches) == ["--batch 1"] else list(batches)))


def replace_parity(
    rows: Sequence[Mapping[str, Any]], plan: PlanRecord, new: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """The parity table with the rows of `plan`, and of the journeys through it, replaced by `new`."""
    grids = {f"{profile.grid[0]}x{profile.grid[1]}" for profile in plan.profiles}

    def is_of_plan(row: Mapping[str, Any]) -> bool:
        return (
            (row.get("graph_set"), row.get("backend"), row.get("device"), row.get("tensorrt_version"))
            == (plan.precision, "tensorrt", plan.gpu_name, plan.tensorrt_version)
            and row.get("stage") in (plan.stage, "chain")
            and row.get("grid") in grids
        )

    return (*(row for row in rows if not is_of_plan(row)), *new)

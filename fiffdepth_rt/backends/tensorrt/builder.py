"""ONNX graph -> plan, in this process. Whoever builds does that in a process of its own: build_process.py.

Written against the names that TensorRT 10.3 to 11.4 and TensorRT for RTX 1.7 share, and 8.5.3 as far as it
has them. What differs between flavours and versions is decided in versions.py; here, the names are looked up.

Why not polygraphy's loaders (read: 0.53): they give TensorRT a logger of their own, so a BuildError could
not carry TensorRT's words; they write the timing cache in place, so a killed build leaves a torn one; and
they allow a plan to run code on the host, which opened.py forbids. Where polygraphy helps: docs/inspect.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.backends.tensorrt.flavour import load
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, number_format
from fiffdepth_rt.backends.tensorrt.log import kept_lines, logger, reason
from fiffdepth_rt.backends.tensorrt.progress import BuildProgress, OnProgress, Phases
from fiffdepth_rt.backends.tensorrt.versions import (
    Release,
    builder_flags,
    max_opset,
    network_flags,
    parser_flags,
    release_of,
    tactic_sources,
)
from fiffdepth_rt.engine_dir.manifest import PlanMemory
from fiffdepth_rt.errors import BuildError


def build_plan(
    job: PlanJob, into: Path, *, timing_cache: Path, on_progress: OnProgress | None
) -> PlanMemory | None:
    """ONNX graph -> plan, written to `into`; and the GPU memory that the builder says it will take.

    Raises BuildError with the library's log, OutputError, and what `on_progress` raises.
    """
    release = release_of(job.record)
    with kept_lines(release.flavour) as lines:
        try:
            plan = _build(job, release, timing_cache, on_progress)
        except _BuildFailedError as failure:
            raise BuildError(
                f"{release} could not build {job.graph}: {failure}{reason(lines)}. Run it again with -v to "
                "see all that TensorRT says; out of memory, close other programs on the GPU or build fewer "
                "grids; an operator that is not known, export for this version (it reads ONNX up to opset "
                f"{max_opset(release)}).",
                lines,
            ) from failure
        memory = read_memory(lines, len(job.record.profiles))
    with into.open("wb") as file:
        file.write(plan)
    return memory


def read_memory(lines: Iterable[str], profiles: int) -> PlanMemory | None:
    """The lines of a build -> the GPU memory that they predict; None where they do not say it of all."""
    weights = [int(match[1]) for line in lines if (match := _WEIGHTS.search(line))]
    activations = [int(match[1]) for line in lines if (match := _ACTIVATIONS.search(line))]
    if len(weights) != 1 or len(activations) != profiles:
        return None
    return PlanMemory(weight_bytes=weights[0], activation_bytes=tuple(activations))


_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


class _BuildFailedError(Exception):
    """What was being done when the builder gave up. The reason is in its log."""


def _build(job: PlanJob, release: Release, timing_cache: Path, on_progress: OnProgress | None) -> Any:
    trt = load(release.flavour)
    try:
        builder = trt.Builder(logger(release.flavour))
    except TypeError as error:  # how its bindings say that the library gave none
        raise _BuildFailedError("it does not start; ") from error
    network = builder.create_network(_bits(trt.NetworkDefinitionCreationFlag, network_flags(release)))
    parser = _parse(job.graph, network, release)
    config = _config(builder, job, release)
    cache = _use_timing_cache(config, timing_cache) if release.has_timing_cache else None
    monitor = _monitor(trt, job.record.stage, on_progress) if hasattr(config, "progress_monitor") else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped_by is not None:
        raise monitor.stopped_by
    if plan is None:
        raise _BuildFailedError("")
    if release.has_timing_cache:
        _keep_timing_cache(config, timing_cache)
    del cache, parser  # TensorRT wants them alive until here: the network's weights are the parser's
    return plan


def _bits(enum: Any, names: tuple[str, ...]) -> int:
    return sum(1 << int(getattr(enum, name)) for name in names)


def _parse(graph: Path, network: Any, release: Release) -> Any:
    trt = load(release.flavour)
    parser = trt.OnnxParser(network, logger(release.flavour))
    for name in parser_flags(release):
        parser.set_flag(getattr(trt.OnnxParserFlag, name))
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise _BuildFailedError(f"its ONNX parser says {' | '.join(errors[:3]) or 'no'}; ")
    return parser


def _config(builder: Any, job: PlanJob, release: Release) -> Any:
    trt = load(release.flavour)
    record = job.record
    config = builder.create_builder_config()
    # On by default, and it would round the inputs of fp32 products to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in builder_flags(release, number_format(record.precision), stripped=record.stripped):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if (sources := tactic_sources(release)) is not None:
        config.set_tactic_sources(_bits(trt.TacticSource, sources))
    if record.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, record.workspace_mib * 2**20)
    if record.opt_level is not None:
        config.builder_optimization_level = record.opt_level
    if release.flavour.portable:
        if record.hardware_compatibility == "same_compute_capability":  # else the default: Ampere and newer
            config.num_compute_capabilities = 1
            name = f"SM{record.compute_capability.replace('.', '')}"
            config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    elif record.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, record.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
    for index, profile in enumerate(record.profiles):
        shapes = builder.create_optimization_profile()
        for spec in job.stage.inputs:
            shape = tensor_shape(spec, profile.grid, profile.batch)
            shapes.set_shape(spec.name, shape, shape, shape)
        if config.add_optimization_profile(shapes) != index:
            raise _BuildFailedError(f"the shapes of {profile} are refused; ")
    return config


def _use_timing_cache(config: Any, path: Path) -> Any:
    """Use the directory's timing cache, or an empty one where the file is of another GPU or TensorRT."""
    for content in (_read(path), b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _keep_timing_cache(config: Any, path: Path) -> None:
    """Timings -> the file, together with what another build has put there meanwhile. Raises OutputError."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    meanwhile = config.create_timing_cache(_read(path))
    if meanwhile is not None:
        cache.combine(meanwhile, False)  # refuses those of another GPU or TensorRT
    with replacing(path) as file:
        file.write(cache.serialize())


def _read(path: Path) -> bytes:
    """The file's content; empty where there is no file, or a link, which may lead out of the directory."""
    try:
        return b"" if path.is_symlink() else path.read_bytes()
    except OSError:
        return b""


def _monitor(trt: Any, stage: str, on_progress: OnProgress | None) -> Any:
    """A trt.IProgressMonitor that calls `on_progress`. What `on_progress` raises ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self._phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """False ends the build: an exception could not pass through TensorRT's own frames."""
            try:
                phase, fraction = self._phases.step(phase_name, step)
                if on_progress is not None:
                    on_progress(BuildProgress(stage=stage, phase=phase, fraction=fraction))
            except BaseException as stopped_by:  # KeyboardInterrupt too
                self.stopped_by = stopped_by
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            self._phases.finish(phase_name)

    return Monitor()

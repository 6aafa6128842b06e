"""ONNX graph -> TensorRT plan, on this GPU.

Written against the names that TensorRT 10.3 to 11.4 share, and 8.5.3 as far as it has them. What differs
between versions is decided in versions.py, by number; here, the names are looked up.

Why not polygraphy's loaders (read: 0.53): they give TensorRT a logger of their own, so a BuildError could
not carry TensorRT's words; they write the timing cache in place, so a killed build leaves a torn one; and
they allow a plan to run code on the host, which opened.py forbids. Where polygraphy helps: docs/inspect.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.backends.tensorrt.here import require
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, number_format
from fiffdepth_rt.backends.tensorrt.log import kept_lines, logger, reason
from fiffdepth_rt.backends.tensorrt.opened import OpenedPlan
from fiffdepth_rt.backends.tensorrt.progress import BuildProgress, OnProgress, Phases
from fiffdepth_rt.backends.tensorrt.versions import (
    Version,
    builder_flags,
    max_opset,
    network_flags,
    parse_version,
    parser_flags,
    tactic_sources,
)
from fiffdepth_rt.errors import BuildError


class TensorRtBuilder:
    """Builds and opens plans with the TensorRT and the GPU of this machine: a `build.Builder`.

    Raises BackendUnavailableError where TensorRT or the GPU is missing.
    """

    def __init__(self) -> None:
        self.target, gpu = require()
        self.versions = {"driver_cuda": gpu.driver_cuda}

    def build(
        self, job: PlanJob, into: BinaryIO, *, timing_cache: Path, on_progress: OnProgress | None
    ) -> None:
        """ONNX graph -> plan, written to `into`. Raises BuildError with TensorRT's log, OutputError."""
        with kept_lines() as lines:
            try:
                plan = _build(job, timing_cache, on_progress)
            except _BuildFailedError as failure:
                record = job.record
                raise BuildError(
                    f"TensorRT {record.tensorrt_version} could not build {job.graph}: "
                    f"{failure}{reason(lines)}. Run it again with -v to see all that TensorRT says; out of "
                    "memory, close other programs on the GPU or build fewer grids; an operator that is not "
                    f"known, export for this version (it reads ONNX up to opset "
                    f"{max_opset(parse_version(record.tensorrt_version))}).",
                    lines,
                ) from failure
        into.write(plan)

    def open(self, plan: Path, job: PlanJob) -> OpenedPlan:
        """A plan, ready to run."""
        return OpenedPlan(plan, job)


class _BuildFailedError(Exception):
    """What was being done when TensorRT gave up. The reason is in TensorRT's log."""


def _build(job: PlanJob, timing_cache: Path, on_progress: OnProgress | None) -> Any:
    import tensorrt as trt

    record = job.record
    version = parse_version(record.tensorrt_version)
    try:
        builder = trt.Builder(logger())
    except TypeError as error:  # how its bindings say that the library gave none
        raise _BuildFailedError("it does not start; ") from error
    network = builder.create_network(_bits(trt.NetworkDefinitionCreationFlag, network_flags(version)))
    parser = _parse(job.graph, network, version)
    config = _config(builder, job, version)
    cache = _use_timing_cache(config, timing_cache)
    monitor = _monitor(record.stage, on_progress) if hasattr(config, "progress_monitor") else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped_by is not None:
        raise monitor.stopped_by
    if plan is None:
        raise _BuildFailedError("")
    _keep_timing_cache(config, timing_cache)
    del cache, parser  # TensorRT wants them alive until here: the network's weights are the parser's
    return plan


def _bits(enum: Any, names: tuple[str, ...]) -> int:
    return sum(1 << int(getattr(enum, name)) for name in names)


def _parse(graph: Path, network: Any, version: Version) -> Any:
    import tensorrt as trt

    parser = trt.OnnxParser(network, logger())
    for name in parser_flags(version):
        parser.set_flag(getattr(trt.OnnxParserFlag, name))
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise _BuildFailedError(f"its ONNX parser says {' | '.join(errors[:3]) or 'no'}; ")
    return parser


def _config(builder: Any, job: PlanJob, version: Version) -> Any:
    import tensorrt as trt

    record = job.record
    config = builder.create_builder_config()
    # On by default, and it would round the inputs of fp32 products to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    for name in builder_flags(version, number_format(record.precision), stripped=record.stripped):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if (sources := tactic_sources(version)) is not None:
        config.set_tactic_sources(_bits(trt.TacticSource, sources))
    if record.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, record.workspace_mib * 2**20)
    if record.opt_level is not None:
        config.builder_optimization_level = record.opt_level
    if record.hardware_compatibility != "none":
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


def _monitor(stage: str, on_progress: OnProgress | None) -> Any:
    """A trt.IProgressMonitor that calls `on_progress`. What `on_progress` raises ends the build."""
    import tensorrt as trt

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

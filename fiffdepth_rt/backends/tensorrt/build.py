"""START HERE of building: the graphs of an engine directory -> plans.

For each stage: ONNX graph -> plan -> held against the golden values with numpy -> renamed -> listed in the
manifest. The plan that completes a journey (encoder, UNet, decoder) is listed only if the whole journey
agrees too. TensorRT for RTX builds without a GPU; where there is none to run them, its plans are listed as
not yet checked, and the first opening on a GPU checks them (first_check.py). A build that is stopped goes on
where it was: a plan that is listed already, for the same graph, options, target and version, is kept.

What is built, and what it is called: jobs.py. How a library builds it: builder.py, in a process of its own:
build_process.py. How it is checked: parity.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import filelock
import msgspec

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.tensorrt.here import Target, require, require_builder
from fiffdepth_rt.backends.tensorrt.jobs import (
    PlanJob,
    Request,
    check_exported,
    check_options,
    choose_precision,
    choose_profiles,
    find_built,
    is_for,
    plan_jobs,
    portable_target,
)
from fiffdepth_rt.backends.tensorrt.parity import ParityCheck, Runner, read_reference, replace_rows
from fiffdepth_rt.backends.tensorrt.progress import OnProgress
from fiffdepth_rt.engine_dir.checking import EngineDir, open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import Manifest, PlanMemory, PlanRecord, write_manifest
from fiffdepth_rt.errors import BackendUnavailableError, BuildError, OutputError

TIMING_CACHE = "timing.cache"
LOCK = (
    ".building.lock"  # in plans/; empty, and left there: a lock is a file that is held, not one that exists
)

log = logging.getLogger(__name__)


class Builder(Protocol):
    """What turns a graph into a plan (`build_process.ProcessBuilder`).

    target: where its plans run. versions: of what else the plans depend on, for the manifest.
    runner: the GPU of this machine that its plans are checked on; None where no GPU here can run them.
    """

    @property
    def target(self) -> Target: ...

    @property
    def versions(self) -> Mapping[str, str]: ...

    @property
    def runner(self) -> Runner | None: ...

    def build(
        self, job: PlanJob, into: Path, *, timing_cache: Path, on_progress: OnProgress | None
    ) -> PlanMemory | None:
        """ONNX graph -> plan, written to `into`; and its predicted memory. Raises BuildError."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """One plan that is listed now. kept: it was there before; seconds: that building and checking took."""

    record: PlanRecord
    kept: bool
    seconds: float


def build_plans(
    directory: str | os.PathLike[str],
    request: Request | None = None,
    *,
    builder: Builder | None = None,
    on_progress: OnProgress | None = None,
    on_finished: Callable[[Finished], None] | None = None,
) -> tuple[PlanRecord, ...]:
    """Engine directory -> the same, with plans. Returns their records.

    request: what to build; None for the default grid. builder: None for this machine's library of
    `request.flavour`.
    on_progress, on_finished: called as the build goes on, from the thread that builds.

    Raises an EngineDirError where the directory cannot be trusted, BackendUnavailableError without the
    library (for TensorRT also without cuda-python or a GPU), SizeError for a grid that the model does not
    take, BuildError (with the library's log), ParityError where a plan does not compute what the checkpoint
    does, OutputError.
    """
    request = request or Request()
    engine_dir = open_engine_dir(directory)
    manifest = engine_dir.manifest
    check_exported(manifest, request.precision, engine_dir.path, request.flavour)
    golden = read_reference(engine_dir)
    builder = builder or _this_machine(request)
    parity = ParityCheck(engine_dir, golden, builder.target, builder.runner)
    release = builder.target.release
    check_options(release, request)
    precision = choose_precision(
        manifest, request.precision, release, engine_dir.path, request.compute_capability
    )
    graphs = manifest.graph_sets[precision]
    profiles = choose_profiles(request, manifest, graphs, parity.photo_grids(graphs))
    parity.require_photo(precision, profiles)
    journeys = plan_jobs(
        request,
        manifest,
        builder.target,
        directory=engine_dir.path,
        precision=precision,
        profiles=profiles,
    )
    with _only_builder(engine_dir.path):
        build = _Build(engine_dir, builder, parity, request.command, on_progress)
        for journey in journeys:
            for job in journey:
                finished = build.ensure(job, journey)
                if on_finished is not None:
                    on_finished(finished)
    return tuple(record for journey in journeys for record in build.listed(journey))


def _this_machine(request: Request) -> Builder:
    """The library of this machine, and its GPU. Raises BackendUnavailableError, BuildError."""
    from fiffdepth_rt.backends.tensorrt.build_process import ProcessBuilder
    from fiffdepth_rt.backends.tensorrt.opened import GpuRunner
    from fiffdepth_rt.backends.tensorrt.runtime_cache import RuntimeCache

    flavour = request.flavour
    if not flavour.portable:
        target, gpu = require(flavour=flavour)
        return ProcessBuilder(target, runner=GpuRunner(gpu.name), versions={"driver_cuda": gpu.driver_cuda})
    release = require_builder(flavour)
    check_options(release, request)
    target = portable_target(request, release)
    try:
        here, gpu = require(flavour=flavour)
    except BackendUnavailableError:
        return ProcessBuilder(target, runner=None, versions={})
    runs_here = is_for(here.compute_capability, request)
    kernels = RuntimeCache(flavour, gpu.name)  # each plan is opened twice: alone, and in its journey
    return ProcessBuilder(
        target,
        runner=GpuRunner(gpu.name, kernels) if runs_here else None,
        versions={"driver_cuda": gpu.driver_cuda} if runs_here else {},
    )


class _Build:
    """The directory while plans are added to it: its manifest as it is on disk, and the means to go on."""

    def __init__(
        self,
        engine_dir: EngineDir,
        builder: Builder,
        parity: ParityCheck,
        command: str,
        on_progress: OnProgress | None,
    ) -> None:
        self._path = engine_dir.path
        self._manifest = engine_dir.manifest
        self._builder = builder
        self._parity = parity
        self._command = command
        self._on_progress = on_progress

    def listed(self, journey: tuple[PlanJob, ...]) -> tuple[PlanRecord, ...]:
        """The records of a journey's plans that the manifest lists."""
        found = (find_built(self._manifest.plans, job.record) for job in journey)
        return tuple(record for record in found if record is not None)

    def ensure(self, job: PlanJob, journey: tuple[PlanJob, ...]) -> Finished:
        """Builds, checks and lists one plan, unless it is listed already.

        A listed plan that was never run is checked, where a GPU is at hand now.
        """
        found, runner = find_built(self._manifest.plans, job.record), self._builder.runner
        if found is not None and (found.checked or runner is None):
            return Finished(record=found, kept=True, seconds=0.0)
        start = time.perf_counter()
        others = {
            other.record.stage: other
            for other in journey
            if other is not job and find_built(self._manifest.plans, other.record) is not None
        }
        if found is not None:
            rows = self._parity.rows(self._path / found.file, job, others)
            record = msgspec.structs.replace(found, checked=True)
            self._list(record, rows)
            return Finished(record=record, kept=True, seconds=time.perf_counter() - start)
        with replacing(self._path / job.record.file) as file:
            fresh = Path(file.name)
            memory = self._builder.build(
                job, fresh, timing_cache=self._path / TIMING_CACHE, on_progress=self._on_progress
            )
            rows = [] if runner is None else self._parity.rows(fresh, job, others)
            self._unlist(job.record.file)  # until the manifest knows the new file's hash
        seconds = time.perf_counter() - start
        record = msgspec.structs.replace(
            job.record, checked=runner is not None, memory=memory, built=self._built(seconds)
        )
        self._list(record, rows)
        return Finished(record=record, kept=False, seconds=seconds)

    def _unlist(self, file: str) -> None:
        if file in self._manifest.files:
            log.info("%s is replaced", file)
            self._write(
                plans=tuple(plan for plan in self._manifest.plans if plan.file != file),
                files={name: record for name, record in self._manifest.files.items() if name != file},
            )

    def _list(self, record: PlanRecord, rows: list[dict[str, Any]]) -> None:
        others = (plan for plan in self._manifest.plans if plan.file != record.file)
        self._write(
            plans=(*others, record),
            files={**self._manifest.files, record.file: hash_file(self._path / record.file)},
            parity=replace_rows(self._manifest.parity, record, rows),
        )

    def _write(self, **changes: Any) -> None:
        manifest: Manifest = msgspec.structs.replace(self._manifest, **changes)
        write_manifest(self._path, manifest)
        self._manifest = manifest

    def _built(self, seconds: float) -> dict[str, Any]:
        return {
            "command": self._command,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "seconds": round(seconds, 1),
            **self._builder.versions,
        }


@contextlib.contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """plans/ made, cleared of what a killed build left, and this process its only builder until the end.

    The system gives the lock back when a process ends, however it ends. Raises BuildError where another
    process builds in the directory, OutputError where the directory cannot be written.
    """
    folder = directory / "plans"
    # Whoever may write to the folder may lock it, whichever user locked it before.
    lock = filelock.FileLock(folder / LOCK, mode=0o666)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BuildError(
            f"Another `fiffdepth build` is at work in {directory}. Wait for its end, then run this again."
        ) from error
    except OSError as error:
        raise OutputError(
            f"Cannot write plans to {folder}: {error.strerror}. Copy the engine directory to a folder that "
            "you may write to."
        ) from error
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()

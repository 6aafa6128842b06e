"""START HERE of building: the graphs of an engine directory -> TensorRT plans for this machine.

For each stage: ONNX -> plan -> held against the golden values with numpy -> renamed -> listed in the
manifest. The plan that completes a journey (encoder, UNet, decoder) is listed only if the whole journey
agrees too. A build that is stopped goes on where it was: a plan that is listed already, for the same graph,
options, GPU and TensorRT version, is kept.

What is built, and what it is called: plan_rules.py. How TensorRT builds it: trt_build.py.
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
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.tensorrt.progress import OnProgress
from fiffdepth_rt.backends.tensorrt.versions import (
    PlanJob,
    Request,
    Target,
    check_exported,
    check_options,
    choose_precision,
    choose_profiles,
    find_built,
    input_shape,
    kind_of,
    parse_version,
    plan_jobs,
    replace_parity,
)
from fiffdepth_rt.engine_dir import golden as parity
from fiffdepth_rt.engine_dir.manifest import (
    STAGES,
    EngineDir,
    GraphSet,
    Manifest,
    PlanProfile,
    PlanRecord,
    hash_file,
    open_engine_dir,
    write_manifest,
)
from fiffdepth_rt.errors import BuildError, OutputError, ParityError
from fiffdepth_rt.image import fit, to_grid

TIMING_CACHE = "timing.cache"

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


class StageRunner(Protocol):
    """An opened plan: input -> output; the decoder's before the clip."""

    def __call__(self, value: Array) -> Array: ...

    def close(self) -> None: ...


class Workshop(Protocol):
    """What turns a graph into a plan and runs it: TensorRT on this machine (`trt_build.TensorRtWorkshop`).

    versions: of what else the plans depend on, for the manifest.
    """

    @property
    def target(self) -> Target: ...

    @property
    def versions(self) -> Mapping[str, str]: ...

    def build(
        self, job: PlanJob, into: BinaryIO, *, timing_cache: Path, on_progress: OnProgress | None
    ) -> None:
        """Graph -> plan, written to `into`. Raises BuildError."""

    def open(self, plan: Path, job: PlanJob) -> StageRunner:
        """A plan, ready to run."""


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
    workshop: Workshop | None = None,
    on_progress: OnProgress | None = None,
    on_finished: Callable[[Finished], None] | None = None,
) -> tuple[PlanRecord, ...]:
    """Engine directory -> the same, with TensorRT plans for this machine. Returns their records.

    request: what to build; None for the default grid. workshop: None for this machine's TensorRT.
    on_progress, on_finished: called as the build goes on, from the thread that builds.

    Raises an EngineDirError where the directory cannot be trusted, BackendUnavailableError without TensorRT,
    cuda-python or a GPU, SizeError for a grid that the model does not take, BuildError (with TensorRT's log),
    ParityError where a plan does not compute what the checkpoint does, OutputError.
    """
    request = request or Request()
    engine_dir = open_engine_dir(directory)
    check_exported(engine_dir.manifest, request.precision, engine_dir.path)
    golden = _golden(engine_dir)
    workshop = workshop or _this_machine()
    version = parse_version(workshop.target.tensorrt_version)
    check_options(version, request)
    precision = choose_precision(engine_dir.manifest, request.precision, version, engine_dir.path)
    graphs = engine_dir.manifest.graph_sets[precision]
    photo_grids = [
        grid for grid in _photo_grids(golden) if _photos_at(golden, graphs, PlanProfile(grid=grid, batch=1))
    ]
    profiles = choose_profiles(request, engine_dir.manifest, graphs, photo_grids)
    if not any(_photos_at(golden, graphs, profile) for profile in profiles):
        raise ParityError(
            f"No golden photo of {engine_dir.path} has the shape that the graphs {precision} take, so a plan "
            "could not be checked. Export the directory again."
        )
    journeys = plan_jobs(
        request,
        engine_dir.manifest,
        workshop.target,
        directory=engine_dir.path,
        precision=precision,
        profiles=profiles,
    )
    with _alone(engine_dir.path):
        build = _Build(engine_dir, workshop, golden, request.command, on_progress)
        for journey in journeys:
            for job in journey:
                finished = build.ensure(job, journey)
                if on_finished is not None:
                    on_finished(finished)
    return tuple(record for journey in journeys for record in build.listed(journey))


def _this_machine() -> Workshop:
    from fiffdepth_rt.backends.tensorrt.builder import TensorRtWorkshop

    return TensorRtWorkshop()


def _golden(engine_dir: EngineDir) -> parity.Golden:
    if engine_dir.manifest.golden is None:
        raise ParityError(
            f"{engine_dir.path} holds no golden values, so a plan could not be checked. Export it again."
        )
    golden = parity.read_golden(engine_dir.path / engine_dir.manifest.golden)
    parity.check_reference(golden)
    return golden


def _golden_at(golden: parity.Golden, graphs: GraphSet, profile: PlanProfile) -> parity.Golden:
    """The golden images that a graph set takes under a profile."""
    one = dataclasses.replace(profile, batch=1)
    return parity.of_shape(
        golden, {name: input_shape(stage.inputs[0], one) for name, stage in graphs.stages.items()}
    )


def _photos_at(golden: parity.Golden, graphs: GraphSet, profile: PlanProfile) -> list[str]:
    return [image for image in _golden_at(golden, graphs, profile) if parity.is_photo(image)]


def _photo_grids(golden: parity.Golden) -> list[tuple[int, int]]:
    return list(
        dict.fromkeys(parity.grid_of(values) for image, values in golden.items() if parity.is_photo(image))
    )


class _Build:
    """The directory while plans are added to it: its manifest as it is on disk, and the means to go on."""

    def __init__(
        self,
        engine_dir: EngineDir,
        workshop: Workshop,
        golden: parity.Golden,
        command: str,
        on_progress: OnProgress | None,
    ) -> None:
        self._path = engine_dir.path
        self._manifest = engine_dir.manifest
        self._workshop = workshop
        self._golden = golden
        self._command = command
        self._on_progress = on_progress

    def listed(self, journey: tuple[PlanJob, ...]) -> tuple[PlanRecord, ...]:
        """The records of a journey's plans that the manifest lists."""
        found = (find_built(self._manifest.plans, job.record) for job in journey)
        return tuple(record for record in found if record is not None)

    def ensure(self, job: PlanJob, journey: tuple[PlanJob, ...]) -> Finished:
        """Builds, checks and lists one plan, unless it is listed already."""
        if (record := find_built(self._manifest.plans, job.record)) is not None:
            return Finished(record=record, kept=True, seconds=0.0)
        start = time.perf_counter()
        path = self._path / job.record.file
        with replacing(path) as file:
            self._workshop.build(
                job,
                file,
                timing_cache=self._path / TIMING_CACHE,
                on_progress=self._on_progress,
            )
            file.flush()
            rows = self._check(job, journey, Path(file.name))
            self._unlist(job.record.file)  # until the manifest knows the new file's hash
        seconds = time.perf_counter() - start
        record = dataclasses.replace(job.record, built=self._built(seconds))
        self._list(record, rows)
        return Finished(record=record, kept=False, seconds=seconds)

    def _check(self, job: PlanJob, journey: tuple[PlanJob, ...], plan: Path) -> list[dict[str, Any]]:
        """A fresh plan -> its rows of the parity table. Raises ParityError."""
        others = {
            other.record.stage: other
            for other in journey
            if other is not job and find_built(self._manifest.plans, other.record) is not None
        }
        with contextlib.ExitStack() as opened:

            def run(plan: Path, job: PlanJob) -> StageRunner:
                return opened.enter_context(contextlib.closing(self._workshop.open(plan, job)))

            runners: dict[str, parity.RunStage] = {job.record.stage: run(plan, job)}
            rows = self._compare_stage(job, runners[job.record.stage])
            if len(others) == len(STAGES) - 1:
                runners |= {
                    stage: run(self._path / other.record.file, other) for stage, other in others.items()
                }
                rows += self._compare_chain(job, runners)
        return rows

    def _compare_stage(self, job: PlanJob, run: parity.RunStage) -> list[dict[str, Any]]:
        rows = []
        for profile in job.record.profiles:
            golden = self._golden_at(job, profile)
            rows += parity.compare_stage(golden, job.record.stage, run, self._where(job, profile))
        parity.judge(rows, advice=_ADVICE[kind_of(job.record.precision)])
        return [self._row_json(row) for row in rows]

    def _compare_chain(self, job: PlanJob, run: Mapping[str, parity.RunStage]) -> list[dict[str, Any]]:
        rows, unjudged = [], []
        for profile in job.record.profiles:
            where = self._where(job, profile)
            golden = self._golden_at(job, profile)
            rows += parity.compare_chain(golden, run, where)
            if not golden:
                unjudged.append(self._row_without_reference(run, profile, where))
        parity.judge(rows, advice=_ADVICE[kind_of(job.record.precision)])
        return [self._row_json(row) for row in rows] + unjudged

    def _row_without_reference(
        self, run: Mapping[str, parity.RunStage], profile: PlanProfile, where: parity.Where
    ) -> dict[str, Any]:
        """A golden photo, fitted to a grid that has no reference: all that can be asked is finite depth."""
        image = next(name for name in self._golden if parity.is_photo(name))
        photo = self._golden[image]["encoder"].input[0]
        height, width = profile.grid
        fitted = to_grid(photo, fit((photo.shape[0], photo.shape[1]), profile.grid))
        value: Array = np.repeat(fitted[np.newaxis], profile.batch, axis=0)
        for stage in STAGES:
            value = run[stage](value)
            if not np.isfinite(value).all():
                raise ParityError(
                    f"{where.graph_set}/{stage} on {image} ({height}x{width}, {where.backend}) gives NaN or "
                    f"infinity. {_ADVICE[kind_of(where.graph_set)]}"
                )
        log.warning("%dx%d: golden.npz has no reference there; only checked for finite depth", height, width)
        return {
            **dataclasses.asdict(where),
            "note": "no reference at this grid: only checked for finite depth",
            "tensorrt_version": self._workshop.target.tensorrt_version,
            "stage": parity.CHAIN,
            "image": image,
            "grid": f"{height}x{width}",
            "gated": False,
            "passed": True,
        }

    def _golden_at(self, job: PlanJob, profile: PlanProfile) -> parity.Golden:
        return _golden_at(self._golden, self._manifest.graph_sets[job.record.precision], profile)

    def _where(self, job: PlanJob, profile: PlanProfile) -> parity.Where:
        return parity.Where(
            graph_set=job.record.precision,
            backend="tensorrt",
            device=self._workshop.target.gpu_name,
            batch=profile.batch,
        )

    def _row_json(self, row: parity.Row) -> dict[str, Any]:
        return {**row.to_json(), "tensorrt_version": self._workshop.target.tensorrt_version}

    def _unlist(self, file: str) -> None:
        if file in self._manifest.files:
            log.info("%s is replaced", file)
            self._write(
                plans=tuple(plan for plan in self._manifest.plans if plan.file != file),
                files={name: record for name, record in self._manifest.files.items() if name != file},
            )

    def _list(self, record: PlanRecord, rows: list[dict[str, Any]]) -> None:
        self._write(
            plans=(*self._manifest.plans, record),
            files={**self._manifest.files, record.file: hash_file(self._path / record.file)},
            parity=replace_parity(self._manifest.parity, record, rows),
        )

    def _write(self, **changes: Any) -> None:
        manifest: Manifest = dataclasses.replace(self._manifest, **changes)
        write_manifest(self._path, manifest)
        self._manifest = manifest

    def _built(self, seconds: float) -> dict[str, Any]:
        return {
            "command": self._command,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "seconds": round(seconds, 1),
            **self._workshop.versions,
        }


_ADVICE = {
    "fp32": "A fault of this TensorRT: try another --opt-level or another version, and report it.",
    "fp16": "Try --precision bf16 or fp32 if they are exported; else export with --keep-fp32 NAME for the "
    "layers at fault.",
    "bf16": "Try --precision fp16 or fp32 if they are exported; else export with --keep-fp32 NAME for the "
    "layers at fault.",
}


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """plans/ made, cleared of what a killed build left, and this process its only builder until the end.

    Raises BuildError where another process builds in it, OutputError where it cannot be written.
    """
    folder = directory / "plans"
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(
            f"Cannot write plans to {folder}: {error.strerror}. Copy the engine directory to a folder that "
            "you may write to."
        ) from error
    try:
        _lock(handle, directory)
        for left in folder.glob(".*.plan.*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)  # unlocks


def _lock(handle: int, directory: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two builds at once are not told apart
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BuildError(
            f"Another `fiffdepth build` is at work in {directory}. Wait for its end, then run this again."
        ) from error

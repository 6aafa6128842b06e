"""Portable plans are held against the golden values when a GPU first opens them.

    <cache>/verdicts/<key>.json     of these plans on this GPU with this driver and library: agreed or not

That is done once for each GPU: the verdict is kept in the user's cache, since the directory may be read-only,
and a plan that disagreed is refused from then on without being run again. `fiffdepth verify` runs it again;
`fiffdepth doctor --engine DIR` says what was found. Who keeps no cache is spared the check of plans that the
manifest says were checked on some GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.tensorrt.fit import Lane, lanes
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS
from fiffdepth_rt.backends.tensorrt.here import Target, cuda_device_index, require
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob
from fiffdepth_rt.backends.tensorrt.opened import GpuRunner
from fiffdepth_rt.backends.tensorrt.parity import ParityCheck, read_reference
from fiffdepth_rt.backends.tensorrt.runtime_cache import RuntimeCache
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import STAGES, PlanRecord
from fiffdepth_rt.errors import BackendUnavailableError, OutputError, ParityError, PlanMismatchError
from fiffdepth_rt.gpu.cuda import Gpu

log = logging.getLogger("fiffdepth_rt.tensorrt")


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the golden values said of a journey's plans on a GPU. why: the ParityError; "" if they agreed."""

    agreed: bool
    why: str


def check_first_opening(
    engine_dir: EngineDir,
    chosen: Sequence[Lane],
    target: Target,
    gpu: Gpu,
    kernels: RuntimeCache | None = None,
) -> None:
    """Run the golden values through plans that this GPU has not run yet.

    The current GPU is `gpu`. kernels: where those that are compiled for it are kept.
    Raises ParityError where plans do not compute what the checkpoint does, or where that cannot be told; and
    what opening them raises.
    """
    for plans in _journeys(chosen):
        file = _verdict_file(engine_dir, plans, target, gpu)
        if all(plan.checked for plan in plans) and (file is None or not target.flavour.portable):
            continue
        verdict = _read(file)
        if verdict is None:
            log.info("checking plans that were never run on this GPU: this is done once")
            verdict = _judge(engine_dir, plans, target, kernels)
            _write(file, verdict)
        if not verdict.agreed:
            raise ParityError(verdict.why)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A journey's plans, and what was found of them on this GPU; None before they were checked on it."""

    plans: tuple[PlanRecord, ...]
    verdict: Verdict | None


def found_here(engine_dir: EngineDir, target: Target, gpu: Gpu) -> list[Found]:
    """Every journey of a directory whose plans fit this GPU."""
    found = []
    for precision in engine_dir.manifest.graph_sets:
        with contextlib.suppress(PlanMismatchError, BackendUnavailableError):
            for plans in _journeys(lanes(engine_dir.manifest, (precision,), target, engine_dir.path)):
                verdict = _read(_verdict_file(engine_dir, plans, target, gpu))
                if verdict is None and not target.flavour.portable and all(plan.checked for plan in plans):
                    verdict = Verdict(agreed=True, why="")  # on this GPU model, which built them
                found.append(Found(plans=plans, verdict=verdict))
    return found


def forget(engine_dir: EngineDir, device: str | None) -> None:
    """Forget what was found on this GPU, so that the next opening runs the golden values again."""
    for flavour in FLAVOURS:
        try:
            target, gpu = require(cuda_device_index(device), flavour)
        except BackendUnavailableError:
            continue
        for found in found_here(engine_dir, target, gpu):
            if (file := _verdict_file(engine_dir, found.plans, target, gpu)) is not None:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)


def _journeys(chosen: Sequence[Lane]) -> list[tuple[PlanRecord, ...]]:
    """The plans of each lane, by stage; once where lanes are profiles of the same plans."""
    journeys = {tuple(lane.plans[stage].file for stage in STAGES): lane for lane in chosen}
    return [tuple(lane.plans[stage] for stage in STAGES) for lane in journeys.values()]


def _judge(
    engine_dir: EngineDir, plans: Sequence[PlanRecord], target: Target, kernels: RuntimeCache | None
) -> Verdict:
    runner = GpuRunner(str(target.gpu_name), kernels)
    check = ParityCheck(engine_dir, read_reference(engine_dir), target, runner)
    done: dict[str, PlanJob] = {}
    for plan in plans:
        stage = engine_dir.manifest.graph_sets[plan.precision].stages[plan.stage]
        job = PlanJob(record=plan, graph=engine_dir.path / stage.file, stage=stage)
        try:
            check.rows(engine_dir.file(plan.file), job, done)
        except ParityError as error:
            return Verdict(agreed=False, why=str(error))
        done[plan.stage] = job
    return Verdict(agreed=True, why="")


def _verdict_file(
    engine_dir: EngineDir, plans: Sequence[PlanRecord], target: Target, gpu: Gpu
) -> Path | None:
    """Where the verdict lies; None where nothing is kept."""
    if (folder := cache_folder()) is None:
        return None
    hashes = [engine_dir.manifest.files[plan.file].sha256 for plan in plans]
    golden = engine_dir.manifest.golden
    hashes += [] if golden is None else [engine_dir.manifest.files[golden].sha256]
    told = [*hashes, gpu.name, gpu.compute_capability, gpu.driver_cuda, str(target.release)]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]
    return folder / "verdicts" / f"{key}.json"


def _read(file: Path | None) -> Verdict | None:
    """The verdict; None where there is none yet, or it is damaged."""
    try:
        return None if file is None else msgspec.json.decode(file.read_bytes(), type=Verdict)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):  # the last: no ValueError in 0.19
        return None


def _write(file: Path | None, verdict: Verdict) -> None:
    """Keep a verdict. Where that fails, the plans are checked again the next time."""
    if file is None:
        return
    with contextlib.suppress(OSError, OutputError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as out:
            out.write(json.dumps(msgspec.to_builtins(verdict), sort_keys=True).encode())

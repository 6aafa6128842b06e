"""A plan that was just built -> rows of the manifest's parity table, or a ParityError.

Each plan is run with the golden images of every shape it takes, and compared with numpy's values of the same
stage. The plan that completes a journey is also run in the whole journey: encoder, UNet, decoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends.grids import tensor_shape
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, number_format
from fiffdepth_rt.engine_dir import golden as parity
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.manifest import STAGES, GraphSet, PlanProfile, PlanRecord
from fiffdepth_rt.errors import ParityError
from fiffdepth_rt.image import fit, to_grid

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


class Runner(Protocol):
    """What opens plans on a GPU of this machine (`opened.GpuRunner`). device: the GPU's name."""

    @property
    def device(self) -> str: ...

    def open(self, plan: Path, job: PlanJob) -> StageRunner:
        """A plan, ready to run."""


class StageRunner(Protocol):
    """An opened plan: input -> output; the decoder's before the clip."""

    def __call__(self, value: Array) -> Array: ...

    def close(self) -> None: ...


_ADVICE = {
    "fp32": "A fault of this TensorRT: try another --opt-level or another version, and report it.",
    "fp16": "Try --precision bf16 or fp32 if they are exported; else export with --keep-fp32 NAME for the "
    "layers at fault.",
    "bf16": "Try --precision fp16 or fp32 if they are exported; else export with --keep-fp32 NAME for the "
    "layers at fault.",
}


def read_reference(engine_dir: EngineDir) -> parity.Golden:
    """The golden values of an engine directory.

    Raises ParityError where there are none, or where agreement with them would prove nothing.
    """
    if engine_dir.manifest.golden is None:
        raise ParityError(
            f"{engine_dir.path} holds no golden values, so a plan could not be checked. Export it again."
        )
    golden = read_golden(engine_dir.file(engine_dir.manifest.golden), engine_dir.manifest)
    parity.check_reference(golden)
    return golden


class ParityCheck:
    """The golden values of an engine directory, and the plans of one target held against them."""

    def __init__(
        self, engine_dir: EngineDir, golden: parity.Golden, target: Target, runner: Runner | None
    ) -> None:
        """runner: None where no plan is run, only asked which photos there are."""
        self._path = engine_dir.path
        self._graph_sets = engine_dir.manifest.graph_sets
        self._target = target
        self._runner = runner
        self._golden = golden

    def photo_grids(self, graphs: GraphSet) -> list[tuple[int, int]]:
        """The grids of the golden photos that these graphs take, one image at a time."""
        photos = (values for image, values in self._golden.items() if parity.is_photo(image))
        grids = dict.fromkeys(parity.grid_of(values) for values in photos)
        return [grid for grid in grids if self._photos_at(graphs, PlanProfile(grid=grid, batch=1))]

    def require_photo(self, precision: str, profiles: Sequence[PlanProfile]) -> None:
        """Raises ParityError unless one profile at least has a golden photo."""
        if not any(self._photos_at(self._graph_sets[precision], profile) for profile in profiles):
            raise ParityError(
                f"No golden photo of {self._path} has the shape that the graphs {precision} take, so a plan "
                "could not be checked. Export the directory again."
            )

    def rows(self, plan: Path, job: PlanJob, listed: Mapping[str, PlanJob]) -> list[dict[str, Any]]:
        """A fresh plan -> its rows of the parity table.

        listed: by stage, the jobs of the same journey whose plans are in the manifest already. Where they are
        all the other stages, the whole journey is compared too. Raises ParityError.
        """
        assert self._runner is not None
        open_plan = self._runner.open
        with contextlib.ExitStack() as stack:

            def opened(path: Path, job: PlanJob) -> StageRunner:
                return stack.enter_context(contextlib.closing(open_plan(path, job)))

            runners: dict[str, parity.RunStage] = {job.record.stage: opened(plan, job)}
            rows = self._compare_stage(job, runners[job.record.stage])
            if len(listed) == len(STAGES) - 1:
                for stage, other in listed.items():
                    runners[stage] = opened(self._path / other.record.file, other)
                rows += self._compare_journey(job, runners)
        return rows

    def _compare_stage(self, job: PlanJob, run: parity.RunStage) -> list[dict[str, Any]]:
        rows = []
        for profile in job.record.profiles:
            golden = self._golden_at(self._graph_sets[job.record.precision], profile)
            rows += parity.compare_stage(golden, job.record.stage, run, self._where(job, profile))
        parity.judge(rows, advice=_ADVICE[number_format(job.record.precision)])
        return [self._row_json(row) for row in rows]

    def _compare_journey(self, job: PlanJob, run: Mapping[str, parity.RunStage]) -> list[dict[str, Any]]:
        rows, unjudged = [], []
        for profile in job.record.profiles:
            where = self._where(job, profile)
            golden = self._golden_at(self._graph_sets[job.record.precision], profile)
            rows += parity.compare_chain(golden, run, where)
            if not golden:
                unjudged.append(self._row_without_reference(run, profile, where))
        parity.judge(rows, advice=_ADVICE[number_format(job.record.precision)])
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
                    f"infinity. {_ADVICE[number_format(where.graph_set)]}"
                )
        log.warning("%dx%d: golden.npz has no reference there; only checked for finite depth", height, width)
        return {
            **dataclasses.asdict(where),
            "note": "no reference at this grid: only checked for finite depth",
            "tensorrt_version": self._target.tensorrt_version,
            "stage": parity.CHAIN,
            "image": image,
            "grid": f"{height}x{width}",
            "gated": False,
            "passed": True,
        }

    def _golden_at(self, graphs: GraphSet, profile: PlanProfile) -> parity.Golden:
        """The golden images that a graph set takes under a profile."""
        inputs = {name: stage.inputs[0] for name, stage in graphs.stages.items()}
        return parity.of_shape(
            self._golden, {name: tensor_shape(spec, profile.grid, 1) for name, spec in inputs.items()}
        )

    def _photos_at(self, graphs: GraphSet, profile: PlanProfile) -> list[str]:
        return [image for image in self._golden_at(graphs, profile) if parity.is_photo(image)]

    def _where(self, job: PlanJob, profile: PlanProfile) -> parity.Where:
        return parity.Where(
            graph_set=job.record.precision,
            backend=self._target.flavour.name,
            device="" if self._runner is None else self._runner.device,
            batch=profile.batch,
        )

    def _row_json(self, row: parity.ParityRow) -> dict[str, Any]:
        return {**row.to_json(), "tensorrt_version": self._target.tensorrt_version}


def replace_rows(
    rows: Sequence[Mapping[str, Any]], plan: PlanRecord, new: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """The parity table with the rows of `plan`, and of the journeys through it, replaced by `new`."""
    grids = {f"{profile.grid[0]}x{profile.grid[1]}" for profile in plan.profiles}

    def is_of_plan(row: Mapping[str, Any]) -> bool:
        return (
            (row.get("graph_set"), row.get("backend"), row.get("tensorrt_version"))
            == (plan.precision, plan.flavour, plan.tensorrt_version)
            and plan.gpu_name in (row.get("device"), None)
            and row.get("stage") in (plan.stage, "chain")
            and row.get("grid") in grids
        )

    return (*(row for row in rows if not is_of_plan(row)), *new)

"""Does an engine on this machine compute what the checkpoint does? Golden values -> rows of the manifest.

    fiffdepth verify engines/fiffdepth --backend openvino --precision bf16

The export judged its graphs on the machine where it ran; another processor or another library computes in its
own way, bfloat16 above all. What agrees is recorded in the manifest's parity table, in place of what was
recorded for the same engine before; what does not is an error, and nothing is recorded.

Of plans that were built where no GPU was, it is the check on demand: they are run, whatever was found when
they were opened before, and the manifest then says that they were checked.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fiffdepth_rt.backends import Backend
from fiffdepth_rt.backends.grids import families
from fiffdepth_rt.backends.select import open_backend
from fiffdepth_rt.backends.tensorrt import first_check
from fiffdepth_rt.engine_dir.checking import EngineDir, open_engine_dir
from fiffdepth_rt.engine_dir.golden import (
    ParityRow,
    RunStage,
    StageValues,
    Where,
    compare_chain,
    compare_stage,
    is_photo,
    judge,
)
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.manifest import STAGES, read_manifest, write_manifest
from fiffdepth_rt.errors import ParityError

_ADVICE = "Use another precision or backend, and report it."


def check_parity(
    directory: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[ParityRow, ...]:
    """Engine directory -> rows of its stages and the chain on this engine, per image; nothing is written.

    The engine is chosen as `Depth` does. Raises what opening it raises, ParityError where it is beyond a gate
    or nothing can be compared.
    """
    engine_dir = open_engine_dir(directory)
    return _measure_parity(engine_dir, backend, device, precision, threads)[0]


def record_parity(
    directory: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[ParityRow, ...]:
    """Engine directory -> the same, with the rows of `check_parity` in its manifest.

    Raises what check_parity raises, OutputError.
    """
    engine_dir = open_engine_dir(directory)
    rows, engine = _measure_parity(engine_dir, backend, device, precision, threads)
    versions = {key: value for key, value in engine.items() if isinstance(value, str) and key != "cache"}
    new = [{**row.to_json(), "engine": versions, "date": datetime.date.today().isoformat()} for row in rows]
    manifest = read_manifest(engine_dir.path)
    plans = tuple(
        msgspec.structs.replace(plan, checked=True) if plan.file in engine.get("plans", ()) else plan
        for plan in manifest.plans
    )
    table = replace_rows(manifest.parity, new)
    write_manifest(engine_dir.path, msgspec.structs.replace(manifest, parity=table, plans=plans))
    return rows


def replace_rows(
    table: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """The parity table with `new` in place of the rows of the same graph set, backend and device."""

    def whose(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row.get("graph_set"), row.get("backend"), row.get("device")

    replaced = {whose(row) for row in new}
    return (*(row for row in table if whose(row) not in replaced), *new)


def _measure_parity(
    engine_dir: EngineDir, backend: str, device: str | None, precision: str | None, threads: int | None
) -> tuple[tuple[ParityRow, ...], Mapping[str, Any]]:
    """The rows, all within their gates, and `describe` of the engine that gave them."""
    first_check.forget(engine_dir, device)
    with contextlib.closing(
        open_backend(engine_dir, backend=backend, device=device, precision=precision, threads=threads)
    ) as opened:
        keys = families(engine_dir.manifest)[opened.precision].values()
        rows = tuple(row for key in keys for row in _compare(engine_dir, opened, key))
        engine = opened.describe()
    judge(rows, advice=_ADVICE)
    return rows, engine


def _compare(engine_dir: EngineDir, opened: Backend, key: str) -> list[ParityRow]:
    """One graph set's rows. Raises ParityError where no golden photo is on a grid that it takes."""
    if engine_dir.manifest.golden is None:
        raise ParityError(f"{engine_dir.path} holds no golden values. Export it again.")
    everything = read_golden(engine_dir.file(engine_dir.manifest.golden), engine_dir.manifest)
    golden = {image: values for image, values in everything.items() if _takes(engine_dir, key, values)}
    if not any(is_photo(image) for image in golden):
        raise ParityError(f"No golden photo of {engine_dir.path} is on a grid of {key}. Export it again.")
    where = Where(graph_set=key, backend=opened.name, device=opened.device)
    runs: dict[str, RunStage] = {
        "encoder": lambda value: opened.run_stage("encoder", value),
        "unet": lambda value: opened.run_stage("unet", value),
        "decoder": opened.run_unclipped,
    }
    rows = [row for stage in STAGES for row in compare_stage(golden, stage, runs[stage], where)]
    return rows + compare_chain(golden, runs, where)


def _takes(engine_dir: EngineDir, key: str, values: Mapping[str, StageValues]) -> bool:
    """Whether every stage of a graph set takes these golden inputs, and a photo can come that way."""
    manifest = engine_dir.manifest
    stages = manifest.graph_sets[key].stages
    asked = [(stages[stage].inputs[0].shape, values[stage].input.shape) for stage in STAGES]
    fits = all(
        not isinstance(dim, int) or dim == side
        for dims, sides in asked
        for dim, side in zip(dims, sides, strict=True)
    )
    dims, sides = asked[0]  # of the image: B×H×W×3
    # Other graph sets' goldens may be of grids that a set with free sizes is never given.
    on_grid = all(
        isinstance(dim, int) or side % manifest.size.multiple == 0
        for dim, side in zip(dims[1:3], sides[1:3], strict=True)
    )
    return fits and on_grid

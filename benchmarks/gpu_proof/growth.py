"""Step: time and memory from small photos to large ones. On a GPU, plans for all sizes are built first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_proof.full_size import engine_dir
from benchmarks.gpu_proof.nano import golden_grids, request_for
from benchmarks.gpu_proof.process import Findings, Task, answer
from benchmarks.gpu_proof.speed import Measured, measure, settings_for, work_of
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, read_manifest


def prove(task: Task) -> Iterator[Findings]:
    directory = engine_dir(task)
    if not (directory / MANIFEST_NAME).exists():
        yield Findings().and_check("ours was timed", None, "there is no engine directory: see full-size")
        return
    build_for_all_sizes(task, directory)
    work = work_of(task, settings_for(task, [directory], torch=True, growth=True))
    yield from measure(task, [(part, spec) for part, spec in work if part == "growth"])


def build_for_all_sizes(task: Task, directory: Path) -> None:
    """Plans of the first library that runs here, in place of those for one size."""
    flavour = next((flavour for flavour in FLAVOURS if here.usable(flavour).usable), None)
    if flavour is None:
        return
    manifest = read_manifest(directory)
    squares = tuple((side, side) for side in Measured.of(task).growth if side <= manifest.size.max)
    grids = tuple(dict.fromkeys((*golden_grids(directory), *squares)))
    built = [plan.precision for plan in manifest.plans if plan.flavour == flavour.name]
    if built:
        build_plans(directory, request_for(flavour, grids, built[0]))


if __name__ == "__main__":
    answer(prove)

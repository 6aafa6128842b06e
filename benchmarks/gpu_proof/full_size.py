"""Step: a checkpoint with SD 2.1's architecture and random weights is made here, exported to fp16, and built;
every stage is held against the golden values on every engine that runs here.

In a rehearsal it is a small model on the engines of a CPU; plans of TensorRT for RTX are built for real.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from PIL import Image

from benchmarks.gpu_proof.nano import SAMPLE, golden_grids, request_for
from benchmarks.gpu_proof.parity import check_engine, parity_table
from benchmarks.gpu_proof.process import Check, Findings, Task, answer
from benchmarks.gpu_proof.rehearsal import write_checkpoint
from benchmarks.rows.worker import ROOT
from fiffdepth_rt.backends.select import ENGINES
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS, Flavour
from fiffdepth_rt.backends.tensorrt.jobs import NUMBER_FORMATS, Request
from fiffdepth_rt.engine_dir.golden import ParityRow
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, read_manifest
from fiffdepth_rt.errors import BackendUnavailableError, FiffDepthError

EXPORT_NEEDS = ("torch", "diffusers", "safetensors", "onnx", "onnxscript")


def photo_px(task: Task) -> int:
    """The side of the square photos that the model of the proof sees."""
    return 128 if task.rehearse else 512


def prove(task: Task) -> Iterator[Findings]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directory = engine_dir(task)
    findings = Findings()
    if task.engines:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(task.engines[0], directory)
    elif (directory / MANIFEST_NAME).exists():
        findings = findings.and_check("exported", True, "by an earlier run")
    else:
        if missing := missing_for_export():
            yield findings.and_check("exported", None, missing)
            return
        yield (findings := export(task, directory, findings))
        if findings.checks[-1].passed is False:
            return
    yield from prove_engines(task, directory, findings)


def engine_dir(task: Task) -> Path:
    """The full model's, in the shared folder."""
    return task.folder / "engines" / "full"


def checkpoint(task: Task) -> Path:
    """What is exported: the user's, or the random one."""
    return Path(task.checkpoint) if task.checkpoint else task.folder / "random"


def missing_for_export() -> str:
    """Which libraries an export needs and this machine lacks, in words; "" for none."""
    missing = [name for name in EXPORT_NEEDS if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)}: not installed" if missing else ""


def export(task: Task, directory: Path, findings: Findings, *, light: Path | None = None) -> Findings:
    """The checkpoint -> an fp16 engine directory without plans. light: a VAE in the full one's place."""
    from export.build_engines import export_engine_dir
    from export.model import Given
    from export.options import Options, graph_forms
    from export.precision import Precision

    start = time.perf_counter()
    given = Given(recipe=task.recipe, encoder=light, decoder=light)
    if task.checkpoint is None:
        name = "random" if light is None else "random, light VAE"
        given = dataclasses.replace(given, recipe="fiffdepth", name=name, licence="CC0-1.0")
        make_checkpoint(task)
    options = Options(
        checkpoint=checkpoint(task),
        output=directory,
        given=given,
        forms=graph_forms((Precision.FP16,)),
        size=photo_px(task) if task.checkpoint is None else None,
        photos=square_photos(task.folder),
        plans=False,
    )
    try:
        export_engine_dir(options)
    except FiffDepthError as error:
        return findings.and_check("exported", False, str(error))
    return findings.and_check("exported", True, f"{time.perf_counter() - start:.0f} s, checkpoint included")


def make_checkpoint(task: Task) -> None:
    """The random checkpoint, made if it is not there."""
    path = checkpoint(task)
    if path.exists():
        return
    if task.rehearse:
        write_checkpoint(path)
    else:
        make_random(path, "--layout", "folder", "--dtype", "fp16", "--weak-branches")


def make_random(path: Path, *options: str) -> None:
    """`python -m training.weights.random`, in a process of its own: its memory is free afterwards."""
    done = path.with_name(f".{path.name}.unfinished")
    command = [sys.executable, "-m", "training.weights.random", str(done), *options]
    subprocess.run(command, cwd=ROOT, check=True)
    for made in sorted(done.parent.glob(f"{done.name}?*")):  # the prompt embedding beside it, first
        made.rename(made.with_name(made.name.replace(done.name, path.name)))
    done.rename(path)


def square_photos(folder: Path) -> tuple[Path, ...]:
    """The sample's left and right square: golden photos on one grid, so that plans need one profile."""
    with Image.open(SAMPLE) as photo:
        width, height = photo.size
        squares = {"left": (0, 0, height, height), "right": (width - height, 0, width, height)}
        for name, box in squares.items():
            photo.crop(box).save(folder / f"{name}.png")
    return tuple(folder / f"{name}.png" for name in squares)


def prove_engines(task: Task, directory: Path, findings: Findings) -> Iterator[Findings]:
    """Plans, and parity, on every engine that runs here."""
    sets = read_manifest(directory).graph_sets
    precision = next(name for name in (*NUMBER_FORMATS, *sets) if name in sets)
    rows: list[ParityRow] = []
    for flavour in FLAVOURS:
        check, runs_here = build(task, directory, flavour, precision)
        yield (findings := msgspec.structs.replace(findings, checks=(*findings.checks, check)))
        if runs_here and check.passed:
            yield (findings := _with_parity(findings, rows, directory, flavour.name, "cuda", precision))
    for engine in ENGINES if task.rehearse else ():
        if engine.ready is None and engine.usable().usable and engine.takes(sets[precision]):
            yield (findings := _with_parity(findings, rows, directory, engine.name, "cpu", precision))


def build(task: Task, directory: Path, flavour: Flavour, precision: str) -> tuple[Check, bool]:
    """The plans of one library, as a check; and whether they run here."""
    name, start = f"{flavour.title}: plans are built", time.perf_counter()
    usability = here.usable(flavour)
    try:
        if usability.usable:
            request = request_for(flavour, golden_grids(directory), precision)
        elif task.rehearse and flavour.portable:
            here.require_builder(flavour)
            request = Request(flavour=flavour, grids=golden_grids(directory), precision=precision)
        else:
            return Check(name=name, passed=None, words=f"{usability.why}. Run: {usability.fix}"), False
        plans = build_plans(directory, request)
    except BackendUnavailableError as error:
        return Check(name=name, passed=None, words=str(error)), False
    except FiffDepthError as error:
        return Check(name=name, passed=False, words=str(error)), usability.usable
    size = sum(read_manifest(directory).files[plan.file].bytes for plan in plans)
    state = "checked on this GPU" if all(plan.checked for plan in plans) else "not yet run on a GPU"
    words = f"{size / 1e6:,.0f} MB in {time.perf_counter() - start:.0f} s, {state}"
    return Check(name=name, passed=True, words=words), usability.usable


def _with_parity(
    findings: Findings, rows: list[ParityRow], directory: Path, backend: str, device: str, precision: str
) -> Findings:
    found = check_engine(directory, backend=backend, device=device, precision=precision)
    rows += found.rows
    return msgspec.structs.replace(findings, checks=(*findings.checks, found.check), text=parity_table(rows))


if __name__ == "__main__":
    answer(prove)

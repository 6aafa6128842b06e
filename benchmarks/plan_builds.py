"""What it costs to build plans of TensorRT for RTX: time, memory and bytes, stage by stage. No GPU is needed.

    python -m benchmarks.plan_builds              # SD 2.1's size, random weights, fp16; and the bundled nano
    python -m benchmarks.plan_builds --save
    python -m benchmarks.plan_builds --width 0.2 --compute-capability 8.9

Every graph is written, and every plan built, in a process of its own, whose largest resident memory is the
row's. CPU time is that of all its threads, and does not mind other programs. Weights and activations are the
GPU memory that the builder predicts. Nothing is run: what a plan of random weights computes means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import click
import psutil
from tqdm import tqdm

from benchmarks import commands
from benchmarks.machine import high_water_mib, peak_host_mib
from benchmarks.report import Report, publish, table
from fiffdepth_rt.backends.tensorrt.build_process import ProcessBuilder
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.here import require_builder
from fiffdepth_rt.backends.tensorrt.jobs import (
    PlanJob,
    Request,
    choose_precision,
    choose_profiles,
    plan_jobs,
    portable_target,
)
from fiffdepth_rt.backends.tensorrt.versions import Release
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import (
    BUNDLED,
    STAGES,
    GraphSet,
    Licence,
    Manifest,
    SizeLimits,
    Stage,
    read_manifest,
)
from fiffdepth_rt.machine import MIB, installed, machine_card
from fiffdepth_rt.space import Space
from fiffdepth_rt.version import __version__

FULL_SIZE, NANO = "SD 2.1, random", "nano"
LIMITS_S = {FULL_SIZE: 180, NANO: 30}  # of a set's three builds, on two cores at rest
LIMIT_BYTES = 8e9
LIBRARIES = ("tensorrt-rtx-cu13", "torch", "onnx", "onnxscript")
_LOOK_S = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one process. peak_mib: its largest resident memory; None where the system does not tell."""

    wall_s: float
    cpu_s: float
    peak_mib: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """One plan. weight_bytes, activation_bytes: of GPU memory, as predicted; None where nothing was said."""

    model: str
    precision: str
    grid_hw: tuple[int, int]
    compute_capability: str
    stage: str
    cost: Cost
    plan_bytes: int
    weight_bytes: int | None
    activation_bytes: int | None


def write_random_graph(folder: Path, name: str, *, width: float, size: int) -> tuple[Stage, Cost]:
    """A stage of SD 2.1's architecture with random weights -> its fp16 graph in `folder`, for any grid.

    For a process of its own: the Cost is the whole process's.
    """
    import torch

    from export.graph_set import build_stage
    from export.model import Model
    from export.onnx_graphs import GraphForm, write_graph
    from export.precision import Precision
    from export.recipe import RECIPES
    from training.weights.random import random_unet, random_vae

    start = time.perf_counter()
    torch.manual_seed(0)
    stage = build_stage(
        name,
        Model(
            layout="own",
            name=FULL_SIZE,
            recipe=RECIPES["fiffdepth"],
            output_space="depth",
            size_default=size,
            size_max=size,
            licence="CC0-1.0",
            data_sources=("random numbers",),
            licence_file=None,
            unet=random_unet(width) if name == "unet" else None,
            vae=None if name == "unet" else random_vae(width),
            prompt_embedding=torch.randn(1, 2, 1024),
            scheduler_config=None,
            sha256="",
        ),
    )
    written = write_graph(folder, name, stage, GraphForm(precision=Precision.FP16))
    graph = Stage(
        file=written.file,
        external_data=written.external_data,
        inputs=written.inputs,
        outputs=written.outputs,
    )
    seconds = time.perf_counter() - start
    return graph, Cost(wall_s=seconds, cpu_s=time.process_time(), peak_mib=peak_host_mib())


def random_model(folder: Path, *, width: float, size: int) -> tuple[Manifest, dict[str, Cost]]:
    """Graphs of SD 2.1's architecture, in `folder` -> their manifest, and what each stage's export cost."""
    stages, costs = dict[str, Stage](), dict[str, Cost]()
    for name in STAGES:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            written = pool.submit(write_random_graph, folder, name, width=width, size=size)
            stages[name], costs[name] = written.result()
    files = [file for stage in stages.values() for file in (stage.file, *stage.external_data)]
    manifest = Manifest(
        name=FULL_SIZE,
        recipe="fiffdepth",
        output_space=Space("depth"),
        size=SizeLimits(default=size, max=size, multiple=64),
        graph_sets={"fp16": GraphSet(precision="fp16", opset=18, form="grid", stages=stages)},
        files={file: hash_file(folder / file) for file in files},
        licence=Licence(model="CC0-1.0", data_sources=("random numbers",)),
        golden=None,
        plans=(),
        provenance={},
        parity=(),
    )
    return manifest, costs


def measure_builds(
    manifest: Manifest, graphs: Path, scratch: Path, release: Release, compute_capability: str | None
) -> Iterator[Build]:
    """The plans of a model at its default size, one after another; each is deleted once it was measured."""
    request = Request(flavour=TENSORRT_RTX, compute_capability=compute_capability)
    precision = choose_precision(manifest, None, release, graphs, compute_capability)
    profiles = choose_profiles(request, manifest, manifest.graph_sets[precision], ())
    target = portable_target(request, release)
    builder = ProcessBuilder(target, runner=None, versions={})
    (journey,) = plan_jobs(
        request, manifest, target, directory=graphs, precision=precision, profiles=profiles
    )
    for job in journey:
        plan = scratch / "plan"
        with child_cost() as cost:
            memory = builder.build(job, plan, timing_cache=scratch / "timing.cache", on_progress=None)
        yield Build(
            model=manifest.name,
            precision=precision,
            grid_hw=profiles[0].grid,
            compute_capability=_shown(job),
            stage=job.record.stage,
            cost=cost[0],
            plan_bytes=plan.stat().st_size,
            weight_bytes=None if memory is None else memory.weight_bytes,
            activation_bytes=None if memory is None else memory.activation_bytes[0],
        )
        plan.unlink()


def _shown(job: PlanJob) -> str:
    newer = " and newer" if job.record.hardware_compatibility == "ampere_plus" else ""
    return f"{job.record.compute_capability}{newer}"


@contextlib.contextmanager
def child_cost() -> Iterator[list[Cost]]:
    """What the one process costs that starts and ends in the block; in the list when the block ends.

    Its peak is Linux's own high-water mark, read every 20 ms until the process is gone: a rise in its last
    20 ms is missed. The latest mark counts: before it starts its program, a process shares its parent's.
    """
    marks, ended, found = dict[int, float](), threading.Event(), list[Cost]()
    others = {child.pid for child in psutil.Process().children()}

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            for child in psutil.Process().children():
                if child.pid in others:
                    continue
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{child.pid}/status").read_text()
                    if mark := high_water_mib(status):
                        marks[child.pid] = mark

    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        seconds = time.perf_counter() - start
        ended.set()
        watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found.append(Cost(wall_s=seconds, cpu_s=cpu_s, peak_mib=max(marks.values(), default=None)))


def markdown(exports: Mapping[str, Cost], builds: Sequence[Build]) -> str:
    """The graphs, the plans, and sums beside the limits."""
    graphs = [[name, *_costs(cost)] for name, cost in exports.items()]
    plans = [
        [
            build.model,
            f"{build.precision} {build.grid_hw[0]}×{build.grid_hw[1]}",
            build.compute_capability,
            build.stage,
            *_costs(build.cost),
            *(_mb(nbytes) for nbytes in (build.plan_bytes, build.weight_bytes, build.activation_bytes)),
        ]
        for build in builds
    ]
    costs = ["CPU s", "wall s", "peak GB"]
    memory = ["plan MB", "weights MB", "activations MB"]
    return "\n\n".join(
        [
            table(["fp16 graph", *costs], graphs, align="lrrr"),
            table(["model", "graphs", "capability", "stage", *costs, *memory], plans, align="llllrrrrrr"),
            _limits(builds),
        ]
    )


def _limits(builds: Sequence[Build]) -> str:
    rows = []
    for model, capability in dict.fromkeys((build.model, build.compute_capability) for build in builds):
        mine = [b.cost for b in builds if (b.model, b.compute_capability) == (model, capability)]
        wall_s, cpu_s = sum(cost.wall_s for cost in mine), sum(cost.cpu_s for cost in mine)
        peak = max((cost.peak_mib or 0.0) * MIB for cost in mine)
        rows.append(
            [
                model,
                capability,
                f"{cpu_s:.1f}",
                f"{wall_s:.1f} of {LIMITS_S[model]}",
                f"{peak / 1e9:.2f} of {LIMIT_BYTES / 1e9:.0f}",
                _verdict(wall_s, cpu_s, peak, LIMITS_S[model]),
            ]
        )
    headers = ["three plans of", "capability", "CPU s", "wall s, limit", "peak GB, limit", "within"]
    return table(headers, rows, align="llrrrl")


def _verdict(wall_s: float, cpu_s: float, peak_bytes: float, limit_s: float) -> str:
    """Whether a set is within the limits of a machine at rest. A builder keeps one thread busy."""
    if peak_bytes > LIMIT_BYTES or cpu_s > limit_s:
        return "NO"
    return "yes" if wall_s <= limit_s else "in CPU time; other programs ran"


def _costs(cost: Cost) -> list[str]:
    peak = "" if cost.peak_mib is None else f"{cost.peak_mib * MIB / 1e9:.2f}"
    return [f"{cost.cpu_s:.1f}", f"{cost.wall_s:.1f}", peak]


def _mb(nbytes: int | None) -> str:
    return "" if nbytes is None else f"{nbytes / 1e6:.1f}"


@commands.command(__doc__)
@click.option(
    "--width",
    metavar="W",
    type=click.FloatRange(0.01, 4),
    default=1.0,
    show_default=True,
    help="Of the random model; 1: SD 2.1.",
)
@click.option(
    "--size", metavar="N", type=commands.COUNT, default=512, show_default=True, help="Its square grid, in px."
)
@click.option(
    "--compute-capability",
    "capabilities",
    metavar="X.Y",
    multiple=True,
    default=("7.5",),
    show_default=True,
    help="Also plans for this one alone; several times for several. First come plans for 8.0 and newer.",
)
@commands.save
def main(width: float, size: int, capabilities: tuple[str, ...], save: bool) -> None:
    release = require_builder(TENSORRT_RTX)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        model, exports = random_model(scratch / "graphs", width=width, size=size)
        wanted = [(model, scratch / "graphs", one) for one in (None, *capabilities)]
        wanted.append((read_manifest(BUNDLED), BUNDLED, None))
        builds = list[Build]()
        for manifest, graphs, capability in tqdm(wanted, unit="set", disable=None):
            builds += measure_builds(manifest, graphs, scratch, release, capability)
    report = Report(
        benchmark="plan_builds",
        subject="sd21-random" if width == 1 else f"sd21-random-{width:g}",
        title="Building plans of TensorRT for RTX",
        command=commands.typed("plan_builds"),
        card=machine_card(installed(LIBRARIES) | {"fiffdepth_rt": __version__}),
        facts={
            "library": str(release),
            "random model": f"SD 2.1's architecture at width {width:g}",
            "load": "{:.1f}, {:.1f}, {:.1f} (the system's, over 1, 5 and 15 minutes, at the end)".format(
                *psutil.getloadavg()
            ),
        },
        text=markdown(exports, builds),
        figures={
            "exports": {name: dataclasses.asdict(cost) for name, cost in exports.items()},
            "builds": [dataclasses.asdict(build) for build in builds],
        },
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

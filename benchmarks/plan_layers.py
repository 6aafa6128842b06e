"""What TensorRT made of the graphs: the layers of this machine's plans, and whether attention was fused.

python -m benchmarks.plan_layers engines/fiffdepth

`polygraphy inspect model PLAN --model-type engine --show layers` prints the layers of one plan. This command
is kept beside it: it knows which plans run here, fills stripped plans, and counts fused attention; and
polygraphy (0.53) divides the number of layers by the number of profiles, which is one per grid and batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import json
from collections.abc import Iterator, Sequence

import click

from benchmarks import commands
from fiffdepth_rt.backends.tensorrt.fit import check_fits
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS, TENSORRT, load
from fiffdepth_rt.backends.tensorrt.here import Target, require
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob
from fiffdepth_rt.engine_dir.checking import EngineDir, open_engine_dir
from fiffdepth_rt.engine_dir.manifest import PlanRecord
from fiffdepth_rt.errors import PlanMismatchError
from fiffdepth_rt.program.terminal import tell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """Layers by what their names say. fused: attention kernels; softmax: left alone; other: all others."""

    fused: tuple[str, ...]
    softmax: tuple[str, ...]
    other: int

    def verdict(self) -> str:
        if not (self.fused or self.softmax):
            return "no attention to be seen"
        if not self.softmax:
            return f"attention fused ({len(self.fused)} kernels)"
        if not self.fused:
            return f"attention NOT fused ({len(self.softmax)} softmax layers)"
        return (
            f"attention partly fused ({len(self.fused)} kernels, {len(self.softmax)} softmax layers beside)"
        )


def layer_names(information: str) -> tuple[str, ...]:
    """The inspector's JSON -> layer names; it lists names, or objects if the plan was built to tell more."""
    layers = json.loads(information)["Layers"]
    return tuple(layer if isinstance(layer, str) else str(layer["Name"]) for layer in layers)


def attention(names: Sequence[str]) -> Attention:
    """Fused attention is called "mha" in TensorRT's own kernel names (such as _gemm_mha_v2)."""
    fused = tuple(name for name in names if "mha" in name.lower())
    softmax = tuple(name for name in names if "softmax" in name.lower() and name not in fused)
    return Attention(fused=fused, softmax=softmax, other=len(names) - len(fused) - len(softmax))


def inspect(engine_dir: EngineDir, target: Target) -> Iterator[tuple[PlanRecord, tuple[str, ...]]]:
    """The plans that run here, with their layers."""
    from fiffdepth_rt.backends.tensorrt.opened import deserialize

    trt = load(target.flavour)
    for plan in engine_dir.manifest.plans:
        if plan.flavour != target.flavour.name:
            continue
        try:
            check_fits(plan, target, engine_dir.path)
        except PlanMismatchError:
            continue
        stage = engine_dir.manifest.graph_sets[plan.precision].stages[plan.stage]
        job = PlanJob(record=plan, graph=engine_dir.path / stage.file, stage=stage)
        inspector = deserialize(engine_dir.path / plan.file, job).create_engine_inspector()
        yield plan, layer_names(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


@click.command(cls=commands.Benchmark)
@click.argument("directory", metavar="ENGINE_DIR", type=commands.FOLDER)
@click.option("--names", is_flag=True, help="Every layer's name as well.")
def main(directory: Path, names: bool) -> None:
    """Say for each plan of ENGINE_DIR that runs here how many layers it has, and whether attention was fused.

    \b
    Examples:
      python -m benchmarks.plan_layers engines/fiffdepth
    """
    engine_dir = open_engine_dir(directory)
    planned = {plan.flavour for plan in engine_dir.manifest.plans}
    for flavour in [flavour for flavour in FLAVOURS if flavour.name in planned] or [TENSORRT]:
        target, _ = require(flavour=flavour)
        for plan, layers in inspect(engine_dir, target):
            tell(f"{plan.file}: {len(layers)} layers, {attention(layers).verdict()}")
            for name in layers if names else ():
                tell(f"  {name}")


if __name__ == "__main__":
    main()

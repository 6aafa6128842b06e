"""Where does an engine first depart? Layer by layer, against ONNX Runtime in fp32, through polygraphy.

python -m benchmarks.compare_engines engines/fiffdepth

Both engines run a golden photo's values, with the layers' outputs made outputs of the graph, and so fuse less
than they do otherwise: what is compared is close to what runs, not equal to it. On a CPU, ONNX Runtime rounds
to fp16 between layers and computes inside them in fp32: a departure there is one of range or rounding, while
one with TensorRT alone is one of its kernels. With TensorRT and TensorRT for RTX: written, API-checked, never
run on a GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import tempfile
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks import commands
from benchmarks.polygraphy_runners import ENGINES, polygraphy_for, runner
from benchmarks.report import table
from fiffdepth_rt.backends.onnxruntime import backend as onnxruntime
from fiffdepth_rt.engine_dir.checking import EngineDir, open_engine_dir
from fiffdepth_rt.engine_dir.golden import is_photo
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.manifest import STAGES
from fiffdepth_rt.errors import ParityError
from fiffdepth_rt.program.terminal import tell

WITH_WEIGHTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # their outputs have one name in every precision
QUANTILE = 0.999

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's output in two engines. number: of its node in the reference's graph, from 0.

    mean, p999: of |difference|, relative to the reference's standard deviation; infinite where an engine gave
    NaN or infinity and the other did not.
    """

    number: int
    name: str
    operator: str
    mean: float
    p999: float

    def is_beyond(self, distance: float) -> bool:
        return not self.mean <= distance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared. reference, precision: graph sets, of ONNX Runtime and of `engine`.

    every: all tensors, not only the outputs of WITH_WEIGHTS.
    """

    reference: str
    precision: str
    engine: str
    every: bool


def compare_stage(engine_dir: EngineDir, stage: str, comparison: Comparison) -> list[Layer]:
    """A stage's layers, in the order of the graph.

    Raises ParityError where there are no golden photos, and what polygraphy raises where an engine fails.
    """
    takes, value = golden_input(engine_dir, comparison, stage)
    with polygraphy_for(comparison.engine), tempfile.TemporaryDirectory() as folder:
        from polygraphy.comparator import Comparator, SimpleCompareFunc

        graphs = [
            mark_layers(engine_dir.graph(graph_set, stage).path, Path(folder) / name, every=comparison.every)
            for name, graph_set in (("reference", comparison.reference), ("other", comparison.precision))
        ]
        runners = [
            runner(onnxruntime.NAME, graphs[0], takes, value.shape, name="reference"),
            runner(comparison.engine, graphs[1], takes, value.shape, name="other"),
        ]
        run = Comparator.run(runners, data_loader=[{takes: value}])
        differences = SimpleCompareFunc(
            check_error_stat="quantile", error_quantile=QUANTILE, find_output_func=_same_name
        )
        with np.errstate(all="ignore"):  # values that are not finite are said below
            (found,) = Comparator.compare_accuracy(run, compare_func=differences)
        ((results,),) = found.values()
        reference = run[0][1][0]
        return sorted(
            (
                _layer(name, results[name], reference[name], node)
                for name, node in nodes(graphs[0]).items()
                if name in results
            ),
            key=lambda layer: layer.number,
        )


def golden_input(engine_dir: EngineDir, comparison: Comparison, stage: str) -> tuple[str, Array]:
    """The name of a stage's input, and a golden photo's values that both graph sets take."""
    manifest = engine_dir.manifest
    if manifest.golden is None:
        raise ParityError(f"{engine_dir.path} holds no golden values. Export it again.")
    sets = [manifest.graph_sets[name] for name in (comparison.reference, comparison.precision)]
    specs = [graphs.stages[stage].inputs[0] for graphs in sets]
    for image, values in read_golden(engine_dir.file(manifest.golden)).items():
        value = values[stage].input
        if is_photo(image) and all(_takes(spec.shape, value.shape) for spec in specs):
            return specs[0].name, value
    raise ParityError(f"No golden photo of {engine_dir.path} is on a grid that both graph sets take.")


def _takes(dims: Sequence[int | str], sides: Sequence[int]) -> bool:
    return all(isinstance(dim, str) or dim == side for dim, side in zip(dims, sides, strict=True))


# --- graphs ---


def mark_layers(graph: Path, folder: Path, *, every: bool) -> Path:
    """An ONNX graph -> the same with its layers' outputs as outputs too, in a new folder with its weights."""
    from polygraphy import constants
    from polygraphy.backend.onnx import InferShapes, modify_outputs, save_onnx

    folder.mkdir()
    model = InferShapes(str(graph), allow_onnxruntime=False)()
    # TensorRT's parser asks for types of outputs, and polygraphy forgets those of the graph's own.
    model.graph.value_info.extend(model.graph.output)
    which = {"outputs": constants.MARK_ALL} if every else {"mark_types": WITH_WEIGHTS}
    own = list(model.graph.output)
    marked = modify_outputs(model, **which)
    there = {value.name for value in marked.graph.output}
    marked.graph.output.extend(value for value in own if value.name not in there)  # such as a concatenation's
    path = folder / graph.name
    save_onnx(marked, str(path), external_data_path=f"{graph.name}.data")
    return path


def nodes(graph: Path) -> dict[str, tuple[int, str]]:
    """Output -> (number of the node that gives it, operator)."""
    import onnx

    listed = enumerate(onnx.load(graph, load_external_data=False).graph.node)
    return {output: (number, node.op_type) for number, node in listed for output in node.output}


def _same_name(name: str, _: int, other: Any) -> list[str]:
    """polygraphy pairs other names by guess."""
    return [name] if name in other else []


def _layer(name: str, result: Any, reference: Array, node: tuple[int, str]) -> Layer:
    deviation = max(float(np.std(reference.astype(np.float64))), 1e-12)
    distances = (result.mean_absdiff / deviation, result.quantile_absdiff / deviation)
    mean, p999 = (distance if np.isfinite(distance) else float("inf") for distance in distances)
    return Layer(number=node[0], name=name, operator=node[1], mean=mean, p999=p999)


# --- the command ---


def layers_table(stage: str, layers: Sequence[Layer]) -> str:
    cells = [
        [stage, str(layer.number), layer.operator, layer.name, f"{layer.mean:.1e}", f"{layer.p999:.1e}"]
        for layer in layers
    ]
    headers = ["stage", "node", "operator", "output", "mean / deviation", "p99.9 / deviation"]
    return table(headers, cells, align="lrllrr")


# fmt: off
@click.command(cls=commands.Benchmark)
@click.argument("directory", metavar="ENGINE_DIR", type=commands.FOLDER)
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="By default all three.")
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True,
              help="What is held against ONNX Runtime.")
@click.option("--precision", default="fp16", show_default=True, help="The graph set that it runs.")
@click.option("--reference", default="fp32", show_default=True, help="The graph set that ONNX Runtime runs.")
@click.option("--beyond", "distance", metavar="D", default=0.02, show_default=True,
              help="Distance from which on a layer is listed: mean error by the reference's deviation.")
@click.option("--first", "count", metavar="N", type=commands.COUNT, default=10, show_default=True,
              help="How many layers are listed of each stage.")
@click.option("--every", is_flag=True, help="All tensors, not only outputs of convolutions and products.")
def main(
    directory: Path,
    stages: tuple[str, ...],
    engine: str,
    precision: str,
    reference: str,
    distance: float,
    count: int,
    every: bool,
) -> None:
    """List the first layers of ENGINE_DIR whose values depart, in an engine, from ONNX Runtime's in fp32.

    The input is a golden photo's. The exit status is 1 where a layer is beyond the distance.

    \b
    Examples:
      python -m benchmarks.compare_engines engines/fiffdepth
      python -m benchmarks.compare_engines engines/fiffdepth --stage unet --engine tensorrt-rtx
    """
    engine_dir = open_engine_dir(directory)
    for name in (reference, precision):
        if name not in engine_dir.manifest.graph_sets:
            there = ", ".join(engine_dir.manifest.graph_sets)
            raise click.ClickException(f"{directory} holds no graph set {name}, but {there}.")
    comparison = Comparison(reference=reference, precision=precision, engine=engine, every=every)
    departed = False
    for stage in stages or STAGES:
        layers = compare_stage(engine_dir, stage, comparison)
        beyond = [layer for layer in layers if layer.is_beyond(distance)]
        departed |= bool(beyond)
        if beyond:
            of_all = f"{len(beyond)} of {len(layers)} layers are beyond {distance:g}"
            tell(f"{stage}: {of_all}. The first:\n")
            tell(layers_table(stage, beyond[:count]) + "\n")
        else:
            farthest = max(layers, key=lambda layer: layer.mean)
            tell(f"{stage}: none of {len(layers)} layers is beyond {distance:g}. The farthest:\n")
            tell(layers_table(stage, [farthest]) + "\n")
    if departed:
        raise SystemExit(1)


# fmt: on
if __name__ == "__main__":
    main()

"""START HERE. A checkpoint -> a verified engine directory.

    python -m export.build_engines ckpt.safetensors -o engines/fiffdepth

reads the checkpoint, computes what it gives on two photos and noise (the reference), folds what is constant,
traces the three stages to ONNX, runs the graphs, and writes the directory only if they agree with it.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import logging
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import torch

from export import parity
from export.checkpoint import Model, parameter_count, read_checkpoint
from export.engines import OnnxRuntimeStages
from export.folding import FOLD_NAMES, fold
from export.golden_photos import golden_images
from export.onnx_graphs import GRID_MULTIPLE, Precision, WrittenGraph, write_graph
from export.recipe import RECIPES, output_scale
from export.stages import STAGES, DecoderStage, EncoderStage, UnetStage
from export.workplace import Make, Workplace, refuse_existing, writing
from fiffdepth_rt.engine_dir import (
    GraphSet,
    Licence,
    Manifest,
    SizeLimits,
    Stage,
    TensorSpec,
    open_engine_dir,
    write_manifest,
)
from fiffdepth_rt.errors import FiffDepthError

GOLDEN = "golden.npz"
LICENCE = "LICENSE"
TOOLS = ("torch", "diffusers", "onnx", "onnxscript", "onnxruntime")
log = logging.getLogger("fiffdepth_export")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """One export. size, size_max: None for what the checkpoint says; leave_out: names of folds."""

    checkpoint: Path
    output: Path
    recipe: str | None = None
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    size: int | None = None
    size_max: int | None = None
    photos: tuple[Path, ...] = ()
    licence_file: Path | None = None
    leave_out: frozenset[str] = frozenset()
    overwrite: bool = False
    resume: bool = True
    accept_parity: bool = False
    command: str = ""


def export_engine_dir(options: Options) -> Path:
    """checkpoint -> engine directory at `options.output`, whole or not at all.

    Raises ExportError, OutputError, ImageError. What was done before a failure is kept in a hidden sibling,
    and the same options go on from there.
    """
    refuse_existing(options.output, overwrite=options.overwrite)
    model = _sized(read_checkpoint(options.checkpoint, recipe=options.recipe), options)
    log.info("%s", model.description)
    work = Workplace(
        options.output, key=_key(model, options), overwrite=options.overwrite, resume=options.resume
    )
    if work.pieces_found:
        log.info("going on after %s", ", ".join(work.pieces_found))

    golden = work.piece(*_golden_piece(work.folder, model, options))
    graph_sets, rows = {}, []
    for precision in options.precisions:
        graph_sets[precision.value] = _graph_set(work, model, precision, options)
        compare = functools.partial(_parity, work.folder, precision)
        found = work.piece(f"{precision.value}/parity on {golden}", compare)
        if not options.accept_parity:
            parity.judge([parity.Row(**row) for row in found], precision)
        rows += found
    if options.licence_file is not None:
        work.piece("licence", functools.partial(_copy_licence, work.folder, options.licence_file))
    manifest = Manifest(
        name=model.name,
        recipe=model.recipe.name,
        output_space=model.output_space,
        size=SizeLimits(default=model.size_default, max=model.size_max, multiple=GRID_MULTIPLE),
        graph_sets=graph_sets,
        files=work.files(),
        golden=GOLDEN,
        provenance=_provenance(model, options),
        parity=tuple(rows),
        licence=Licence(model=model.licence, data_sources=model.data_sources),
    )
    with writing(options.output):
        write_manifest(work.folder, manifest)
    open_engine_dir(work.folder)
    work.finish()
    return options.output


def build_stage(name: str, model: Model, *, leave_out: frozenset[str] = frozenset()) -> torch.nn.Module:
    """model -> one stage as a torch module in fp32, folded."""
    if name == "unet":
        stage: torch.nn.Module = UnetStage(
            model.unet,
            timestep=model.recipe.timestep,
            prompt=model.prompt_embedding,
            class_labels=model.recipe.class_labels_tensor(),
            zero_channels=model.recipe.zero_channels,
            output_scale=output_scale(model.recipe, model.scheduler_config),
        )
    else:
        stage = {"encoder": EncoderStage, "decoder": DecoderStage}[name](model.vae)
    fold(name, stage, leave_out=leave_out)
    return stage.eval().requires_grad_(False)


def _sized(model: Model, options: Options) -> Model:
    default = options.size or model.size_default
    largest = options.size_max or max(model.size_max, default)
    return dataclasses.replace(
        model, size_default=default, size_max=-(-largest // GRID_MULTIPLE) * GRID_MULTIPLE
    )


def _graph_set(work: Workplace, model: Model, precision: Precision, options: Options) -> GraphSet:
    stages = {}
    folder = f"graphs/{precision.value}"
    for name in STAGES:

        def make(name: str = name) -> tuple[dict[str, Any], list[str]]:
            stage = build_stage(name, model, leave_out=options.leave_out)
            log.info("tracing %s %s (%.1f M parameters)", precision.value, name, parameter_count(stage) / 1e6)
            written = write_graph(work.folder / folder, name, stage, precision=precision)
            files = [f"{folder}/{file}" for file in (written.file, *written.external_data)]
            return dataclasses.asdict(written), files

        written = _written(work.piece(f"{precision.value}/{name}", make))
        stages[name] = Stage(
            file=f"{folder}/{written.file}",
            external_data=tuple(f"{folder}/{file}" for file in written.external_data),
            inputs=written.inputs,
            outputs=written.outputs,
        )
    return GraphSet(opset=precision.opset, backends=precision.backends, stages=stages)


def _written(record: dict[str, Any]) -> WrittenGraph:
    specs = {
        side: tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in record[side])
        for side in ("inputs", "outputs")
    }
    return WrittenGraph(file=record["file"], external_data=tuple(record["external_data"]), **specs)


def _golden_piece(folder: Path, model: Model, options: Options) -> tuple[str, Make]:
    """The name that says what the golden values depend on, and how to make them. Its result is that name."""
    digest = hashlib.sha256()
    images = golden_images(model.size_default, options.photos)
    for image in images.values():
        digest.update(image.tobytes())
    name = f"golden {model.size_default} {digest.hexdigest()[:16]}"

    def make() -> tuple[str, list[str]]:
        log.info("computing the reference on %s", ", ".join(images))
        parity.write_golden(folder / GOLDEN, parity.reference(model, images))
        return name, [GOLDEN]

    return name, make


def _parity(folder: Path, precision: Precision) -> tuple[list[dict[str, Any]], list[str]]:
    log.info("comparing %s with the reference", precision.value)
    run = OnnxRuntimeStages(folder / "graphs" / precision.value)
    rows = parity.compare(
        parity.read_golden(folder / GOLDEN),
        run,
        precision=precision,
        backend=run.name,
        graph_set=precision.value,
    )
    for row in rows:
        log.info(
            "  %-7s %-6s max %.1e  mean %.1e of std %.2g  %s",
            *(row.stage, row.image, row.max_abs, row.mean_abs, row.reference_std),
            "ok" if row.passed else "BEYOND THE GATE",
        )
    return [row.to_json() for row in rows], []


def _copy_licence(folder: Path, file: Path) -> tuple[None, list[str]]:
    shutil.copyfile(file, folder / LICENCE)
    return None, [LICENCE]


def _key(model: Model, options: Options) -> str:
    """What finished pieces depend on: the weights, the options that shape them, and the tools."""
    depends = {
        "checkpoint": model.sha256,
        "recipe": model.recipe.name,
        "leave_out": sorted(options.leave_out),
        "tools": _tool_versions(),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _provenance(model: Model, options: Options) -> dict[str, Any]:
    return {
        "checkpoint": options.checkpoint.name,
        "checkpoint_sha256": model.sha256,
        "description": model.description,
        "command": options.command,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **_tool_versions()},
        "folds_left_out": sorted(options.leave_out),
        "parity_accepted": options.accept_parity,
    }


def _tool_versions() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _command_line(arguments: list[str]) -> str:
    """The command as it was typed, without the folders of this machine."""
    words = [Path(word).name if "/" in word or "\\" in word else word for word in arguments]
    return " ".join(("python -m export.build_engines", *words))


def _precisions(_: click.Context, __: click.Parameter, value: str) -> tuple[Precision, ...]:
    try:
        return tuple(dict.fromkeys(Precision(name.strip()) for name in value.split(",")))
    except ValueError as e:
        raise click.BadParameter(f"choose from {', '.join(p.value for p in Precision)}") from e


_FILE: Callable[..., Any] = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("checkpoint", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="The engine directory to write.")
@click.option(
    "--recipe", type=click.Choice(list(RECIPES)), help="How the model is asked; default: as it says."
)
@click.option(
    "--precision", "precisions", default="fp32", show_default=True, callback=_precisions,
    help="Graph sets to write, with commas: fp32, fp16, bf16.",
)  # fmt: skip
@click.option("--size", type=click.IntRange(64, 4096), help="Default processing size, longer side in px.")
@click.option("--size-max", type=click.IntRange(64, 4096), help="Largest processing size in px.")
@click.option(
    "--golden-photo", "photos", type=_FILE, multiple=True,
    help="Photo to judge the graphs on; its pixels are passed on in golden.npz. Once or twice.",
)  # fmt: skip
@click.option("--licence-file", type=_FILE, help="The weights' licence text, copied into the directory.")
@click.option("--leave-out", multiple=True, type=click.Choice(FOLD_NAMES), help="A fold not to apply.")
@click.option("--overwrite", is_flag=True, help="Replace an engine directory that is there.")
@click.option("--resume/--restart", default=True, help="Go on with what a killed run left (the default).")
@click.option("--accept-parity", is_flag=True, help="Write graphs beyond the gates; the manifest says so.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
def main(verbose: bool, leave_out: tuple[str, ...], **options: Any) -> None:
    """Turn CHECKPOINT into an engine directory.

    \b
    Examples:
      python -m export.build_engines ckpt.safetensors -o engines/fiffdepth
      python -m export.build_engines ckpt.safetensors -o engines/fiffdepth --precision fp32,fp16
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        command = _command_line(sys.argv[1:])
        export_engine_dir(Options(**options, leave_out=frozenset(leave_out), command=command))
    except FiffDepthError as e:
        if verbose:
            raise
        raise click.ClickException(str(e)) from e
    click.echo(f"{options['output']}: ready. Try: fiffdepth infer photo.jpg --engine {options['output']}")


if __name__ == "__main__":
    main()

"""START HERE. A checkpoint -> a verified engine directory.

    python -m export.build_engines ckpt.safetensors        # -> engines/ckpt
    python -m export.build_engines OWNER/NAME              # fetched first (models/fetching.py)

reads the checkpoint (model.py), computes what it gives on two photos and noise (parity.py: the
reference), folds what is constant (folding.py), traces the three stages (stages.py) to ONNX (onnx_graphs.py),
runs the graphs, and writes the directory (partial_folder.py) only if they agree with the reference.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from export import parity
from export.afterwards import build_plans_here, check_bf16_here, measure_memory_here
from export.camera import camera_fit
from export.cost import cost_table
from export.folding import FOLD_NAMES
from export.golden_photos import golden_images
from export.graph_set import compare_graph_set, write_graph_set
from export.model import Given, Model, read_checkpoint
from export.models.fetching import Fetched, fetch_beside, fetch_checkpoint, named
from export.onnx_graphs import GRID_MULTIPLE, GraphForm
from export.options import (
    TARGETS,
    Options,
    RecordedCommand,
    engine_dir_for,
    graph_forms,
    read_precisions,
    read_sizes_hw,
)
from export.partial_folder import Make, PartialFolder, only_export, refuse_existing, writing
from export.precision import Precision
from export.provenance import key_of, licence_of, provenance_of
from export.recipe import RECIPES
from fiffdepth_rt.backends.tensorrt.versions import RTX_CAPABILITIES
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.golden import ParityRow
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import Manifest, SizeLimits, write_manifest
from fiffdepth_rt.errors import FiffDepthError, ParityError
from fiffdepth_rt.program.options import PATH_OR_NAME, WORD, NamedPath
from fiffdepth_rt.program.terminal import printable, stderr_handler, tell
from fiffdepth_rt.space import Space
from training.weights.hub import HubName
from training.weights.prompt import TextEncoder

GOLDEN = "golden.npz"
LICENCE = "LICENSE"
log = logging.getLogger("fiffdepth_export")


def export_engine_dir(options: Options) -> Path:
    """checkpoint -> engine directory at `options.output`, whole or not at all.

    Raises ExportError, OutputError, ImageError. What was done before a failure is kept in a hidden folder
    beside the result, and the same options go on from there.
    """
    with only_export(options.output):
        return _export(options)


def _export(options: Options) -> Path:
    refuse_existing(options.output, overwrite=options.overwrite)
    path, given, fetched = on_this_disk(options)
    model = _sized(read_checkpoint(path, given), options)
    log.info("%s", model.description)
    for note in model.notes:
        log.warning("%s", note)
    log.info("%s", cost_table(model, leave_out=options.leave_out, size=_up(model.size_default)))
    unfinished = PartialFolder(
        options.output, key=key_of(model, options), overwrite=options.overwrite, resume=options.resume
    )
    if unfinished.pieces_found:
        log.info("going on after %s", ", ".join(unfinished.pieces_found))

    golden = unfinished.piece(*_golden_piece(unfinished.folder, model, options))
    graph_sets, rows, forms, left_out = {}, [], list[GraphForm](), dict[str, str]()
    for form in _sized_forms(options.forms, model.size_default):
        graph_set = write_graph_set(unfinished, model, form, leave_out=options.leave_out)
        compare = functools.partial(_compare, unfinished.folder, model, form, options)
        found = unfinished.piece(" ".join([f"{form.name}/parity of {golden}", *form.keep_fp32]), compare)
        try:
            if not options.accept_parity:
                parity.judge([ParityRow(**row) for row in found], form.precision)
        except ParityError as e:
            if form.precision not in options.unasked:
                raise
            unfinished.leave_out(f"{form.name}/")
            left_out[form.name] = str(e)
            continue
        graph_sets[form.name] = graph_set
        forms.append(form)
        rows += found
    if (licence := options.licence_file or model.licence_file) is not None:
        with writing(options.output):
            name = f"licence {hash_file(licence).sha256[:16]}"
        unfinished.piece(name, functools.partial(_copy_licence, unfinished.folder, licence))
    manifest = Manifest(
        name=model.name,
        recipe=model.recipe.name,
        output_space=Space(model.output_space),
        size=SizeLimits(default=model.size_default, max=model.size_max, multiple=GRID_MULTIPLE),
        graph_sets=graph_sets,
        files=unfinished.files(),
        golden=GOLDEN,
        plans=(),
        provenance=provenance_of(model, options, fetched=fetched, left_out=left_out),
        parity=tuple(rows),
        licence=licence_of(model),
    )
    with writing(options.output):
        write_manifest(unfinished.folder, manifest)
    open_engine_dir(unfinished.folder)
    unfinished.finish()
    check_bf16_here(options.output, forms)
    if options.memory:
        measure_memory_here(options.output, forms)
    if options.plans:
        build_plans_here(
            options.output, forms, command=options.command, compute_capability=options.compute_capability
        )
    for name, why in left_out.items():
        log.warning("Left out: %s, which the command did not ask for. %s", name, why)
    return options.output


def _sized(model: Model, options: Options) -> Model:
    default = options.size or model.size_default
    largest = options.size_max or max(model.size_max, default)
    return dataclasses.replace(model, size_default=default, size_max=_up(largest))


def _up(size: int) -> int:
    return -(-size // GRID_MULTIPLE) * GRID_MULTIPLE


def _sized_forms(forms: tuple[GraphForm, ...], size: int) -> list[GraphForm]:
    """Forms for a camera get the grid that its pictures have at the model's default size."""
    return [
        form
        if form.camera_hw is None
        else dataclasses.replace(form, grid_hw=camera_fit(form.camera_hw, size).grid_hw)
        for form in forms
    ]


def _golden_piece(folder: Path, model: Model, options: Options) -> tuple[str, Make]:
    """The name that says what the golden values depend on, and how to make them. Its result is that name."""
    grids = {form.grid_hw for form in options.forms if form.grid_hw is not None}
    size = min(options.golden_size or model.size_default, model.size_max)
    images = golden_images(size, options.photos, sorted(grids))
    digest = hashlib.sha256()
    for image in images.values():
        digest.update(image.tobytes())
    name = f"golden fp64 {digest.hexdigest()[:16]}"

    def make() -> tuple[str, list[str]]:
        log.info("computing the reference on %s; fp64 takes its time", ", ".join(images))
        parity.write_golden(folder / GOLDEN, parity.reference(model, images))
        return name, [GOLDEN]

    return name, make


def _compare(
    folder: Path, model: Model, form: GraphForm, options: Options
) -> tuple[list[dict[str, Any]], list[str]]:
    log.info("comparing %s with the reference", form.name)
    golden = read_golden(folder / GOLDEN)
    rows = compare_graph_set(folder, model, form, golden, leave_out=options.leave_out, photos=options.photos)
    for row in rows:
        log.info(
            "  %-11s %-7s %-6s max %.1e  mean %.1e  of std %.2g  %s %s",
            *(row.backend, row.stage, row.image, row.max_abs, row.mean_abs, row.reference_std),
            "ok" if row.passed else "BEYOND THE GATE",
            f"({row.note})" if row.note else "",
        )
    return [row.to_json() for row in rows], []


def _copy_licence(folder: Path, file: Path) -> tuple[None, list[str]]:
    shutil.copyfile(file, folder / LICENCE)
    return None, [LICENCE]


def on_this_disk(options: Options) -> tuple[Path, Given, tuple[Fetched, ...]]:
    """What was named, fetched where it is not here. Raises HubError, CheckpointError, RecipeError."""
    given, names = options.given, (options.vae_from, options.text_encoder_from)
    if isinstance(options.checkpoint, Path):
        beside = fetch_beside(vae=names[0], text=names[1])
        given = dataclasses.replace(given, vae=given.vae or beside.vae, text=given.text or beside.text)
        return options.checkpoint, given, beside.fetched
    found = fetch_checkpoint(
        options.checkpoint,
        recipe=given.recipe,
        licence=given.licence,
        vae=names[0],
        text=names[1],
        prompt_given=given.prompt_embedding is not None,
        agree=functools.partial(_agree, accepted=options.accept_licence),
    )
    given = dataclasses.replace(
        given,
        repository=options.checkpoint.repository,
        vae=given.vae or found.vae,
        text=given.text or found.text,
    )
    return found.folder, given, found.fetched


def _agree(warning: str, *, accepted: bool) -> None:
    """Asks at a terminal whether to go on; goes on where nobody can answer, or who runs it has accepted."""
    if accepted or not _at_a_terminal():
        return
    click.confirm("Fetch it under this licence?", default=True, abort=True, err=True)


def _at_a_terminal() -> bool:
    """Whether somebody can answer a question."""
    return sys.stdin.isatty()


def _typed(ctx: click.Context, parameter: str) -> bool:
    """Whether somebody gave it; else it has its default."""
    return ctx.get_parameter_source(parameter) is not ParameterSource.DEFAULT


_FILE: Callable[..., Any] = NamedPath()
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


# fmt: off
@click.command(cls=RecordedCommand, context_settings=_HELP)
@click.argument("checkpoint", type=PATH_OR_NAME)
@click.option("-o", "--output", type=_FILE,
              help="The engine directory to write. By default engines/NAME, by the checkpoint's name.")
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="How the model is asked.")
@click.option("--output-space", type=click.Choice([str(space) for space in Space]),
              help="What values mean, if not what the recipe says.")
@click.option("--name", type=WORD, help="The model's name in the manifest.")
@click.option("--vae", type=PATH_OR_NAME,
              help="The VAE, where the checkpoint holds a UNet alone: a path, or a name.")
@click.option("--encoder", type=_FILE, help="Light encoder in the full one's place: TAESD, or distilled.")
@click.option("--decoder", type=_FILE, help="Light decoder in the full one's place: TAESD, or distilled.")
@click.option("--prompt-embedding", type=_FILE, help="The empty prompt's embedding [1, 2, C], .safetensors.")
@click.option("--text-encoder", type=PATH_OR_NAME,
              help="Computes that embedding where nothing has it: a path, or a name.")
@click.option("--unet-config", type=_FILE, help="config.json of the UNet, where shapes do not tell.")
@click.option("--vae-config", type=_FILE, help="config.json of the VAE, where shapes do not tell.")
@click.option("--scheduler-config", type=_FILE, help="scheduler_config.json, where the checkpoint has none.")
@click.option("--licence", type=WORD, help="The weights' licence, where the checkpoint does not state it.")
@click.option("--accept-licence", is_flag=True,
              help="Ask nothing about a licence that is not a free one; the manifest says that you did.")
@click.option("--licence-file", type=NamedPath(exists=True, dir_okay=False),
              help="Its text, copied into the directory.")
@click.option("--precision", "precisions", default="fp32,fp16", show_default=True, callback=read_precisions,
              help="Graph sets to write, with commas: fp32, fp16, bf16. Where this option is not given, an "
                   "fp16 set beyond its gates is left out.")
@click.option("--keep-fp32", multiple=True, metavar="NAME",
              help="Layers that stay in fp32, such as 'unet.mid_block.*'. May be repeated.")
@click.option("--target", type=click.Choice(TARGETS), default="any", show_default=True,
              help="trt8.5: the form that TensorRT 8.5 reads.")
@click.option("--static", multiple=True, metavar="HxW", callback=read_sizes_hw,
              help="Graphs for this grid alone, in multiples of 8. May be repeated.")
@click.option("--camera", multiple=True, metavar="HxW", callback=read_sizes_hw,
              help="Graphs that take this camera's pictures and give depth of their size. May be repeated.")
@click.option("--size", type=click.IntRange(64, 4096),
              help="Longer side in px at which the model sees a photo unless told otherwise.")
@click.option("--size-max", type=click.IntRange(64, 4096), help="The largest --size that can be asked for.")
@click.option("--golden-photo", "photos", type=_FILE, multiple=True,
              help="Photo to judge the graphs on; its pixels are passed on in golden.npz. Once or twice.")
@click.option("--golden-size", type=click.IntRange(64, 4096),
              help="Longer side in px of the photos in golden.npz; by default --size's, at most "
                   "--size-max's. Smaller: a smaller file, sooner made, and graphs are judged on less.")
@click.option("--leave-out", multiple=True, type=click.Choice(FOLD_NAMES), help="A fold not to apply.")
@click.option("--overwrite", is_flag=True, help="Replace an engine directory that is there.")
@click.option("--resume/--restart", default=True, help="Go on with what a killed run left (the default).")
@click.option("--accept-parity", is_flag=True, help="Write graphs beyond the gates; the manifest says so.")
@click.option("--memory/--no-memory", default=True,
              help="Measure the memory that the graphs take on this machine's CPU (the default; Linux).")
@click.option("--plans/--no-plans", default=True,
              help="End with plans of TensorRT for RTX, and of TensorRT where its GPU is (the default).")
@click.option("--compute-capability", type=click.Choice(RTX_CAPABILITIES),
              help="RTX plans for such cards alone: 7.5 for Turing. By default for Ampere and newer.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    *,
    checkpoint: str,
    output: Path | None,
    recipe: str | None,
    output_space: str | None,
    name: str | None,
    vae: str | None,
    encoder: Path | None,
    decoder: Path | None,
    prompt_embedding: Path | None,
    text_encoder: str | None,
    unet_config: Path | None,
    vae_config: Path | None,
    scheduler_config: Path | None,
    licence: str | None,
    accept_licence: bool,
    licence_file: Path | None,
    precisions: tuple[Precision, ...],
    keep_fp32: tuple[str, ...],
    target: str,
    static: tuple[tuple[int, int], ...],
    camera: tuple[tuple[int, int], ...],
    size: int | None,
    size_max: int | None,
    photos: tuple[Path, ...],
    golden_size: int | None,
    leave_out: tuple[str, ...],
    overwrite: bool,
    resume: bool,
    accept_parity: bool,
    memory: bool,
    plans: bool,
    compute_capability: str | None,
    verbose: bool,
) -> None:
    """Turn CHECKPOINT into an engine directory, engines/NAME beneath the current folder.

    CHECKPOINT is a file or a folder, a repository on a hub (OWNER/NAME, OWNER/NAME@REVISION), or the short
    name of a public model (python -m export.models).

    \b
    Examples:
      python -m export.build_engines ckpt.safetensors
      python -m export.build_engines lotus-d-v2-0-disparity
      python -m export.build_engines ckpt.safetensors -o engines/fiffdepth --precision fp16
      python -m export.build_engines sd2-depth/ --recipe marigold-e2e
      python -m export.build_engines ckpt.safetensors --encoder taesd/ --decoder taesd/ -o engines/light
    """
    logging.basicConfig(handlers=[stderr_handler("%(message)s")])
    log.setLevel(logging.INFO)
    try:
        source = named(checkpoint)
        vae_source = None if vae is None else named(vae)
        text_source = None if text_encoder is None else named(text_encoder)
        given = Given(
            recipe=recipe,
            output_space=output_space,
            name=name,
            vae=vae_source if isinstance(vae_source, Path) else None,
            encoder=encoder,
            decoder=decoder,
            prompt_embedding=prompt_embedding,
            text=TextEncoder(folder=text_source) if isinstance(text_source, Path) else None,
            unet_config=unet_config,
            vae_config=vae_config,
            scheduler_config=scheduler_config,
            licence=licence,
        )
        options = Options(
            checkpoint=source,
            output=output or engine_dir_for(source if isinstance(source, Path) else Path(checkpoint)),
            given=given,
            vae_from=vae_source if isinstance(vae_source, HubName) else None,
            text_encoder_from=text_source if isinstance(text_source, HubName) else None,
            accept_licence=accept_licence,
            forms=graph_forms(precisions, static=static, camera=camera, target=target, keep_fp32=keep_fp32),
            unasked=frozenset() if keep_fp32 or _typed(ctx, "precisions") else frozenset({Precision.FP16}),
            size=size,
            size_max=size_max,
            photos=photos,
            golden_size=golden_size,
            licence_file=licence_file,
            leave_out=frozenset(leave_out),
            overwrite=overwrite,
            resume=resume,
            accept_parity=accept_parity,
            memory=memory,
            plans=plans,
            compute_capability=compute_capability,
            command=ctx.meta["typed"],
        )
        log.info("%s -> %s", checkpoint, options.output)
        export_engine_dir(options)
        tell(f"{options.output}: ready. Try: fiffdepth infer photo.jpg --engine {options.output}")
    except FiffDepthError as e:
        if verbose:
            raise
        raise click.ClickException(printable(str(e))) from e


# fmt: on
if __name__ == "__main__":
    main()

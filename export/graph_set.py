"""One set of graphs: its three stages built and written, then compared with the reference."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from export import parity
from export.camera import CameraDecoderStage, CameraEncoderStage, camera_fit
from export.engines import OnnxRuntimeStages, TorchStages
from export.folding import fold
from export.golden_photos import golden_photos
from export.model import Model, parameter_count
from export.onnx_graphs import GraphForm, WrittenGraph, write_graph
from export.partial_folder import PartialFolder
from export.precision import Precision, cast
from export.recipe import output_scale
from export.stages import STAGES, DecoderStage, EncoderStage, Stage, UnetStage
from fiffdepth_rt.engine_dir import manifest as engine_dir
from fiffdepth_rt.engine_dir.golden import Array, Golden, ParityRow, Where
from fiffdepth_rt.image import fit, to_grid, to_photo

WEIGHTS_ONLY = "weights only: CPU kernels compute in fp32"
OVERFLOW_ONLY = "overflow only: torch in half precision on the CPU"
log = logging.getLogger("fiffdepth_export")


def build_stage(
    name: str, model: Model, *, form: GraphForm | None = None, leave_out: frozenset[str] = frozenset()
) -> Stage:
    """model -> one stage in fp32, folded. form: for a camera's resolution at the doors; None for none."""
    camera_hw = None if form is None else form.camera_hw
    stage: Stage
    if name == "unet":
        stage = UnetStage(
            model.unet,
            timestep=model.recipe.timestep,
            prompt=model.prompt_embedding,
            class_labels=model.recipe.class_labels_tensor(),
            zero_channels=model.unet.config.out_channels if model.recipe.zero_latent else 0,
            output_scale=output_scale(model.recipe, model.scheduler_config),
        )
    elif camera_hw is not None:
        fitted = camera_fit(camera_hw, model.size_default)
        camera = CameraEncoderStage if name == "encoder" else CameraDecoderStage
        stage = camera(model.vae_of(name), fitted)
    else:
        stage = (EncoderStage if name == "encoder" else DecoderStage)(model.vae_of(name))
    fold(name, stage, leave_out=leave_out)
    stage.eval().requires_grad_(False)
    return stage


def write_graph_set(
    unfinished: PartialFolder, model: Model, form: GraphForm, *, leave_out: frozenset[str]
) -> engine_dir.GraphSet:
    """model -> the three graphs of one form, each a piece of the partial folder."""
    stages = {}
    folder = f"graphs/{form.name}"
    for name in STAGES:
        make = functools.partial(_write_stage, unfinished.folder, folder, name, model, form, leave_out)
        kept = [k for k in form.keep_fp32 if k.startswith(f"{name}.")]
        piece = unfinished.piece(" ".join([f"{form.name}/{name}", *kept]), make)
        written = msgspec.convert(piece, WrittenGraph)
        stages[name] = engine_dir.Stage(
            file=f"{folder}/{written.file}",
            external_data=tuple(f"{folder}/{file}" for file in written.external_data),
            inputs=written.inputs,
            outputs=written.outputs,
        )
    return engine_dir.GraphSet(
        precision=form.precision.value,
        opset=form.opset,
        form="grid" if form.camera_hw is None else "camera",
        stages=stages,
    )


def compare_graph_set(
    folder: Path,
    model: Model,
    form: GraphForm,
    golden: Golden,
    *,
    leave_out: frozenset[str],
    photos: Sequence[Path] = (),
) -> list[ParityRow]:
    """A written set -> its rows of the parity table: engines that run it here, and torch where they cannot.

    ONNX Runtime runs fp32 and fp16 (there computing in fp32); torch in half precision shows overflow. A bf16
    set is run by no engine here: its stages are, in torch.
    """
    engine = OnnxRuntimeStages(folder / "graphs" / form.name)
    here = Where(graph_set=form.name, backend=engine.name, device="cpu")

    def build(name: str) -> Stage:
        kept = [k.partition(".")[2] for k in form.keep_fp32 if k.startswith(f"{name}.")]
        stage = cast(build_stage(name, model, form=form, leave_out=leave_out), form.precision, keep_fp32=kept)
        if form.grid_hw is not None:
            stage.fix_size(form.grid_hw)
        return stage

    in_torch = TorchStages(build)
    there = dataclasses.replace(here, backend=in_torch.name)
    if form.camera_hw is not None:
        pictures = _camera_pictures(model, form.camera_hw, photos)
        if form.precision is Precision.BF16:
            return parity.compare_camera(pictures, in_torch, there)
        return parity.compare_camera(pictures, engine, here)
    at = "" if form.grid_hw is None else "@{}x{}".format(*form.grid_hw)
    mine = {image: stages for image, stages in golden.items() if image.partition("@")[2] == at[1:]}
    if form.precision is Precision.BF16:
        return parity.compare(mine, in_torch, there)
    if form.precision is Precision.FP32:
        return parity.compare(mine, engine, here)
    rows = parity.compare(mine, engine, dataclasses.replace(here, note=WEIGHTS_ONLY))
    first = dict(list(mine.items())[:1])
    return rows + parity.compare(
        first, in_torch, dataclasses.replace(there, note=OVERFLOW_ONLY), finite_only=True
    )


def _write_stage(
    root: Path, folder: str, name: str, model: Model, form: GraphForm, leave_out: frozenset[str]
) -> tuple[dict[str, Any], list[str]]:
    stage = build_stage(name, model, form=form, leave_out=leave_out)
    log.info("tracing %s %s (%.1f M parameters)", form.name, name, parameter_count(stage) / 1e6)
    written = write_graph(root / folder, name, stage, form)
    files = [f"{folder}/{file}" for file in (written.file, *written.external_data)]
    return msgspec.to_builtins(written), files


def _camera_pictures(
    model: Model, camera_hw: tuple[int, int], photos: Sequence[Path]
) -> dict[str, tuple[Array, Array]]:
    """Pictures of the camera's size, and the depth that the reference gives them with the host's resizing."""
    fitted = camera_fit(camera_hw, model.size_default)
    pairs = {}
    for name, photo in golden_photos(photos).items():
        picture = to_grid(photo, fit((photo.shape[0], photo.shape[1]), camera_hw))
        unclipped = parity.depth_in_fp32(model, to_grid(picture, fitted))
        depth = (unclipped.clip(-1, 1) * 0.5 + 0.5).astype("float32")
        pairs[name] = (picture, to_photo(depth, fitted))
    return pairs

"""The runtime takes the operators that exports write: held against exports of every form and recipe."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.camera import camera_fit
from export.folding import FOLD_NAMES
from export.graph_set import build_stage
from export.model import read_checkpoint
from export.onnx_graphs import GraphForm, write_graph
from export.precision import Precision
from export.stages import STAGES
from fiffdepth_rt.engine_dir.manifest import BUNDLED
from fiffdepth_rt.engine_dir.onnx_graph import read_graph
from fiffdepth_rt.engine_dir.operators import KNOWN, check_operators
from tests.support.tiny_models import PRIOR_CHANNELS, prior_vae, tiny_checkpoint
from training.weights.light import new_light_vae
from training.weights.ours import save_checkpoint

ATTENTION = {
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
}


def models() -> Iterator[object]:
    """Each recipe and each kind of layer that an export knows."""
    whole = tiny_checkpoint(**ATTENTION)
    yield whole
    yield tiny_checkpoint(tokens=3, use_linear_projection=False, **ATTENTION)
    yield tiny_checkpoint(in_channels=8, recipe="marigold-e2e")
    labels = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
    yield tiny_checkpoint(recipe="lotus-d", **labels)
    yield tiny_checkpoint(recipe="genpercept")
    blocks = {"encoder_blocks": (1, 1, 1, 1), "decoder_blocks": (1, 1, 1, 1)}
    for channels in (1, 3):
        light = new_light_vae(width=8, out_channels=channels, **blocks).eval()
        yield dataclasses.replace(tiny_checkpoint(), vae=light)
    latent = {"in_channels": 4 + PRIOR_CHANNELS, "out_channels": 4 + PRIOR_CHANNELS}
    yield dataclasses.replace(tiny_checkpoint(**latent), vae=prior_vae())


def forms() -> Iterator[GraphForm]:
    for precision in Precision:
        yield GraphForm(precision=precision)
        yield GraphForm(precision=precision, grid_hw=(72, 104))
        yield GraphForm(precision=precision, camera_hw=(100, 150))
        if precision is not Precision.BF16:
            yield GraphForm(precision=precision, trt85=True)
            yield GraphForm(precision=precision, trt85=True, grid_hw=(64, 128))
    yield GraphForm(precision=Precision.FP16, keep_fp32=("unet.conv_in",))


def written(
    folder: Path, stage: str, model, form: GraphForm, leave_out: frozenset[str] = frozenset()
) -> frozenset[str]:
    """The operators of one stage's graph, all of which the runtime takes."""
    if form.camera_hw is not None:
        grid = camera_fit(form.camera_hw, model.size_default).grid_hw
        form = dataclasses.replace(form, grid_hw=grid)
    graph = write_graph(folder, stage, build_stage(stage, model, form=form, leave_out=leave_out), form)
    contents = read_graph(folder / graph.file)
    check_operators(folder / graph.file, contents, listed_bytes=(folder / graph.file).stat().st_size)
    return frozenset(node.op_type for node in contents.nodes)


def test_the_graphs_of_a_plain_export_are_taken(plain_export):
    """The runtime has opened it at the export's end; here, that each operator is one by one in the list."""
    found = set()
    for file in [*plain_export.target.rglob("*.onnx"), *BUNDLED.rglob("*.onnx")]:
        found |= {node.op_type for node in read_graph(file).nodes}
    assert found <= KNOWN.keys()
    assert {"Conv", "MatMul", "Resize", "Softmax", "LayerNormalization", "Tanh"} <= found


@pytest.mark.parametrize(
    "form", [GraphForm(trt85=True, grid_hw=(64, 128)), GraphForm(camera_hw=(40, 56))], ids=str
)
def test_the_forms_with_operators_of_their_own_are_taken(tmp_path, form):
    save_checkpoint(tmp_path / "x.safetensors", tiny_checkpoint())
    written(tmp_path, "encoder", read_checkpoint(tmp_path / "x.safetensors"), form)


def test_a_form_without_folds_is_taken_where_shapes_are_computed(tmp_path):
    """TensorRT 8.5's expands to the shape of a tensor."""
    save_checkpoint(tmp_path / "x.safetensors", tiny_checkpoint(**ATTENTION))
    model = read_checkpoint(tmp_path / "x.safetensors")
    found = written(tmp_path, "unet", model, GraphForm(trt85=True), frozenset(FOLD_NAMES))
    assert "ConstantOfShape" in found


def test_attention_to_three_tokens_is_taken_in_the_form_without_folded_constants(tmp_path):
    """TensorRT 8.5's graph computes what torch's shapes do, operator by operator."""
    save_checkpoint(tmp_path / "x.safetensors", tiny_checkpoint(tokens=3, **ATTENTION))
    model = read_checkpoint(tmp_path / "x.safetensors")
    assert "Mod" not in written(tmp_path, "unet", model, GraphForm(trt85=True))


@pytest.mark.soak
def test_the_list_holds_what_all_forms_and_recipes_write_and_nothing_else(tmp_path):
    found = set()
    for i, made in enumerate(models()):
        save_checkpoint(tmp_path / f"{i}.safetensors", made)
        model = read_checkpoint(tmp_path / f"{i}.safetensors")
        for form in forms():
            stages = STAGES if i in (0, 5, 6, 7) else ("unet",)
            for stage in stages:
                found |= written(tmp_path / f"{i}" / form.name, stage, model, form)
        if i == 0:  # without the folds, constants are computed in the graph
            for form, stage in itertools.product((GraphForm(), GraphForm(trt85=True)), STAGES):
                found |= written(tmp_path / "plain" / form.name, stage, model, form, frozenset(FOLD_NAMES))
    assert found == KNOWN.keys()

"""Promises of graphs as the export writes them, kept with TensorRT for RTX itself, where it is installed."""

from __future__ import annotations

import functools

import pytest
import torch

from export.graph_set import build_stage
from export.model import read_checkpoint
from export.onnx_graphs import GraphForm, tensor_specs, write_graph
from export.precision import Precision
from export.recipe import RECIPES
from export.stages import STAGES, UnetStage
from fiffdepth_rt.backends.tensorrt.build_process import ProcessBuilder
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob
from fiffdepth_rt.backends.tensorrt.plan_header import check_header, read_header
from fiffdepth_rt.engine_dir.manifest import Stage
from tests.support.plans import RTX, profile, record
from tests.support.tiny_models import FEW_BLOCKS, tiny_checkpoint, tiny_unet
from training.weights.ours import save_checkpoint

pytest.importorskip("tensorrt_rtx", reason="its wheels are not for here")


@pytest.fixture(scope="module")
def unet_graph(tmp_path_factory):
    """precision -> the folder of a UNet's graph. Its one self-attention has heads of 64, as SD 2.1's have."""

    @functools.cache
    def written(precision):
        folder = tmp_path_factory.mktemp(str(precision))
        unet = tiny_unet(block_out_channels=(128, 128), attention_head_dim=(2, 2), **FEW_BLOCKS)
        stage = UnetStage(unet, timestep=0, prompt=torch.randn(1, 2, 12)).eval()
        write_graph(folder, "unet", stage, GraphForm(precision=precision))
        return folder

    return written


def built(folder, stage, precision, capability, into):
    """A graph's plan, in `into` -> the memory that its builder predicts. capability: None for Ampere on."""
    inputs, outputs = tensor_specs(stage, GraphForm(precision=precision), latent_channels=4)
    plan = record(
        RTX,
        stage=stage,
        precision=precision.value,
        profiles=(profile(256, 256),),
        compute_capability=capability or "8.0",
        hardware_compatibility="same_compute_capability" if capability else "ampere_plus",
    )
    job = PlanJob(
        record=plan,
        graph=folder / f"{stage}.onnx",
        stage=Stage(file=f"{stage}.onnx", external_data=(), inputs=inputs, outputs=outputs),
    )
    builder = ProcessBuilder(RTX, runner=None, versions={})
    memory = builder.build(job, into, timing_cache=into.with_name("t"), on_progress=None)
    check_header(into.read_bytes(), into, plan)
    return memory


@pytest.mark.soak  # in make test: the UNets of all recipes, below
@pytest.mark.parametrize(
    ("precision", "capability"),
    [(Precision.FP16, None), (Precision.FP16, "7.5"), (Precision.BF16, None)],
)
def test_self_attention_of_half_precision_is_fused(unet_graph, tmp_path, precision, capability):
    plan = tmp_path / "plan"
    memory = built(unet_graph(precision), "unet", precision, capability, plan)
    assert memory is not None and memory.weight_bytes > 0 and min(memory.activation_bytes) > 0
    assert plan.read_bytes().count(b"_gemm_mha_v2") >= 1


# --- every recipe ---

# What its UNet has that FiffDepth's has not.
CONFIG = {
    "lotus-d": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4},
    "marigold-e2e": {"in_channels": 8},
}
CONFIG["lotus-d-disparity"] = CONFIG["lotus-d"]


CARDS = (None, "7.5", "8.6", "8.9", "12.0")


@pytest.fixture(scope="module")
def recipe_graph(tmp_path_factory):
    """recipe, stage -> the folder of its fp16 graph. Every self-attention has heads of 64 channels."""

    @functools.cache
    def model(recipe):
        heads = {"block_out_channels": (128, 128), "attention_head_dim": (2, 2)}
        made = tiny_checkpoint(recipe=recipe, **heads, **CONFIG.get(recipe, {}))
        file = tmp_path_factory.mktemp(recipe) / "model.safetensors"
        save_checkpoint(file, made)
        return file.parent, read_checkpoint(file)

    @functools.cache
    def written(recipe, stage):
        folder, read = model(recipe)
        write_graph(folder, stage, build_stage(stage, read), GraphForm(precision=Precision.FP16))
        return folder

    return written


def check_plan(folder, stage, capability, plan):
    """Builds it. Returns how many fused attentions it has."""
    memory = built(folder, stage, Precision.FP16, capability, plan)
    assert memory is not None and memory.weight_bytes > 0 and min(memory.activation_bytes) > 0
    content = plan.read_bytes()
    header = read_header(content)
    assert header.version == (1, 7, 1, 116)
    ampere = ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert header.capabilities == ((capability,) if capability else ampere)
    return content.count(b"_gemm_mha_v2")


def test_a_recipes_unet_becomes_a_plan_for_one_kind_of_card(recipe_graph, tmp_path):
    """All others are in the soak; nano for Ampere and newer, and a toy for Turing, in tests/runtime/gpu."""
    assert check_plan(recipe_graph("lotus-d", "unet"), "unet", "12.0", tmp_path / "unet") >= 1


@pytest.mark.soak
@pytest.mark.parametrize("capability", CARDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_becomes_plans_for_every_kind_of_card(recipe_graph, tmp_path, recipe, capability):
    fused = {
        stage: check_plan(recipe_graph(recipe, stage), stage, capability, tmp_path / stage)
        for stage in STAGES
    }
    assert fused["unet"] >= 1

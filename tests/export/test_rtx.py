"""Promises of graphs as the export writes them, kept with TensorRT for RTX itself, where it is installed."""

from __future__ import annotations

import functools

import pytest
import torch

from export.onnx_graphs import GraphForm, tensor_specs, write_graph
from export.precision import Precision
from export.stages import UnetStage
from fiffdepth_rt.backends.tensorrt.build_process import ProcessBuilder
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob
from fiffdepth_rt.engine_dir.manifest import Stage
from tests.support.plans import RTX, profile, record
from tests.support.tiny_models import FEW_BLOCKS, tiny_unet

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


@pytest.mark.parametrize(
    ("precision", "capability"),
    [
        (Precision.FP16, None),
        (Precision.FP16, "7.5"),
        pytest.param(Precision.BF16, None, marks=pytest.mark.soak),
    ],
)
def test_self_attention_of_half_precision_is_fused(unet_graph, tmp_path, precision, capability):
    folder = unet_graph(precision)
    inputs, outputs = tensor_specs("unet", GraphForm(precision=precision))
    plan = record(
        RTX,
        precision=str(precision),
        profiles=(profile(256, 256),),
        compute_capability=capability or "8.0",
        hardware_compatibility="same_compute_capability" if capability else "ampere_plus",
    )
    job = PlanJob(
        record=plan,
        graph=folder / "unet.onnx",
        stage=Stage(file="unet.onnx", external_data=(), inputs=inputs, outputs=outputs),
    )
    builder = ProcessBuilder(RTX, runner=None, versions={})
    memory = builder.build(job, tmp_path / "plan", timing_cache=tmp_path / "t", on_progress=None)
    assert memory is not None and memory.weight_bytes > 0 and min(memory.activation_bytes) > 0
    assert (tmp_path / "plan").read_bytes().count(b"_gemm_mha_v2") >= 1

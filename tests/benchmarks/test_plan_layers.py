"""Promises of the per-layer report: what a plan's layer names say about attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.plan_layers import attention, layer_names, main
from fiffdepth_rt.backends.tensorrt import here as tensorrt_here


def test_layers_are_names_or_objects_with_one() -> None:
    assert layer_names(json.dumps({"Layers": ["conv_in", "mha"]})) == ("conv_in", "mha")
    assert layer_names(json.dumps({"Layers": [{"Name": "conv_in", "LayerType": "gemm"}]})) == ("conv_in",)


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (["conv_in", "_gemm_mha_v2_myl0_3", "_gemm_mha_v2_myl0_9"], "attention fused (2 kernels)"),
        (["/attn1/MatMul", "/attn1/Softmax"], "attention NOT fused (1 softmax layers)"),
        (
            ["_gemm_mha_v2_myl0_3", "/mid/Softmax"],
            "attention partly fused (1 kernels, 1 softmax layers beside)",
        ),
        (["conv_in", "conv_out"], "no attention to be seen"),
    ],
)
def test_the_verdict_counts_what_was_fused_and_what_was_not(names: list[str], verdict: str) -> None:
    assert attention(names).verdict() == verdict


@pytest.mark.skipif(tensorrt_here.usable().usable, reason="TensorRT works here")
def test_without_tensorrt_it_says_what_to_install(toy_dir: Path) -> None:
    result = CliRunner().invoke(main, [str(toy_dir)])
    assert result.exit_code == 1
    assert "Error: TensorRT cannot be used: " in result.stderr and "Run: " in result.stderr

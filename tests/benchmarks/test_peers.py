"""Promises about benchmarks/rows/peers.py and in_torch.py: true architectures, and sums that are right."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.latency import PEER_NAMES
from benchmarks.rows import flops, in_torch, peers
from benchmarks.rows.in_torch import Part, Pipeline, diffusers_parts, measure_pipeline
from benchmarks.rows.row import Row, Spec, noise_photo
from tests.support.tiny_models import tiny_checkpoint
from training.weights.random import random_unet

HW = (64, 64)


def spec(**changes: Any) -> Spec:
    common = {"module": "benchmarks.rows.peers", "kind": "peer", "name": "x", "size_hw": HW}
    common |= {"device": "cpu", "threads": 1}
    return Spec(**{**common, "runs": 3, "warm_up": 0, "budget_s": 60.0, **changes})


def millions(network: Any) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_depth_anything_v2_large_has_its_true_size() -> None:
    with torch.device("meta"):
        assert millions(peers.depth_anything(1.0)) == pytest.approx(335.3, abs=0.05)


def test_depth_pro_has_its_true_size() -> None:
    with torch.device("meta"):
        assert millions(peers.depth_pro(1.0)) == pytest.approx(952.0, abs=0.05)


def test_marigold_is_sd2_with_eight_channels_in() -> None:
    with torch.device("meta"):
        unet = random_unet(in_channels=8)
    assert millions(unet) == pytest.approx(865.9, abs=0.05)


def test_the_table_knows_the_peers_that_there_are() -> None:
    assert tuple(peers.PEERS) == PEER_NAMES


@pytest.mark.parametrize("name", ["Depth Anything V2-L", "Depth Pro"])
def test_a_peer_of_transformers_gives_a_map_of_the_photo_s_size(name: str) -> None:
    torch.manual_seed(0)
    pipeline = peers.PEERS[name].build(0.05, torch.float32, "cpu")
    value: Any = noise_photo((64, 96))
    with torch.inference_mode():
        for part in pipeline.parts:
            value = part.run(value)
    assert (value.shape, value.dtype) == ((64, 96), np.float32)
    assert np.isfinite(value).all()


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("Marigold", (1, 500, 10)),  # 50 steps × ensemble 10
        ("Marigold-LCM", (1, 20, 5)),
        ("GeoWizard", (10, 100, 20)),  # each member decodes depth and normals
        ("DepthFM", (4, 8, 4)),
    ],
)
def test_a_peer_of_many_steps_is_multiplied_out(name: str, times: tuple[int, int, int]) -> None:
    options = {"peer": name, "dtype": "fp32", "width": 0.05}
    row = peers.measure(spec(runs=1, budget_s=0.0, options=options))
    assert row.end_to_end is not None and row.gflop is not None
    assert list(row.stages_ms) == ["VAE encoding", "UNet step", "VAE decoding"]
    shown = [int(word.partition(" × ")[0]) for word in row.modelled.split(" + ")]
    assert tuple(shown) == times
    assert row.end_to_end.p50_ms >= sum(row.stages_ms.values())
    assert row.first_frame_ms is None


def test_diffusers_own_marigold_pipeline_runs_as_a_whole() -> None:
    torch.manual_seed(0)
    pipeline = peers._marigold_pipeline(0.05, torch.float32, "cpu", steps=2, ensemble=1, lcm=False)
    assert pipeline.whole is not None
    depth = pipeline.whole(noise_photo(HW))
    assert depth.shape == HW and 0 <= depth.min() <= depth.max() <= 1


def sleeping(calls: list[str], **seconds: float) -> list[Part]:
    def run(name: str) -> Any:
        def sleep(value: Any) -> Any:
            calls.append(name)
            time.sleep(seconds[name])
            return value

        return sleep

    return [Part(name=name, run=run(name), times=10 if name == "step" else 1) for name in seconds]


def test_what_is_modelled_runs_each_step_once_a_round_and_says_so() -> None:
    calls: list[str] = []
    pipeline = Pipeline(parts=sleeping(calls, once=0.0, step=0.01))
    row = measure_pipeline(spec(runs=2), pipeline, computes_in="fp32", load_s=0, modelled_beyond_s=0.05)
    assert calls.count("step") == 1 + 2 + 1  # the first look, two rounds, the count of FLOPs
    assert row.end_to_end is not None and row.end_to_end.p50_ms >= 100
    assert row.modelled.startswith("1 × once") and "10 × step" in row.modelled


def test_what_fits_the_budget_runs_every_step_and_is_not_modelled() -> None:
    calls: list[str] = []
    pipeline = Pipeline(parts=sleeping(calls, once=0.0, step=0.001))
    row = measure_pipeline(spec(runs=2), pipeline, computes_in="fp32", load_s=0, modelled_beyond_s=math.inf)
    assert calls.count("step") == 1 + 2 * 10 + 1
    assert row.modelled == "" and row.runs == 2


def test_arithmetic_of_repeated_parts_is_repeated() -> None:
    weight = torch.ones(8, 8)
    parts = [Part(name="product", run=lambda x: weight @ weight, times=5)]
    row = measure_pipeline(spec(runs=1), Pipeline(parts=parts), computes_in="fp32", load_s=0)
    assert row.gflop == pytest.approx(5 * 2 * 8**3 / 1e9)


def test_attention_on_the_cpu_is_counted() -> None:
    heads = torch.randn(1, 2, 16, 8)
    with torch.inference_mode():
        _, counted = flops.torch_gflop(
            lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        )
    assert counted == pytest.approx(2 * 2 * 2 * 16 * 16 * 8 / 1e9)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_paper_s_own_way_gives_what_the_reference_gives(channels_last: bool, tmp_path: Any) -> None:
    from export import parity
    from export.model import read_checkpoint
    from training.weights.ours import save_checkpoint

    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint())
    model = read_checkpoint(tmp_path / "tiny.safetensors")
    photo = noise_photo(HW)
    wanted = parity.reference(model, {"noise": photo})["noise"]["decoder"].output
    parts = diffusers_parts(
        model, dtype=torch.float32, device="cpu", channels_last=channels_last, compiled=False
    )
    value: Any = photo
    with torch.inference_mode():
        for part in parts:
            value = part.run(value)
    np.testing.assert_allclose(value, (wanted[0].clip(-1, 1) + 1) / 2, atol=1e-5)


def test_a_row_in_torch_tells_its_stages_and_what_the_host_adds(tmp_path: Any) -> None:
    from training.weights.ours import save_checkpoint

    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint())
    options = {
        "checkpoint": str(tmp_path / "tiny.safetensors"),
        "prompt_embedding": None,
        "dtype": "bf16",
        "channels_last": True,
        "compiled": False,
        "directory": None,
    }
    row: Row = in_torch.measure(spec(kind="torch", options=options))
    assert (row.computes_in, row.runs, list(row.stages_ms)) == ("bf16", 3, ["encoder", "unet", "decoder"])
    assert row.host_overhead_ms is not None and row.host_overhead_ms > 0
    assert row.end_to_end is not None and row.gflop is not None and row.gflop > 0
    assert row.end_to_end.p99_ms >= row.end_to_end.p50_ms > sum(row.stages_ms.values()) * 0.5


@pytest.mark.soak
def test_the_compiled_row_compiles_in_its_first_frame_and_counts_the_same_arithmetic(tmp_path: Any) -> None:
    from training.weights.ours import save_checkpoint

    save_checkpoint(tmp_path / "tiny.safetensors", tiny_checkpoint())
    options = {
        "checkpoint": str(tmp_path / "tiny.safetensors"),
        "prompt_embedding": None,
        "dtype": "fp32",
        "channels_last": True,
        "directory": None,
    }
    eager, compiled = (
        in_torch.measure(spec(kind="torch", options={**options, "compiled": how})) for how in (False, True)
    )
    assert compiled.gflop == eager.gflop and list(compiled.stages_ms) == list(eager.stages_ms)
    assert compiled.first_frame_ms is not None and eager.first_frame_ms is not None
    assert compiled.first_frame_ms > eager.first_frame_ms  # it compiled

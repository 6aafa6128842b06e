"""Graphs are judged by what rounding alone does to the model: sound ones pass, each wrong fold is refused."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export import folding, parity
from export.engines import TorchStages
from export.golden_photos import golden_images
from export.graph_set import build_stage
from export.model import Given, Model, read_checkpoint
from export.precision import Precision
from export.stages import STAGES
from fiffdepth_rt.engine_dir.golden import CHAIN, Golden, Where, compare_stage
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS
from fiffdepth_rt.errors import ParityError
from tests.support.paths import ROOT
from tests.support.tiny_models import shake, tiny_checkpoint
from training.weights.light import new_light_vae
from training.weights.ours import save_checkpoint
from training.weights.random import centre_depth

HERE = Where(graph_set="fp32", backend="torch", device="cpu")


def tiny_model(folder: Path, seed: int = 4, *, light: bool = False, **changes) -> Model:
    """Seed 4: rounding in fp32 alone moves its depth by 3e-4 of the deviation."""
    made = tiny_checkpoint(seed, **changes)
    if light:
        torch.manual_seed(seed)
        vae = centre_depth(shake(new_light_vae(width=8, out_channels=3)))
        made = dataclasses.replace(made, vae=vae)
    save_checkpoint(folder / "tiny.safetensors", made)
    return read_checkpoint(folder / "tiny.safetensors", Given())


def by_constants_alone(golden: Golden) -> Golden:
    """The same as the export wrote it before it measured rounding."""
    return {
        image: {stage: dataclasses.replace(values, rounding=None) for stage, values in stages.items()}
        for image, stages in golden.items()
    }


@pytest.fixture(scope="module")
def sensitive(tmp_path_factory):
    """A sound model that amplifies rounding beyond the constants, and its reference."""
    model = tiny_model(tmp_path_factory.mktemp("sensitive"))
    return model, parity.reference(model, golden_images(model.size_default))


def test_the_reference_is_exact_to_fp32_and_the_weights_are_as_before(sensitive):
    """Diffusers in fp64, by its own modules, agrees with the unfolded stages in fp64."""
    model, golden = sensitive
    assert {p.dtype for part in (model.unet, model.vae) for p in part.parameters()} == {torch.float32}
    for name in STAGES:
        stage = build_stage(name, model, leave_out=frozenset(folding.FOLD_NAMES)).double()
        values = golden["photo0"][name]
        x = torch.from_numpy(values.input).double()
        with torch.no_grad():
            ours = stage.body(x.permute(0, 3, 1, 2) / 255 * 2 - 1 if name == "encoder" else x).numpy()
        assert np.abs(ours - values.output).max() <= 2**-23 * np.abs(values.output).max()
        assert values.rounding.max_abs > 4 * np.abs(ours - values.output).max()


def test_golden_values_come_back_from_their_file(sensitive, tmp_path):
    _, golden = sensitive
    parity.write_golden(tmp_path / "golden.npz", golden)
    again = read_golden(tmp_path / "golden.npz")
    assert list(again) == list(golden)
    for image, stages in golden.items():
        assert list(again[image]) == [*STAGES, CHAIN]
        for stage, values in stages.items():
            found = again[image][stage]
            assert found.rounding == values.rounding
            assert np.array_equal(found.input, values.input)
            assert np.abs(found.output - values.output).max() <= parity.GOLDEN_STEP / 2 * values.output.std()


def on_one_thread(run):
    def alone(stage, value):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run(stage, value)
        finally:
            torch.set_num_threads(threads)

    return alone


def rounding_otherwise(model):
    """Sound twins: folded, unfolded, on one thread, and with convolutions that sum in another order."""
    folded = TorchStages(lambda name: build_stage(name, model))
    everything = frozenset(folding.FOLD_NAMES)
    yield folded
    yield TorchStages(lambda name: build_stage(name, model, leave_out=everything))
    yield on_one_thread(folded)
    yield TorchStages(lambda name: build_stage(name, model).to(memory_format=torch.channels_last))


def test_a_sound_model_passes_however_it_rounds_also_where_the_constants_alone_would_refuse_it(sensitive):
    model, golden = sensitive
    for run in rounding_otherwise(model):
        parity.judge(parity.compare(golden, run, HERE), Precision.FP32)
        with pytest.raises(ParityError, match="--leave-out"):
            parity.judge(parity.compare(by_constants_alone(golden), run, HERE), Precision.FP32)


def test_graphs_pass_without_onnx_runtimes_optimisations_too(plain_export):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = {
        stage: onnxruntime.InferenceSession(
            plain_export.target / "graphs" / "fp32" / f"{stage}.onnx", options, ["CPUExecutionProvider"]
        )
        for stage in STAGES
    }

    def run(stage, value):
        takes, gives = STAGE_TENSORS[stage]
        return sessions[stage].run([gives[-1]], {takes[0]: value})[0]

    parity.judge(parity.compare(read_golden(plain_export.target / "golden.npz"), run, HERE), Precision.FP32)


FOLDED = {  # every fold, and a model in which it has something to do
    "fiffdepth": ({}, ("posterior", "time", "prompt", "latent", "mean")),
    "marigold-e2e": ({"recipe": "marigold-e2e", "in_channels": 8}, ("zero-input", "output")),
    "light": ({"light": True}, ("pixels", "range")),
}
WRONG = {"1 % too large": 1.01, "1 % too small": 0.99, "of the wrong sign": -1.0}


def test_every_fold_is_in_the_list():
    assert sorted(name for _, names in FOLDED.values() for name in names) == sorted(folding.FOLD_NAMES)


def wrong_fold(model: Model, stage_name: str, fold_name: str, factor: float):
    """A stage, folded, in which one fold multiplied by `factor` what it wrote."""
    stage = build_stage(stage_name, model, leave_out=frozenset({fold_name}))
    before = stage.state_dict()
    with torch.no_grad():
        folding.FOLDS[stage_name][fold_name](stage)
        written = [
            value
            for name, value in stage.state_dict().items()
            if name not in before or not torch.equal(before[name], value)
        ]
        assert written
        for value in written:
            value.mul_(factor)
    return stage


@pytest.mark.parametrize("kind", FOLDED)
def test_a_fold_that_is_1_percent_wrong_or_of_the_wrong_sign_is_refused(kind, tmp_path):
    changes, folds = FOLDED[kind]
    model = tiny_model(tmp_path, **changes)
    golden = parity.reference(model, golden_images(64))
    stage_of = {fold: stage for stage, all_folds in folding.FOLDS.items() for fold in all_folds}
    for fold_name in folds:
        stage_name = stage_of[fold_name]
        for what, factor in WRONG.items():
            wrong = functools.partial(wrong_fold, model, fold_name=fold_name, factor=factor)
            run = functools.partial(TorchStages(wrong), stage_name)
            rows = compare_stage(golden, stage_name, run, HERE)
            with pytest.raises(ParityError, match=f"fp32/{stage_name}"):
                parity.judge(rows, Precision.FP32)
                pytest.fail(f"{fold_name}, {what}, passes")


SIX = """
import sys, tempfile
from pathlib import Path
from export import parity
from export.engines import TorchStages
from export.golden_photos import golden_images
from export.graph_set import build_stage
from export.precision import Precision
from tests.export.test_parity import HERE, tiny_model
for seed in range(6):
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder), seed)
    golden = parity.reference(model, golden_images(model.size_default))
    rows = parity.compare(golden, TorchStages(lambda name: build_stage(name, model)), HERE)
    parity.judge(rows, Precision.FP32)
"""


@pytest.mark.soak
def test_six_sound_models_pass_on_a_processor_with_avx2_alone():
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", SIX],
        env={**os.environ, **limits},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr

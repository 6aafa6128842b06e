"""`python -m export.build_engines CHECKPOINT` as a newcomer types it: no option, any folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fiffdepth_rt
from export import build_engines
from export.afterwards import build_commands, build_plans_here, forms_to_deploy
from export.build_engines import main
from export.onnx_graphs import GraphForm
from export.options import engine_dir_for, graph_forms
from export.precision import Precision
from fiffdepth_rt.backends.tensorrt import here as tensorrt
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import STAGES
from tests.export.conftest import typed
from tests.support.tiny_models import (
    FEW_RESNETS,
    ONE_LEVEL,
    depth_by_diffusers,
    exact_in_half,
    sized_like_sd2,
    tiny_checkpoint,
    tiny_vae,
)
from training.weights.ours import save_checkpoint
from training.weights.random import write_layout


def test_without_any_option_the_directory_is_named_after_the_checkpoint(plain_export):
    folder = plain_export.folder
    place = str(Path("engines", "ckpt.v1"))
    assert plain_export.stderr.splitlines()[0] == f"ckpt.v1.safetensors -> {place}"
    assert plain_export.stdout.splitlines()[-1].endswith(f"fiffdepth infer photo.jpg --engine {place}")
    assert set(open_engine_dir(folder / place).manifest.graph_sets) == {"fp32", "fp16"}
    assert sorted(p.name for p in folder.iterdir()) == ["ckpt.v1.safetensors", "engines"]


@pytest.mark.skipif(tensorrt.usable().usable, reason="there is a GPU here, and plans are built")
def test_without_a_gpu_the_command_says_which_plans_are_still_to_be_built(plain_export):
    said = plain_export.stderr.splitlines()
    line = next(i for i, words in enumerate(said) if "TensorRT plans are still to be built" in words)
    assert said[line + 1].strip() == f"fiffdepth build {Path('engines', 'ckpt.v1')}"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="its wheels are not for here")
def test_the_four_lines_end_with_fp16_plans_of_tensorrt_for_rtx(plain_export):
    manifest = open_engine_dir(plain_export.target).manifest
    plans = [plan for plan in manifest.plans if plan.flavour == "tensorrt-rtx"]
    assert [(plan.stage, plan.precision) for plan in plans] == [(stage, "fp16") for stage in STAGES]
    side = manifest.size.default
    for plan in plans:
        assert plan.file == f"plans/{plan.stage}.fp16.sm80plus.trtrtx{plan.tensorrt_version}.plan"
        assert plan.profiles[0].grid == (side, side) and plan.memory is not None
        assert plan.checked or f"{plan.file}: built in" in plain_export.stderr


def test_where_tensorrt_for_rtx_is_not_installed_the_export_says_what_installs_it(
    plain_export, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with caplog.at_level(logging.INFO, "fiffdepth_export"):
        build_plans_here(plain_export.target, [GraphForm(precision=Precision.FP16)], command="")
    assert "TensorRT for RTX plans are still to be built, after its installation" in caplog.text
    assert "pip install 'fiffdepth-rt[tensorrt-rtx]'" in caplog.text
    assert f"fiffdepth build {plain_export.target} --flavour rtx\n" in caplog.text
    with caplog.at_level(logging.INFO, "fiffdepth_export"):
        fp16 = [GraphForm(precision=Precision.FP16)]
        build_plans_here(plain_export.target, fp16, command="", compute_capability="7.5")
    assert f"fiffdepth build {plain_export.target} --flavour rtx --compute-capability 7.5" in caplog.text


def test_the_four_lines_end_with_the_checkpoints_own_depth(plain_export):
    image = np.random.default_rng(5).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    found = np.asarray(fiffdepth_rt.Depth(plain_export.target).infer(image))
    expected = (np.clip(depth_by_diffusers(plain_export.made, image[None])[0], -1, 1) + 1) / 2
    assert found.shape == (64, 128) and found.std() > 0.01
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="its wheels are not for here")
def test_the_export_ends_with_plans_for_turing_where_they_are_asked_for(plain_export, tmp_path):
    run = typed(
        str(plain_export.checkpoint),
        "-o",
        "turing",
        "--compute-capability",
        "7.5",
        "--no-memory",
        folder=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    plans = open_engine_dir(tmp_path / "turing").manifest.plans
    assert [(plan.stage, plan.compute_capability) for plan in plans] == [(stage, "7.5") for stage in STAGES]


def test_a_second_run_is_refused_with_both_ways_on(plain_export, monkeypatch):
    monkeypatch.chdir(plain_export.folder)
    again = CliRunner().invoke(main, ["ckpt.v1.safetensors"])
    assert again.exit_code == 1
    assert "exists already. Add --overwrite to replace it, or choose another place with -o." in again.output


@pytest.mark.parametrize(
    ("words", "unasked"),
    [
        ([], {Precision.FP16}),
        (["--size", "128"], {Precision.FP16}),
        (["--precision", "fp32,fp16"], set()),
        (["--precision", "fp16"], set()),
        (["--keep-fp32", "unet.mid_block.*"], set()),
    ],
)
def test_fp16_is_asked_for_by_its_name_or_by_what_shall_not_be_fp16(tmp_path, monkeypatch, words, unasked):
    asked = []
    monkeypatch.setattr(build_engines, "export_engine_dir", asked.append)
    (tmp_path / "ckpt.safetensors").touch()
    done = CliRunner().invoke(main, [str(tmp_path / "ckpt.safetensors"), *words])
    assert done.exit_code == 0, done.output
    assert asked[0].unasked == unasked


@pytest.mark.soak
def test_a_model_that_fp16_cannot_hold_is_exported_without_it_unless_it_was_asked_for(tmp_path, caplog):
    """Its encoder's values are beyond 65504 on their way, and come back."""
    made = dataclasses.replace(tiny_checkpoint(**ONE_LEVEL), vae=tiny_vae(**FEW_RESNETS))
    with torch.no_grad():
        made.vae.encoder.conv_in.weight.mul_(2e5)
    save_checkpoint(tmp_path / "ckpt.safetensors", made)
    words = (str(tmp_path / "ckpt.safetensors"), "--no-plans", "--no-memory", "-o")
    done = CliRunner().invoke(main, [*words, str(tmp_path / "engines")])
    assert done.exit_code == 0, done.output
    left_out = "Left out: fp16, which the command did not ask for. fp16/encoder on photo0"
    assert left_out in caplog.text and done.stdout.startswith(f"{tmp_path / 'engines'}: ready.")
    manifest = open_engine_dir(tmp_path / "engines").manifest
    assert set(manifest.graph_sets) == {"fp32"} and {row["graph_set"] for row in manifest.parity} == {"fp32"}
    assert "--keep-fp32" in manifest.provenance["graph_sets_left_out"]["fp16"]
    assert not list((tmp_path / "engines").rglob("*fp16*"))
    asked = CliRunner().invoke(main, [*words, str(tmp_path / "asked"), "--precision", "fp32,fp16"])
    assert asked.exit_code == 1 and "Error: fp16/encoder on photo0" in asked.stderr
    assert not (tmp_path / "asked").exists()


@pytest.mark.soak
def test_a_plain_single_file_of_fiffdepth_needs_its_recipe_alone(tmp_path):
    """UNet and VAE under LDM's names, and the prompt embedding beside the file."""
    made = exact_in_half(sized_like_sd2())
    write_layout(tmp_path / "plain.safetensors", "ldm", made)
    run = typed("plain.safetensors", "--recipe", "fiffdepth", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    image = np.random.default_rng(5).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    found = np.asarray(fiffdepth_rt.Depth(tmp_path / "engines" / "plain", size=128).infer(image))
    expected = (np.clip(depth_by_diffusers(made, image[None])[0], -1, 1) + 1) / 2
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("ckpt.safetensors", "ckpt"),
        ("runs/a/fiffdepth-v1.2.safetensors", "fiffdepth-v1.2"),
        ("models/sd2.1-depth", "sd2.1-depth"),
        ("models/sd2.1-depth/", "sd2.1-depth"),
        ("models/MODEL.fp16.SafeTensors", "MODEL.fp16"),
    ],
)
def test_the_directory_is_named_as_the_checkpoint_is(checkpoint, name):
    assert engine_dir_for(Path(checkpoint)) == Path("engines", name)


def test_the_current_folder_has_a_name_too(tmp_path, monkeypatch):
    (tmp_path / "my.model").mkdir()
    monkeypatch.chdir(tmp_path / "my.model")
    assert engine_dir_for(Path()) == Path("engines", "my.model")


def test_a_link_gives_its_own_name(tmp_path):
    """What the Hub's cache holds are links to files that are named by their hash."""
    (tmp_path / "0f3c").write_bytes(b"")
    (tmp_path / "fiffdepth.safetensors").symlink_to(tmp_path / "0f3c")
    assert engine_dir_for(tmp_path / "fiffdepth.safetensors").name == "fiffdepth"


def test_the_commands_build_what_is_deployed_and_nothing_else():
    both = (Precision.FP32, Precision.FP16)
    place = Path("engines/x")

    def commands(forms):
        return build_commands(place, forms_to_deploy(forms))

    assert commands(graph_forms(both)) == ["fiffdepth build engines/x"]
    assert commands(graph_forms((Precision.FP32,))) == ["fiffdepth build engines/x"]
    assert commands(graph_forms((*both, Precision.BF16))) == [
        "fiffdepth build engines/x --precision fp16",
        "fiffdepth build engines/x --precision bf16",
    ]
    assert commands(graph_forms(both, static=((480, 640),), camera=((1080, 1920),))) == [
        "fiffdepth build engines/x --precision fp16-480x640 --grid 480x640"
    ]


@pytest.mark.parametrize(
    "words", [["n" * 256], ["here", "--vae", "n" * 256], ["here", "--text-encoder", f"a/{'n' * 256}"]]
)
def test_a_name_longer_than_a_file_s_may_be_is_refused_as_it_is_read(words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "is longer than a name may be, 255 bytes" in result.output

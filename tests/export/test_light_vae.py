"""A light encoder, decoder or both are exported in place of the full ones, and nobody downstream notices."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from export import folding, parity
from export.build_engines import main
from export.camera import camera_fit
from export.cost import cost_table
from export.engines import OnnxRuntimeStages, TorchStages
from export.errors import UnsupportedModelError
from export.graph_set import build_stage
from export.model import Given, Model, read_checkpoint
from export.onnx_graphs import GraphForm, write_graph
from export.precision import Precision, cast
from export.recipe import RECIPES
from export.stages import STAGES, DecoderStage, EncoderStage
from fiffdepth_rt import Depth
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.image import to_grid, to_photo
from tests.support.tiny_models import ONE_LEVEL, shake, tiny_checkpoint
from training.weights.errors import CheckpointError
from training.weights.light import (
    HALVES,
    LightHalf,
    LightInfo,
    load_light_vae,
    new_light_vae,
    read_light_half,
    save_light_vae,
)
from training.weights.ours import save_checkpoint
from training.weights.random import centre_depth, random_unet, random_vae
from training.weights.random import main as make_random

WIDTH = 8
INFO = LightInfo(
    name="light-tiny",
    teacher="tiny",
    licence="CC0-1.0",
    data_sources=("light numbers",),
    training={"steps": 0},
)


def changed(vae, **config):
    """Another one of the same configuration but for some keys. Keys with _ would hide them from diffusers."""
    public = {k: v for k, v in vae.config.items() if not k.startswith("_") and k != "block_out_channels"}
    return AutoencoderTiny(**{**public, **config})


def tiny_light(out_channels=3, seed=3, **config):
    torch.manual_seed(seed)
    return centre_depth(shake(changed(new_light_vae(width=WIDTH, out_channels=out_channels), **config)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, tiny_checkpoint(**ONE_LEVEL))
    return path


@pytest.fixture(scope="module")
def full(checkpoint):
    return read_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    """A folder as TAESD is published: config.json and diffusion_pytorch_model.safetensors."""
    folder = tmp_path_factory.mktemp("light") / "taesd"
    tiny_light().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# TAESD\n")
    return folder


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """One file as training/distill_vae.py writes it: a decoder of one channel."""
    path = tmp_path_factory.mktemp("light") / "light.safetensors"
    save_light_vae(path, tiny_light(out_channels=1, seed=4), ("encoder", "decoder"), INFO)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, taesd, tmp_path_factory):
    """One export by the command: both halves light."""
    target = tmp_path_factory.mktemp("exported") / "light"
    words = [str(checkpoint), "-o", str(target), "--precision", "fp32", "--no-plans", "--no-memory"]
    words += ["--golden-size", "64"]
    run = CliRunner().invoke(main, [*words, "--encoder", str(taesd), "--decoder", str(taesd)])
    assert run.exit_code == 0, run.output
    return target


def depth_by_diffusers(image, encoder, decoder):
    """uint8 [B, h, w, 3] -> depth before the clip, as diffusers' pipelines call an AutoencoderTiny."""
    made = tiny_checkpoint(**ONE_LEVEL)
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255 * 2 - 1
        if isinstance(encoder, AutoencoderTiny):
            latent = encoder.encode(pixels).latents
        else:
            latent = encoder.encode(pixels).latent_dist.mean * encoder.config.scaling_factor
        prompt = made.prompt_embedding.expand(len(image), -1, -1)
        depth_latent = made.unet(latent, 0, encoder_hidden_states=prompt).sample
        return decoder.decode(depth_latent / decoder.config.scaling_factor).sample.mean(1).numpy()


def halves_of(path):
    return {half: read_light_half(path, half) for half in HALVES}


def images(*shape):
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.soak
def test_the_graphs_compute_what_diffusers_light_chain_computes_at_every_grid_and_batch(exported, taesd):
    run = OnnxRuntimeStages(exported / "graphs" / "fp32", threads=1)
    light = AutoencoderTiny.from_pretrained(taesd)
    for image in (images(1, 64, 64, 3), images(1, 64, 192, 3), images(3, 128, 64, 3)):
        value = image
        for stage in STAGES:
            value = run(stage, value)
        expected = depth_by_diffusers(image, light, light)
        assert np.abs(value - expected).max() <= 1e-4
        assert expected.std() > 0.01


def test_the_runtime_infers_from_a_light_directory_as_from_any_other(exported, taesd):
    image, light = images(128, 64, 3), AutoencoderTiny.from_pretrained(taesd)
    with Depth(exported, size=128, threads=1) as depth:
        found = depth.infer(image)
    expected = (np.clip(depth_by_diffusers(image[None], light, light)[0], -1, 1) + 1) / 2
    assert np.abs(found - expected).max() <= 1e-4


def test_doors_names_and_shapes_are_those_of_the_full_export(exported):
    stages = open_engine_dir(exported).manifest.graph_sets["fp32"].stages
    specs = {
        name: [(t.name, t.dtype, t.shape) for t in (*s.inputs, *s.outputs)] for name, s in stages.items()
    }
    assert specs["encoder"] == [
        ("image", "uint8", ("batch", "height", "width", 3)),
        ("latent", "float32", ("batch", 4, "height/8", "width/8")),
    ]
    assert [spec[0] for spec in specs["decoder"]] == ["depth_latent", "depth", "depth_unclipped"]


def test_the_manifest_says_which_halves_are_light_and_under_which_licence(exported):
    manifest = open_engine_dir(exported).manifest
    light = manifest.provenance["light_vae"]
    assert {half: part["name"] for half, part in light.items()} == {"encoder": "taesd", "decoder": "taesd"}
    assert all(len(part["sha256"]) == 64 for part in light.values())
    assert manifest.licence.model == "CC0-1.0; light encoder taesd: mit; light decoder taesd: mit"
    assert "light encoder taesd, 0.0" in manifest.provenance["description"]


def test_the_golden_values_and_the_parity_table_are_of_the_light_chain(exported, taesd):
    light = AutoencoderTiny.from_pretrained(taesd)
    for stages in read_golden(exported / "golden.npz").values():
        expected = depth_by_diffusers(stages["encoder"].input, light, light)
        assert np.abs(stages["decoder"].output - expected).max() <= 1e-4
        assert max(stages["encoder"].input.shape[1:3]) == 64  # as asked, not the model's 128
    rows = open_engine_dir(exported).manifest.parity
    assert all(row["passed"] and row["max_abs"] <= 1e-4 for row in rows) and len(rows) == 12


def test_a_checkpoint_that_carries_a_light_vae_is_read_as_it_is(tmp_path):
    light, image = tiny_light(out_channels=1), images(64, 128, 3)
    made = dataclasses.replace(tiny_checkpoint(**ONE_LEVEL), vae=light)
    save_checkpoint(tmp_path / "tiny.safetensors", made)
    model = read_checkpoint(tmp_path / "tiny.safetensors")
    assert "VAE light-f8" in model.description
    run, value = TorchStages(lambda stage: build_stage(stage, model)), image[None]
    for stage in STAGES:
        value = run(stage, value)
    expected = depth_by_diffusers(image[None], light, light)
    assert np.abs(value - expected).max() <= 1e-4 and expected.std() > 1e-3


@pytest.mark.soak
def test_a_checkpoint_that_carries_a_light_vae_is_exported_as_it_is(tmp_path):
    light = tiny_light(out_channels=1)
    path, target = tmp_path / "tiny.safetensors", tmp_path / "engines"
    save_checkpoint(path, dataclasses.replace(tiny_checkpoint(**ONE_LEVEL), vae=light))
    run = CliRunner().invoke(
        main, [str(path), "-o", str(target), "--precision", "fp32", "--no-plans", "--no-memory"]
    )
    assert run.exit_code == 0, run.output
    assert "VAE light-f8" in open_engine_dir(target).manifest.provenance["description"]
    image = images(128, 64, 3)
    with Depth(target, size=128, threads=1) as depth:
        found = depth.infer(image)
    expected = (np.clip(depth_by_diffusers(image[None], light, light)[0], -1, 1) + 1) / 2
    assert np.abs(found - expected).max() <= 1e-4 and expected.std() > 1e-3


def test_a_full_vae_given_beside_a_light_checkpoint_takes_its_place(tmp_path):
    path = tmp_path / "light.safetensors"
    save_checkpoint(path, dataclasses.replace(tiny_checkpoint(**ONE_LEVEL), vae=tiny_light(out_channels=1)))
    tiny_checkpoint(**ONE_LEVEL).vae.save_pretrained(tmp_path / "vae")
    model = read_checkpoint(path, Given(vae=tmp_path / "vae"))
    assert "VAE KL-f8" in model.description
    expected = tiny_checkpoint(**ONE_LEVEL).vae.state_dict()
    for name, tensor in model.vae.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_one_half_alone_leaves_the_other_full(checkpoint, distilled, half):
    model = read_checkpoint(checkpoint, Given(**{half: distilled}))
    light, other = load_light_vae(distilled)[0], {"encoder": "decoder", "decoder": "encoder"}[half]
    assert list(model.light) == [half] and model.vae_of(other) is model.vae
    image = images(1, 64, 64, 3)
    chain = {half: light, other: model.vae}
    expected = depth_by_diffusers(image, chain["encoder"], chain["decoder"])
    found = parity.reference(model, {"photo0": image[0]})["photo0"]["decoder"].output
    assert np.abs(found - expected).max() <= 1e-5
    assert f"VAE {other} KL-f8" in model.description and f"light {half} light-tiny" in model.description


# Mean error relative to the reference's deviation. Random weights on noise round worse than photos do.
FORMS = [
    (GraphForm(precision=Precision.FP16, grid_hw=(72, 104)), "encoder", 2e-3),
    (GraphForm(trt85=True), "encoder", 1e-5),
    (GraphForm(trt85=True), "decoder", 1e-5),
    (GraphForm(precision=Precision.BF16), "decoder", 2e-2),
]


@pytest.mark.parametrize(("form", "half", "tolerance"), FORMS, ids=lambda x: getattr(x, "name", str(x)))
def test_every_form_of_a_distilled_half_computes_what_diffusers_does(
    full, distilled, tmp_path, form, half, tolerance
):
    light, model = load_light_vae(distilled)[0], dataclasses.replace(full, light=halves_of(distilled))
    h, w = form.grid_hw or (64, 128)
    image = images(1, h, w, 3)
    latent = torch.randn(1, 4, h // 8, w // 8, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
        value, expected = {
            "encoder": (image, light.encode(pixels).latents.numpy()),
            "decoder": (latent.numpy(), light.decode(latent).sample[:, 0].numpy()),
        }[half]
    stage = build_stage(half, model, form=form)
    write_graph(tmp_path, half, stage, form)
    if form.precision is Precision.BF16:  # ONNX Runtime's CPU kernels know no bfloat16 convolution
        run = TorchStages(lambda _: cast(stage, Precision.BF16))
    else:
        run = OnnxRuntimeStages(tmp_path, threads=1)
    found = run(half, value)
    assert found.shape == expected.shape and expected.std() > 0.05
    assert 0 < np.abs(found - expected).mean() <= tolerance * expected.std()


@pytest.mark.soak
def test_a_cameras_pictures_go_through_light_halves_as_the_host_would_resize_them(full, distilled, tmp_path):
    model = dataclasses.replace(full, light=halves_of(distilled))
    fitted, light = camera_fit((90, 120), 128), load_light_vae(distilled)[0]
    form = GraphForm(camera_hw=(90, 120), grid_hw=fitted.grid_hw)
    for half in HALVES:
        write_graph(tmp_path, half, build_stage(half, model, form=form), form)
    run = OnnxRuntimeStages(tmp_path, threads=1)
    picture = cv2.GaussianBlur(images(90, 120, 3), (0, 0), 3)
    latent = run("encoder", picture[None])
    with torch.no_grad():
        pixels = torch.from_numpy(to_grid(picture, fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = light.encode(pixels).latents.numpy()
        depth = light.decode(torch.from_numpy(expected)).sample[0, 0].numpy()
    assert np.abs(latent - expected).mean() <= 0.01 * expected.std()
    shrunk = to_photo(depth * 0.1 + 0.5, fitted)  # within [0, 1], to which to_photo clips
    assert np.abs(run("decoder", expected)[0] * 0.1 + 0.5 - shrunk).max() <= 1e-5


def test_a_unet_alone_needs_no_vae_where_both_halves_are_light(tmp_path, taesd):
    made = tiny_checkpoint(**ONE_LEVEL)
    made.unet.save_pretrained(tmp_path / "unet")
    save_file({"e": made.prompt_embedding}, tmp_path / "e.safetensors")
    given = {"recipe": "fiffdepth", "prompt_embedding": tmp_path / "e.safetensors", "encoder": taesd}
    with pytest.raises(CheckpointError, match=r"no VAE.*--encoder and --decoder"):
        read_checkpoint(tmp_path / "unet", Given(**given))
    model = read_checkpoint(tmp_path / "unet", Given(**given, decoder=taesd))
    assert model.vae is None
    assert "GFLOPs" in cost_table(model, leave_out=frozenset(), size=64)


# --- folds ---


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("scaling_factor", [1.0, 0.5])
def test_every_fold_of_a_light_half_is_exact_also_at_the_border(out_channels, scaling_factor):
    vae = tiny_light(out_channels, scaling_factor=scaling_factor).double()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 128), generator=generator).double()
    latent = torch.randn(2, 4, 8, 16, dtype=torch.float64, generator=generator)
    for name, make, value in (("encoder", EncoderStage, pixels), ("decoder", DecoderStage, latent)):
        plain, folded = make(vae), make(vae)
        folding.fold(name, folded)
        for stage in (plain, folded):
            stage.dtype = torch.float64
        with torch.no_grad():
            if name == "encoder":
                scale = (plain.pixel_scale, folded.pixel_scale)
                assert scale == (1 / 255, 1.0)
                expected, found = plain.body(value / 255), folded.body(value)
                assert (
                    vae.encode(value / 127.5 - 1).latents * scaling_factor - expected
                ).abs().max() <= 1e-11
            else:
                expected, found = plain.body(value), folded.body(value)
                by_diffusers = vae.decode(value / scaling_factor).sample.mean(1)
                assert (by_diffusers - expected).abs().max() <= 1e-11
                assert folded.decoder.layers[-1].out_channels == 1 and not folded.decoder.unit_range
        assert expected.std() > 0.01
        assert (expected - found).abs().max() <= 1e-11


def test_taesd_needs_24_percent_of_the_arithmetic_of_stable_diffusion_2_1():
    with torch.device("meta"):
        vae = new_light_vae(out_channels=3).eval()
        half = LightHalf(name="taesd", vae=vae, licence="MIT", data_sources=(), sha256="")
        model = Model(
            layout="", name="", recipe=RECIPES["fiffdepth"], output_space="depth", size_default=512,
            size_max=1024, licence="", data_sources=(), licence_file=None,
            unet=random_unet(), vae=random_vae(),
            light={"encoder": half, "decoder": half},
            prompt_embedding=torch.randn(1, 2, 1024), scheduler_config=None, sha256="",
        )  # fmt: skip
    rows = [line.split() for line in cost_table(model, leave_out=frozenset(), size=512).splitlines()]
    table = {row[0]: row[1:] for row in rows}
    assert table["encoder"][2:] == ["122.3", "122.3"]
    assert table["decoder"][2:] == ["141.4", "140.7"]
    assert float(table["all"][2]) == pytest.approx(1060, abs=1)
    assert rows[-1][:2] == ["24", "%"]


# --- what cannot be used ---


def refused(error, match, path, half="encoder"):
    with pytest.raises(error, match=match):
        read_light_half(path, half)


def folder_of(vae, path):
    vae.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("config", "half", "match"),
    [
        ({"num_encoder_blocks": (1, 1), "encoder_block_out_channels": (8, 8)}, "encoder", "factor 2"),
        ({"upsampling_scaling_factor": 3}, "decoder", "factor 27"),
        ({"in_channels": 1}, "encoder", "in_channels=1"),
        ({"out_channels": 2}, "decoder", "out_channels=2"),
        ({"shift_factor": 0.1}, "decoder", "shift_factor=0.1"),
        ({"encoder_block_out_channels": (8, 8, 8, 16)}, "encoder", "every level"),
    ],
)
def test_another_shape_of_door_is_refused_by_name(config, half, match):
    with pytest.raises(UnsupportedModelError, match=match):
        (EncoderStage if half == "encoder" else DecoderStage)(changed(new_light_vae(width=WIDTH), **config))


def test_a_wrong_light_half_stops_the_command_without_a_traceback(checkpoint, tmp_path):
    light = folder_of(new_light_vae(width=WIDTH), tmp_path / "light")
    config = json.loads((light / "config.json").read_text())
    (light / "config.json").write_text(json.dumps({**config, "latent_channels": 16}))
    words = [str(checkpoint), "-o", str(tmp_path / "out"), "--encoder", str(light)]
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 1 and run.output.startswith("Error: ") and "misshapen" in run.output
    assert not (tmp_path / "out").exists()


def test_missing_tensors_are_listed(tmp_path):
    light = folder_of(new_light_vae(width=WIDTH), tmp_path / "light")
    weights = light / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if k != "encoder.layers.0.bias"}, weights)
    refused(CheckpointError, r"EncoderTiny of its configuration. 1 missing: layers.0.bias", light)
    assert read_light_half(light, "decoder").vae.encoder is None


def test_a_file_with_the_other_half_alone_is_said(tmp_path):
    save_light_vae(tmp_path / "light.safetensors", new_light_vae(width=WIDTH), ("decoder",), INFO)
    refused(
        CheckpointError, "holds no encoder: its tensors begin with decoder", tmp_path / "light.safetensors"
    )


def test_a_full_vae_in_place_of_a_light_one_is_said(tmp_path):
    tiny_checkpoint(**ONE_LEVEL).vae.save_pretrained(tmp_path / "vae")
    refused(CheckpointError, "is a AutoencoderKL, not an AutoencoderTiny.*--vae", tmp_path / "vae")


def test_pickles_and_files_without_a_configuration_are_refused(tmp_path):
    (tmp_path / "taesd_encoder.pth").write_bytes(b"\x80\x04.")
    refused(CheckpointError, "is a pickle", tmp_path / "taesd_encoder.pth")
    save_file(new_light_vae(width=WIDTH).state_dict(), tmp_path / "bare.safetensors")
    refused(CheckpointError, "put AutoencoderTiny's config.json beside it", tmp_path / "bare.safetensors")
    new_light_vae(width=WIDTH).save_config(tmp_path)
    assert read_light_half(tmp_path / "bare.safetensors", "encoder").name == "bare"


def test_a_configuration_that_builds_nothing_is_said(tmp_path):
    light = folder_of(new_light_vae(width=WIDTH), tmp_path / "light")
    config = json.loads((light / "config.json").read_text())
    (light / "config.json").write_text(json.dumps({**config, "num_encoder_blocks": [1]}))
    refused(CheckpointError, "builds no AutoencoderTiny", light)


# --- the file of our own distillation ---


def test_a_light_vae_comes_back_as_it_was_saved(tmp_path):
    vae = tiny_light(out_channels=1)
    save_light_vae(tmp_path / "light.safetensors", vae, ("decoder",), INFO)
    again, halves, info = load_light_vae(tmp_path / "light.safetensors")
    assert (halves, info, again.encoder) == (("decoder",), INFO, None)
    latent = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.decode(latent).sample, vae.decode(latent).sample)
        assert again.decode(latent).sample.shape == (1, 1, 64, 64)


def test_a_cut_or_foreign_file_is_no_light_vae(tmp_path):
    path = tmp_path / "light.safetensors"
    save_light_vae(path, new_light_vae(width=WIDTH), ("encoder", "decoder"), INFO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_light_vae(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="lacks the metadata"):
        load_light_vae(path)


def test_the_random_light_vae_is_a_folder_that_the_export_takes(tmp_path):
    run = CliRunner().invoke(make_random, [str(tmp_path / "taesd"), "--layout", "light", "--width", "0.125"])
    assert run.exit_code == 0, run.output
    assert read_light_half(tmp_path / "taesd", "decoder").vae.config.out_channels == 3

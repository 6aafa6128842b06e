"""A light encoder with a prior in graphs: every form computes what the network in training does."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime as ort
import pytest
import torch

from export import parity
from export.cost import cost_table
from export.engines import TorchStages
from export.folding import FOLD_NAMES
from export.graph_set import build_stage
from export.model import Given, Model, read_checkpoint
from export.onnx_graphs import GraphForm, write_graph
from export.precision import Precision
from fiffdepth_rt.engine_dir.golden import Where
from tests.support.tiny_models import ONE_LEVEL, PRIOR_CHANNELS, prior_vae, tiny_checkpoint, tiny_vae
from training.weights.errors import CheckpointError
from training.weights.light import HALVES, LightInfo, save_light_vae
from training.weights.ours import save_checkpoint

LATENT = {"in_channels": 4 + PRIOR_CHANNELS, "out_channels": 4 + PRIOR_CHANNELS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    file = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_checkpoint(file, dataclasses.replace(tiny_checkpoint(**ONE_LEVEL, **LATENT), vae=prior_vae()))
    return read_checkpoint(file)


def latent_in_torch(image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return (
            prior_vae()
            .encode(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1)
            .latents.numpy()
        )


@pytest.mark.parametrize(
    ("form", "hw", "atol"),
    [
        (GraphForm(grid_hw=(72, 136)), (72, 136), 1e-4),
        *(
            pytest.param(form, hw, atol, marks=pytest.mark.soak)
            for form, hw, atol in (
                (GraphForm(), (128, 192), 1e-4),  # in make test: nano itself
                (GraphForm(trt85=True), (64, 128), 1e-4),
                (GraphForm(trt85=True, grid_hw=(104, 72)), (104, 72), 1e-4),
                (GraphForm(precision=Precision.FP16), (128, 64), 5e-2),  # its weights
            )
        ),
    ],
    ids=str,
)
def test_the_graph_gives_the_latent_of_the_network_in_training(
    model: Model, tmp_path, form: GraphForm, hw: tuple[int, int], atol: float
) -> None:
    written = write_graph(tmp_path, "encoder", build_stage("encoder", model), form)
    image = np.random.default_rng(0).integers(0, 256, (3, *hw, 3), dtype=np.uint8)
    (found,) = ort.InferenceSession(tmp_path / written.file).run(None, {"image": image})
    expected = latent_in_torch(image)
    assert written.outputs[0].shape[1] == found.shape[1] == 4 + PRIOR_CHANNELS
    assert min(expected[:, channel].std() for channel in range(4 + PRIOR_CHANNELS)) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("leave_out", [frozenset(), frozenset(FOLD_NAMES)], ids=["folded", "plain"])
def test_the_folds_are_exact_with_a_scaling_factor_too(model: Model, leave_out: frozenset[str]) -> None:
    vae = prior_vae().double()
    vae.register_to_config(scaling_factor=0.4)
    stage = build_stage("encoder", dataclasses.replace(model, vae=vae), leave_out=leave_out)
    stage.dtype = torch.float64
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = vae.encode(image.permute(0, 3, 1, 2).double() / 127.5 - 1).latents * 0.4
        found = stage(image)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_a_half_for_another_latent_than_the_unet_s_is_refused(tmp_path) -> None:
    made = tiny_checkpoint(**ONE_LEVEL)
    save_checkpoint(tmp_path / "tiny.safetensors", dataclasses.replace(made, vae=prior_vae()))
    with pytest.raises(CheckpointError, match="latents of 4 channels, the encoder is for 7"):
        read_checkpoint(tmp_path / "tiny.safetensors")
    info = LightInfo(name="light", teacher="x", licence="CC0-1.0", data_sources=(), training={})
    save_light_vae(tmp_path / "light.safetensors", prior_vae(), HALVES, info)
    save_checkpoint(tmp_path / "full.safetensors", made)
    with pytest.raises(CheckpointError, match="the decoder is for 7"):
        read_checkpoint(tmp_path / "full.safetensors", Given(decoder=tmp_path / "light.safetensors"))
    vae = tiny_vae(latent_channels=16)
    save_checkpoint(tmp_path / "kl.safetensors", dataclasses.replace(made, vae=vae))
    with pytest.raises(CheckpointError, match="the encoder is for 16"):
        read_checkpoint(tmp_path / "kl.safetensors")


@pytest.mark.parametrize("recipe", ["fiffdepth", "marigold-e2e"])
def test_a_full_vae_of_another_number_of_channels_is_exported_alike(tmp_path, recipe: str) -> None:
    channels = {"in_channels": 16 if recipe == "marigold-e2e" else 8, "out_channels": 8}
    made = tiny_checkpoint(recipe=recipe, **ONE_LEVEL, **channels)
    vae = tiny_vae(latent_channels=8, block_out_channels=(8,) * 4)
    save_checkpoint(tmp_path / "kl.safetensors", dataclasses.replace(made, vae=vae))
    model = read_checkpoint(tmp_path / "kl.safetensors")
    images = {"photo": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)}
    rows = parity.compare(
        parity.reference(model, images),
        TorchStages(lambda stage: build_stage(stage, model)),
        Where(graph_set="fp32", backend="torch", device="cpu"),
    )
    assert len(rows) == 4 and all(row.passed and row.reference_std > 1e-3 for row in rows)


def test_the_description_and_the_costs_speak_of_the_prior(model: Model) -> None:
    assert "VAE light-f8 with a prior, 4.4 M parameters" in model.description
    assert "encoder        4.3" in cost_table(model, leave_out=frozenset(), size=128)


@pytest.mark.soak
@pytest.mark.parametrize(
    "form",
    [
        GraphForm(precision=Precision.BF16),
        GraphForm(camera_hw=(100, 150), grid_hw=(128, 128)),
        GraphForm(precision=Precision.FP16, keep_fp32=("encoder.prior.*",)),
    ],
    ids=str,
)
def test_every_other_form_of_it_is_written_and_taken(model: Model, tmp_path, form: GraphForm) -> None:
    write_graph(tmp_path, "encoder", build_stage("encoder", model, form=form), form)

"""Promises of going on from the bundled engine directory: its folded graphs are networks in torch again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fiffdepth_rt.engine_dir.manifest import BUNDLED
from training import loop
from training.distill_vae import RESULT
from training.errors import TrainingError
from training.nano.joint import DepthModel
from training.nano.networks import nano_unet
from training.nano.stages import Settings
from training.nano.start import fill_from_engine, start_from
from training.weights.light import load_light_vae, new_light_vae


@pytest.fixture(scope="module")
def model() -> DepthModel:
    model = new_model()
    fill_from_engine(model, BUNDLED)
    return model.eval()


def new_model() -> DepthModel:
    light = Settings().light
    vae = new_light_vae(
        width=light.width, encoder_blocks=light.encoder_blocks, decoder_blocks=light.decoder_blocks
    )
    return DepthModel(vae, nano_unet())


@pytest.mark.parametrize("image", ["photo0", "noise"])
def test_each_network_computes_what_its_folded_graph_does(model: DepthModel, image: str) -> None:
    with np.load(BUNDLED / "golden.npz", allow_pickle=False) as golden:
        given, expected = (
            {
                stage: torch.from_numpy(golden[f"{image}/{stage}/{end}"])
                for stage in ("encoder", "unet", "decoder")
            }
            for end in ("input", "output")
        )
    with torch.no_grad():
        found = {
            "encoder": model.encode(given["encoder"].permute(0, 3, 1, 2).float() / 127.5 - 1),
            "unet": model.unet(given["unet"], 0, model.prompt).sample,
            "decoder": model.decode(given["decoder"])[:, 0],
        }
    for stage, value in found.items():
        assert expected[stage].std() > 0.05
        torch.testing.assert_close(value, expected[stage], rtol=0, atol=1e-4, msg=stage)


def test_what_the_folds_had_made_constant_can_learn_again(model: DepthModel) -> None:
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model.unet.train().zero_grad()
    model.unet(latent, 300, model.prompt).sample.square().mean().backward()
    for part in ("time_emb_proj.weight", "attn2.to_q.weight", "attn2.to_k.weight", "attn2.to_v.weight"):
        gradients = [p.grad for name, p in model.unet.named_parameters() if name.endswith(part)]
        assert gradients and all(gradient.abs().max() > 0 for gradient in gradients), part
    model.unet.eval().zero_grad()


def test_an_engine_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED / "graphs", tmp_path / "graphs")
    shutil.copy(BUNDLED / "graphs/fp32/encoder.onnx", tmp_path / "graphs/fp32/unet.onnx")
    with pytest.raises(TrainingError, match=r"holds no nano of this version"):
        fill_from_engine(new_model(), tmp_path)
    with pytest.raises(TrainingError, match=r"holds no nano of this version"):
        fill_from_engine(new_model(), tmp_path / "missing")


def test_a_run_begins_with_the_engine_s_weights_in_the_place_of_its_first_stages(
    model: DepthModel, tmp_path: Path
) -> None:
    start_from(BUNDLED, tmp_path, Settings().light)
    begun = load_file(tmp_path / "start" / loop.WEIGHTS)
    assert set(begun) == set(model.state_dict())
    torch.testing.assert_close(begun["unet.conv_in.weight"], model.state_dict()["unet.conv_in.weight"])
    vae, halves, info = load_light_vae(tmp_path / "light" / RESULT)
    assert halves == ("encoder", "decoder") and info.teacher == "nano"
    assert any("procedural scenes" in source for source in info.data_sources)
    torch.testing.assert_close(vae.state_dict(), model.vae.state_dict())

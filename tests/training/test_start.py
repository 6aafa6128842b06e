"""Promises of what the fine stage begins with: a prior in the light encoder, or the bundled engine directory,
whose folded graphs are networks in torch again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fiffdepth_rt.engine_dir.manifest import BUNDLED
from tests.support.tiny_models import tiny_prior
from training import loop
from training.data import procedural
from training.distill_vae import RESULT
from training.errors import TrainingError
from training.nano.joint import DepthModel
from training.nano.networks import PRIOR_CHANNELS, VAE_CHANNELS, nano_unet
from training.nano.stages import Settings
from training.nano.start import LIGHT, begin_with_prior, check_prior, fill_from_engine, start_from, unfilled
from training.scenes.layouts import HAND_HELD
from training.weights.light import HALVES, LightInfo, load_light_vae, new_light_vae, save_light_vae
from training.weights.tensors import hash_files


@pytest.fixture(scope="module")
def model() -> DepthModel:
    model = unfilled(Settings().light)
    fill_from_engine(model, BUNDLED)
    return model.eval()


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
    channels = VAE_CHANNELS + PRIOR_CHANNELS
    latent = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    model.unet.train().zero_grad()
    model.unet(latent, 300, model.prompt).sample.square().mean().backward()
    for part in ("time_emb_proj.weight", "attn2.to_q.weight", "attn2.to_k.weight", "attn2.to_v.weight"):
        gradients = [p.grad for name, p in model.unet.named_parameters() if name.endswith(part)]
        assert gradients and all(gradient.abs().max() > 0 for gradient in gradients), part
    model.unet.eval().zero_grad()


def test_an_engine_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED / "graphs", tmp_path / "graphs")
    shutil.copy(BUNDLED / "graphs/fp32/encoder.onnx", tmp_path / "graphs/fp32/unet.onnx")
    for engine in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TrainingError, match=r"holds no nano of this version"):
            fill_from_engine(unfilled(Settings().light), engine)


def test_a_run_begins_with_the_engine_s_weights_in_the_place_of_its_first_stages(
    model: DepthModel, tmp_path: Path
) -> None:
    start_from(BUNDLED, tmp_path, Settings().light)
    begun = load_file(tmp_path / "start" / loop.WEIGHTS)
    assert set(begun) == set(model.state_dict())
    torch.testing.assert_close(begun["unet.conv_in.weight"], model.state_dict()["unet.conv_in.weight"])
    vae, halves, info = load_light_vae(tmp_path / "start" / LIGHT)
    assert halves == ("encoder", "decoder") and info.teacher == "nano"
    assert any("procedural scenes" in source for source in info.data_sources)
    assert all(source.startswith("the weights it started from (nano): ") for source in info.data_sources)
    torch.testing.assert_close(vae.state_dict(), model.vae.state_dict())


def test_a_run_begins_with_joint_s_unet_the_light_vae_and_the_prior(tmp_path: Path) -> None:
    torch.manual_seed(0)
    light, unet = new_light_vae(width=8), nano_unet()
    info = LightInfo(name="light", teacher="full", licence="Apache-2.0", data_sources=("x",), training={})
    (tmp_path / "light").mkdir()
    save_light_vae(tmp_path / "light" / RESULT, light, HALVES, info)
    (tmp_path / "scenes_large").mkdir()
    procedural.render_shard(tmp_path / "scenes_large", 0, per_shard=2, seed_base=0, mix=HAND_HELD)
    prior = tiny_prior(tmp_path)
    torch.manual_seed(1)
    begin_with_prior(tmp_path, unet, prior)
    vae, _, said = load_light_vae(tmp_path / "start" / LIGHT)
    begun = DepthModel(vae, nano_unet(VAE_CHANNELS + PRIOR_CHANNELS))
    begun.load_state_dict(load_file(tmp_path / "start" / loop.WEIGHTS))
    photos = torch.rand(1, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(begun(photos), DepthModel(light, unet)(photos), rtol=0, atol=1e-6)
    assert said.training == {"prior_sha256": hash_files([prior])}
    assert [source.partition(":")[0] for source in said.data_sources] == [
        "x",
        "the backbone in its encoder",
        "that backbone's decoder, and the fine-tuning of both, by scenes",
    ]
    assert all("Apache-2.0" in source for source in said.data_sources[1:])
    # Nothing of it depends on what this process drew before.
    first = (tmp_path / "start" / loop.WEIGHTS).read_bytes()
    (tmp_path / "start" / loop.WEIGHTS).unlink()
    torch.manual_seed(2)
    begin_with_prior(tmp_path, unet, prior)
    assert (tmp_path / "start" / loop.WEIGHTS).read_bytes() == first
    check_prior(tmp_path, prior)
    other = prior.rename(tmp_path / "other.safetensors")
    other.write_bytes(other.read_bytes().replace(b"0.5", b"0.4", 1))
    with pytest.raises(TrainingError, match=r"was begun with another prior than .*other\.safetensors"):
        check_prior(tmp_path, other)

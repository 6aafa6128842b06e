"""Promises of a light VAE with a prior: what it adds, what it leaves as it was, and its place in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_models import (
    ONE_LEVEL,
    PRIOR_CHANNELS,
    PRIOR_WIDTHS,
    prior_vae,
    random_network,
    tiny_checkpoint,
    tiny_prior,
)
from training.errors import TrainingError
from training.log_depth import backbone
from training.nano.joint import DepthModel, decisive_loss
from training.nano.networks import nano_unet, wider_unet
from training.scene_teacher import checkpoint
from training.weights.errors import CheckpointError
from training.weights.light import LightInfo, load_light_vae, new_light_vae, read_light_half, save_light_vae
from training.weights.ours import load_checkpoint, save_checkpoint
from training.weights.prior import PriorAutoencoderTiny, with_prior

INFO = LightInfo(name="light", teacher="noise", licence="CC0-1.0", data_sources=("noise",), training={})


@pytest.fixture(scope="module")
def vae() -> PriorAutoencoderTiny:
    return prior_vae()


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_with_a_prior_and_wider_ends_the_three_networks_compute_what_they_did(photos: torch.Tensor) -> None:
    torch.manual_seed(0)
    light, unet = new_light_vae(width=8), nano_unet()
    network = random_network()
    before, after = DepthModel(light, unet), DepthModel(with_prior(light, network, 5), wider_unet(unet, 9))
    with torch.no_grad():
        latent = after.encode(photos)
        assert latent.shape == (2, 9, 8, 16)
        assert torch.equal(latent[:, :4], before.encode(photos))
        expected = before(photos)
        assert expected.std() > 1e-3
        torch.testing.assert_close(after(photos), expected, rtol=0, atol=1e-6)
    for name, value in network.state_dict().items():
        assert torch.equal(after.vae.state_dict()[f"encoder.prior.network.{name}"], value)


def test_the_channels_of_the_prior_are_the_network_s_log_depth_at_half_the_size(
    vae: PriorAutoencoderTiny, photos: torch.Tensor
) -> None:
    """The first is the mean log depth of a cell, moved and scaled."""
    network = random_network()
    levels = (photos + 1) * 127.5
    with torch.no_grad():
        latent = vae.encode(photos).latents
        log_depth = network(torch.nn.functional.avg_pool2d(levels, 2))
    assert latent.shape == (2, 4 + PRIOR_CHANNELS, 8, 16)
    means = torch.nn.functional.avg_pool2d(log_depth, 4).flatten()
    found = latent[:, 4].flatten()
    assert torch.corrcoef(torch.stack([means, found]))[0, 1] > 0.9999
    assert (latent[:, 4:].std((0, 2, 3)) - 1).abs().max() < 0.5


def test_the_prior_stays_as_it_is_and_what_mixes_it_learns(photos: torch.Tensor) -> None:
    model = DepthModel(prior_vae(), nano_unet(4 + PRIOR_CHANNELS))
    target = torch.rand(2, 1, 64, 128) * 2 - 1
    decisive_loss(target, model(photos)).backward()
    prior = model.vae.encoder.prior
    assert all(p.grad is None for p in prior.network.parameters())
    for part in (prior.mix, model.vae.encoder.layers, model.vae.decoder, model.unet):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_it_comes_back_from_every_kind_of_file(
    vae: PriorAutoencoderTiny, photos: torch.Tensor, tmp_path: Path
) -> None:
    save_light_vae(tmp_path / "light.safetensors", vae, ("encoder", "decoder"), INFO)
    channels = {"in_channels": 4 + PRIOR_CHANNELS, "out_channels": 4 + PRIOR_CHANNELS}
    made = dataclasses.replace(tiny_checkpoint(**ONE_LEVEL, **channels), vae=vae)
    save_checkpoint(tmp_path / "whole.safetensors", made)
    vae.save_pretrained(tmp_path / "folder")
    read = {
        "light": load_light_vae(tmp_path / "light.safetensors")[0],
        "half": read_light_half(tmp_path / "light.safetensors", "encoder").vae,
        "whole": load_checkpoint(tmp_path / "whole.safetensors").vae,
        "folder": read_light_half(tmp_path / "folder", "encoder").vae,
    }
    with torch.no_grad():
        expected = vae.encode(photos).latents
        for name, again in read.items():
            assert type(again) is PriorAutoencoderTiny and tuple(again.config.prior_widths) == PRIOR_WIDTHS
            assert torch.equal(again.encode(photos).latents, expected), name


def test_a_vae_of_a_class_of_another_version_is_said(vae: PriorAutoencoderTiny, tmp_path: Path) -> None:
    channels = {"in_channels": 4 + PRIOR_CHANNELS, "out_channels": 4 + PRIOR_CHANNELS}
    file = tmp_path / "whole.safetensors"
    save_checkpoint(file, dataclasses.replace(tiny_checkpoint(**ONE_LEVEL, **channels), vae=vae))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"PriorAutoencoderTiny", b"PriorAutoencoderTine"))
    with pytest.raises(CheckpointError, match="class PriorAutoencoderTine, which this program does not"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("prior_widths", "[8, 8]", r"builds no PriorAutoencoderTiny"),
        ("prior_widths", "[8, 8, 8, 8, 7]", r"builds no PriorAutoencoderTiny"),
        ("prior_widths", "[1e99]", r"prior_widths\[0\] should be"),
        ("prior_channels", "7", r"do not fit the PriorEncoder"),
        ("prior_channels", "99", r"builds no PriorAutoencoderTiny"),
    ],
)
def test_a_prior_that_its_configuration_does_not_build_is_said(
    vae: PriorAutoencoderTiny, tmp_path: Path, key: str, value: str, match: str
) -> None:
    folder = tmp_path / "light"
    vae.save_pretrained(folder)
    config = (folder / "config.json").read_text()
    there = {"prior_widths": "[\n    8,\n    8,\n    8,\n    8,\n    8\n  ]", "prior_channels": "3"}[key]
    assert f'"{key}": {there}' in config
    (folder / "config.json").write_text(config.replace(f'"{key}": {there}', f'"{key}": {value}'))
    with pytest.raises(CheckpointError, match=match):
        read_light_half(folder, "encoder")


def test_without_the_backbone_s_package_it_is_said_what_to_install(
    vae: PriorAutoencoderTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_light_vae(tmp_path / "light.safetensors", vae, ("encoder", "decoder"), INFO)

    def missing() -> None:
        raise TrainingError(backbone._missing(ImportError("No module named 'efficientnet_lite_pytorch'")))

    monkeypatch.setattr(backbone, "_package", missing)
    with pytest.raises(CheckpointError, match=r"light.safetensors: .*'fiffdepth-rt\[teacher\]'\.$"):
        load_light_vae(tmp_path / "light.safetensors")


def test_a_teacher_s_file_becomes_the_prior(tmp_path: Path) -> None:
    file = tiny_prior(tmp_path)
    wide = with_prior(new_light_vae(width=8), checkpoint.load(file)[0], PRIOR_CHANNELS)
    for name, value in load_file(file).items():
        assert torch.equal(wide.encoder.prior.network.state_dict()[name].half(), value)

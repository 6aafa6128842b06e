"""Promises of the hints: the student's features follow the teacher's, and only the student goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training import loop
from training.nano.hints import LEVELS, Follower, Hints, model_after_hints
from training.nano.joint import DepthModel
from training.nano.networks import nano_unet
from training.scene_teacher.backbone import STRIDES, Backbone
from training.scene_teacher.network import LogDepthNetwork
from training.weights.light import new_light_vae

WIDTHS = (8, 8, 16, 24, 32)


@pytest.fixture(scope="module")
def views() -> torch.Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def hints(views: torch.Tensor) -> Hints:
    torch.manual_seed(1)
    return Hints(LogDepthNetwork(Backbone(folded=True), widths=WIDTHS), views.split(2))


def student() -> DepthModel:
    torch.manual_seed(2)
    return DepthModel(new_light_vae(width=8), nano_unet())


def test_hints_are_the_decoder_s_features_standardised_by_channel(views: torch.Tensor, hints: Hints) -> None:
    found = hints.of(views)
    assert hints.channels == tuple(WIDTHS[level] for level in LEVELS)
    for level, feature in zip(LEVELS, found, strict=True):
        side = 64 // STRIDES[level]
        assert feature.shape == (6, WIDTHS[level], side, side)
        torch.testing.assert_close(feature.mean((0, 2, 3)), torch.zeros(WIDTHS[level]), atol=0.02, rtol=0)
        torch.testing.assert_close(feature.std((0, 2, 3)), torch.ones(WIDTHS[level]), atol=0.02, rtol=0)


def test_a_new_follower_guesses_the_mean_and_gives_its_model_s_pictures(
    views: torch.Tensor, hints: Hints
) -> None:
    model = student()
    follower = Follower(model, hints.channels)
    with torch.no_grad():
        pictures, features = follower(views)
        again, _ = follower(views)  # nothing is left of the first time
        torch.testing.assert_close(pictures, model(views))
    torch.testing.assert_close(again, pictures)
    for own, there in zip(features, hints.of(views), strict=True):
        assert own.shape == there.shape
        assert own.abs().max() == 0


def test_the_student_s_features_learn_the_teacher_s(views: torch.Tensor, hints: Hints) -> None:
    """Better than the maps alone could: the student's own weights take part."""
    wanted = hints.of(views)

    def error_after(steps: int, follower: Follower, weights: list[nn.Parameter]) -> float:
        optimizer = torch.optim.AdamW(weights, lr=2e-3)
        for _ in range(steps):
            _, features = follower(views)
            loss = sum(nn.functional.mse_loss(a, b) for a, b in zip(features, wanted, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach()) / len(LEVELS)

    whole, maps_alone = Follower(student(), hints.channels), Follower(student(), hints.channels)
    by_whole = error_after(15, whole, list(whole.parameters()))
    by_maps = error_after(15, maps_alone, list(maps_alone.maps.parameters()))
    assert by_whole < 0.75
    assert by_whole < by_maps


def test_a_follower_is_trained_by_the_loop_and_holds_no_features(
    tmp_path: Path, views: torch.Tensor, hints: Hints
) -> None:
    follower = Follower(student(), hints.channels)

    def loss_at(_step: int) -> torch.Tensor:
        _, features = follower(views)
        return sum(nn.functional.mse_loss(a, b) for a, b in zip(features, hints.of(views), strict=True))

    def validate(averaged: nn.Module) -> dict[str, float]:
        assert isinstance(averaged, Follower)
        averaged.model(views)
        return {"hooks": float(sum(len(block._forward_hooks) for block in averaged.model.unet.up_blocks))}

    schedule = loop.Schedule(steps=2, lr=1e-3, save_every=1)
    loop.fit(follower, loss_at, schedule, tmp_path / "hints", validate=validate)
    rows = [json.loads(line) for line in (tmp_path / "hints" / "log.jsonl").read_text().splitlines()]
    assert [row["hooks"] for row in rows] == [0, 0]
    assert rows[1]["loss"] < rows[0]["loss"]


def test_the_maps_stay_behind(tmp_path: Path, hints: Hints) -> None:
    follower = Follower(student(), hints.channels)
    (tmp_path / "hints").mkdir()
    weights = {name: value.contiguous() for name, value in follower.state_dict().items()}
    save_file(weights, tmp_path / "hints" / loop.WEIGHTS)
    torch.manual_seed(9)
    other = DepthModel(new_light_vae(width=8), nano_unet())
    for name, value in model_after_hints(tmp_path, other).state_dict().items():
        torch.testing.assert_close(value, weights[f"model.{name}"])

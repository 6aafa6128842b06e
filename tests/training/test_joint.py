"""Promises of the loss on pictures and of the weights between two stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training import objective
from training.nano.joint import DepthModel, between, decisive_loss
from training.nano.networks import nano_unet
from training.weights.light import LightInfo, load_light_vae, new_light_vae, save_light_vae

INFO = LightInfo(name="light", teacher="noise", licence="CC0-1.0", data_sources=("noise",), training={})


def _row(values: list[float]) -> torch.Tensor:
    return torch.tensor([[[values] * 4]])


def test_the_decisive_loss_by_value() -> None:
    residual = [0.0, 0.2, 0.2, -0.1]
    target = _row([0.5, -0.5, 0.1, 0.3])

    def rho(x: float, s: float) -> float:
        return (abs(x) + s) ** 0.5 - s**0.5

    value = sum(abs(r) for r in residual) / 4 + 0.5 * sum(rho(r, 0.02) for r in residual) / 4
    # The rows are equal: nothing along y.
    value += 0.5 * (rho(0.2, 0.01) + rho(0, 0.01) + rho(-0.3, 0.01)) / 3
    value += 0.5 * rho(0.2, 0.01)  # every second pixel: 0, 0.2
    found = decisive_loss(target, target + _row(residual))
    assert found.item() == pytest.approx(value, rel=1e-5)


def test_a_step_in_the_wrong_place_costs_less_than_a_ramp_across_the_doubt() -> None:
    """An edge of height 2 is at one of the places 4 … 12, each as likely: the mean loss over them decides."""

    def edge(at: int) -> torch.Tensor:
        return _row([-1.0] * at + [1.0] * (16 - at))

    ramp = _row([-1.0] * 4 + [-1 + 2 * (i + 0.5) / 8 for i in range(8)] + [1.0] * 4)
    places = range(4, 13)

    def step_to_ramp(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
        step, soft = (sum(loss(edge(at), guess).item() for at in places) for guess in (edge(8), ramp))
        return step / soft

    assert step_to_ramp(decisive_loss) < 0.8
    assert step_to_ramp(decisive_loss) < step_to_ramp(objective.depth_loss) - 0.1


def test_the_truth_costs_nothing() -> None:
    picture = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert decisive_loss(picture, picture).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_between_two_stages_by_value(share: float) -> None:
    def model(seed: int) -> DepthModel:
        torch.manual_seed(seed)
        return DepthModel(new_light_vae(width=8), nano_unet())

    before, after = model(0), model(1)
    expected = [
        (1 - share) * b + share * a for b, a in zip(before.parameters(), after.parameters(), strict=True)
    ]
    moved = between(before, after, share)
    for weight, value in zip(moved.parameters(), expected, strict=True):
        torch.testing.assert_close(weight, value)


def test_all_three_networks_learn_also_those_that_were_read_from_a_file(tmp_path: Path) -> None:
    """What a file is read into comes frozen, and a frozen encoder would stay as it was distilled."""
    save_light_vae(tmp_path / "light.safetensors", new_light_vae(width=8), ("encoder", "decoder"), INFO)
    vae, _, _ = load_light_vae(tmp_path / "light.safetensors")
    model = DepthModel(vae, nano_unet())
    photos, depth = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 1, 64, 64) * 2 - 1
    decisive_loss(depth, model(photos)).backward()
    for part in (model.vae.encoder, model.vae.decoder, model.unet):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_norms_compute_in_float32_where_the_rest_is_bfloat16() -> None:
    model = DepthModel(new_light_vae(width=8), nano_unet())
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for module in model.unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].dtype, out.dtype)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert seen and set(seen) == {(torch.float32, torch.bfloat16)}

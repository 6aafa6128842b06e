"""Promises of widening: the wider network computes the same at every t, has more to learn with, and can."""

from __future__ import annotations

import pytest
import torch

from training.nano.networks import nano_prompt, nano_unet, widen_into


@pytest.mark.parametrize("width", [2, 3])
def test_the_wider_unet_computes_the_same(width: int) -> None:
    torch.manual_seed(0)
    unet, wider = nano_unet().eval(), nano_unet(width=width).eval()
    widen_into(unet, wider)
    latent, prompt = torch.randn(2, 4, 16, 24), nano_prompt().expand(2, -1, -1)
    for t in (0, -1, 500):
        with torch.no_grad():
            expected, found = unet(latent, t, prompt).sample, wider(latent, t, prompt).sample
        assert expected.abs().max() > 0.5
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    more = sum(p.numel() for p in wider.parameters()) / sum(p.numel() for p in unet.parameters())
    assert more == pytest.approx(width**2, rel=0.05)


def test_copies_of_a_channel_learn_different_things() -> None:
    torch.manual_seed(0)
    unet, wider = nano_unet(), nano_unet(width=2)
    widen_into(unet, wider)
    loss = wider(torch.randn(1, 4, 16, 16), 0, nano_prompt()).sample.square().mean()
    loss.backward()
    weight = wider.down_blocks[1].resnets[0].conv1.weight
    assert weight.grad is not None
    one, other = weight.grad[0::2], weight.grad[1::2]
    assert torch.equal(weight[0::2].detach(), weight[1::2].detach())
    assert (one - other).norm() > 0.05 * one.norm()


def test_another_architecture_is_refused() -> None:
    wider = nano_unet(width=2)
    with pytest.raises(ValueError, match="conv_in"):
        widen_into(wider, nano_unet())

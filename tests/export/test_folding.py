"""Every fold computes what the unfolded stage computes, and makes the graph smaller."""

from __future__ import annotations

import pytest
import torch

from export import folding
from export.stages import DecoderStage, EncoderStage, UnetStage
from tests.support.tiny_models import tiny_unet, tiny_vae

FP64 = 1e-11
FP32 = 2e-5


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["fp64", "fp32"])
def dtype(request):
    return request.param


@pytest.fixture
def tolerance(dtype):
    return FP64 if dtype == torch.float64 else FP32


def twins(make, stage_name, fold_name, value, output=lambda y: y):
    """The output without and with one fold, both float32/64 as the stage gives them."""
    plain, folded = make(), make()
    everything_else = frozenset(folding.FOLD_NAMES) - {fold_name}
    folding.fold(stage_name, folded, leave_out=everything_else)
    with torch.no_grad():
        return output(plain.body(value)), output(folded.body(value))


def unet_stage(dtype, *, tokens=2, **kwargs):
    config = {}
    if "class_labels" in kwargs:
        config = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
    if kwargs.get("zero_channels"):
        config["in_channels"] = 8
    prompt = torch.randn(1, tokens, 12, generator=torch.Generator().manual_seed(4))
    unet = tiny_unet(3, **config).to(dtype)
    return UnetStage(unet, prompt=prompt, timestep=kwargs.pop("timestep", 0), **kwargs).eval()


def latent(dtype, channels=4):
    return torch.randn(2, channels, 8, 16, dtype=dtype, generator=torch.Generator().manual_seed(7))


def assert_close(a, b, tolerance):
    assert a.std() > 0.03, "twins that say nothing agree for nothing"
    assert (a - b).abs().max() <= tolerance


def test_the_posterior_mean_and_the_scaling_factor_fold_into_the_encoders_last_convolution(dtype, tolerance):
    pixels = torch.rand(2, 3, 64, 128, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, folded = twins(lambda: EncoderStage(tiny_vae(1).to(dtype)), "encoder", "posterior", pixels)
    assert (plain - folded).abs().max() <= tolerance
    assert plain.std() > 0.01


def test_an_encoder_without_quant_conv_folds_too(dtype, tolerance):
    pixels = torch.rand(1, 3, 64, 64, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1
    make = lambda: EncoderStage(tiny_vae(1, use_quant_conv=False).to(dtype))  # noqa: E731
    plain, folded = twins(make, "encoder", "posterior", pixels)
    assert (plain - folded).abs().max() <= tolerance


@pytest.mark.parametrize("timestep", [0, 1, 999])
def test_the_time_embedding_folds_into_the_convolutions_biases(dtype, tolerance, timestep):
    assert_close(
        *twins(lambda: unet_stage(dtype, timestep=timestep), "unet", "time", latent(dtype)), tolerance
    )


def test_the_class_embedding_folds_with_the_time_embedding(dtype, tolerance):
    labels = torch.tensor([[0.8415, 0.0, 0.5403, 1.0]])
    make = lambda: unet_stage(dtype, timestep=999, class_labels=labels)  # noqa: E731
    plain, folded = twins(make, "unet", "time", latent(dtype))
    assert_close(plain, folded, tolerance)
    without = unet_stage(dtype, timestep=999)
    with torch.no_grad():
        assert (without.body(latent(dtype)) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("tokens", [1, 2, 3, 77])
def test_cross_attention_to_a_constant_prompt_folds_for_every_prompt_length(dtype, tolerance, tokens):
    assert_close(*twins(lambda: unet_stage(dtype, tokens=tokens), "unet", "prompt", latent(dtype)), tolerance)


def test_two_tokens_become_one_sigmoid_per_head():
    stage = unet_stage(torch.float32)
    folding.fold("unet", stage)
    gates = [m.gate.out_features for m in stage.modules() if isinstance(m, folding.TwoTokenAttention)]
    assert gates == [2, 4, 2, 2]  # down, mid, up, up: one logit per head
    assert not any("attn2.to_k" in name for name, _ in stage.named_parameters())


def test_zero_channels_beside_the_latent_fold_away(dtype, tolerance):
    make = lambda: unet_stage(dtype, timestep=999, zero_channels=4)  # noqa: E731
    assert_close(*twins(make, "unet", "zero-input", latent(dtype)), tolerance)


def test_the_recipes_output_scale_folds_into_conv_out(dtype, tolerance):
    make = lambda: unet_stage(dtype, output_scale=-0.99767)  # noqa: E731
    assert_close(*twins(make, "unet", "output", latent(dtype)), tolerance)


@pytest.mark.parametrize("fold_name", ["latent", "mean"])
def test_the_scaling_factor_and_the_channel_mean_fold_into_the_decoder(dtype, tolerance, fold_name):
    make = lambda: DecoderStage(tiny_vae(1).to(dtype))  # noqa: E731
    assert_close(*twins(make, "decoder", fold_name, latent(dtype)), tolerance)


def test_a_decoder_without_post_quant_conv_keeps_its_division(dtype, tolerance):
    make = lambda: DecoderStage(tiny_vae(1, use_post_quant_conv=False).to(dtype))  # noqa: E731
    assert_close(*twins(make, "decoder", "latent", latent(dtype)), tolerance)


def test_all_folds_together_are_exact_and_save_parameters():
    make = lambda: unet_stage(torch.float64, output_scale=-1.0)  # noqa: E731
    plain, folded = make(), make()
    folding.fold("unet", folded)
    with torch.no_grad():
        assert_close(plain.body(latent(torch.float64)), folded.body(latent(torch.float64)), FP64)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(folded) < count(plain)
    assert folded.time is None and folded.prompt is None and folded.output_scale == 1.0


def test_building_a_stage_leaves_the_checkpoint_as_it_was():
    unet = tiny_unet()
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    stage = UnetStage(unet, timestep=0, prompt=torch.randn(1, 2, 12))
    folding.fold("unet", stage)
    after = unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)

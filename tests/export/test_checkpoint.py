"""Every layout that people hold is recognised and read to the same model; whatever is wrong is said."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.model import OPTIONS, Given, read_checkpoint
from export.recipe import RECIPES
from tests.support.tiny_models import sized_like_sd2, tiny_checkpoint
from training.weights import layouts
from training.weights.errors import CheckpointError
from training.weights.ours import save_checkpoint
from training.weights.random import LAYOUTS, random_unet, random_vae, write_layout
from training.weights.reading import read_weights

FIFFDEPTH = RECIPES["fiffdepth"]
PLAIN = Given(recipe="fiffdepth")
SAID = {
    "own": "FiffDepth, single file of training/, UNet 4→4 channels, ",
    "folder": "FiffDepth, diffusers folder, UNet 4→4 channels, ",
    "sharded": "FiffDepth, diffusers folder, UNet 4→4 channels, ",
    "unet": "FiffDepth, diffusers UNet folder, UNet 4→4 channels, ",
    "ldm": "FiffDepth, single-file LDM layout, UNet 4→4 channels, ",
    "prefixed": "FiffDepth, diffusers state dict, UNet 4→4 channels, ",
}


@pytest.fixture(scope="module")
def made():
    """With attention on every way through the network, so that every kind of key occurs."""
    return tiny_checkpoint(
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), mid_block_type="UNetMidBlock2DCrossAttn"
    )


def written(folder, layout, made, *, recipe=FIFFDEPTH, **kwargs):
    """The checkpoint in a layout, and what has to be given beside it."""
    suffix = "" if layout in ("folder", "sharded", "unet") else ".safetensors"
    path = folder / f"{layout}{suffix}"
    write_layout(path, layout, made, scheduler=recipe.scheduler, **kwargs)
    if layout == "own":
        return path, Given()
    given = {"recipe": recipe.name, "prompt_embedding": folder / f"{path.name}.prompt.safetensors"}
    if layout == "unet":
        given["vae"] = folder / "unet-vae"
    if layout in ("ldm", "prefixed"):  # too narrow for Stable Diffusion's heads and groups
        for part in ("unet", "vae"):
            given[f"{part}_config"] = folder / f"{part}.json"
            config = {k: v for k, v in getattr(made, part).config.items() if not k.startswith("_")}
            given[f"{part}_config"].write_text(json.dumps(config))
    return path, Given(**given)


def assert_same_weights(module, expected, tolerance=0.0):
    ours, theirs = module.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all((ours[k] - theirs[k]).abs().max() <= tolerance for k in ours)
    assert all(v.dtype == torch.float32 for v in ours.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_to_the_same_model_and_said_back(tmp_path, made, layout):
    path, given = written(tmp_path, layout, made)
    model = read_checkpoint(path, given)
    assert_same_weights(model.unet, made.unet)
    assert_same_weights(model.vae, made.vae)
    assert torch.equal(model.prompt_embedding, made.prompt_embedding)
    assert model.description.startswith(SAID[layout])
    assert "VAE KL-f8" in model.description and model.recipe is FIFFDEPTH


@pytest.mark.parametrize("layout", ["folder", "sharded"])
def test_fp16_variant_files_are_read(tmp_path, made, layout):
    path, given = written(tmp_path, layout, made, dtype=torch.float16)
    assert list(path.rglob("*.fp16*"))
    assert_same_weights(read_checkpoint(path, given).unet, made.unet, tolerance=2e-3)


@pytest.mark.parametrize("layout", ["folder", "sharded"])
def test_the_export_reads_the_fp16_variant_where_both_are_and_training_full_precision(tmp_path, made, layout):
    written(tmp_path, layout, made, dtype=torch.float16)
    path, given = written(tmp_path, layout, made)
    half = read_checkpoint(path, given).unet
    assert_same_weights(half, made.unet, tolerance=2e-3)
    assert all(torch.equal(v, v.half().float()) for v in half.state_dict().values())
    assert_same_weights(read_weights(path, given, ways=OPTIONS).unet, made.unet)


def test_a_unet_without_prefix_and_a_vae_of_old_key_names_are_read(tmp_path, made):
    path, given = written(tmp_path, "prefixed", made)
    tensors = load_file(path)
    bare = {k.removeprefix("module.unet."): v for k, v in tensors.items() if k.startswith("module.unet.")}
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = {}
    for key, value in made.vae.state_dict().items():
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        vae[key] = value
    save_file(bare, tmp_path / "bare.safetensors")
    save_file(vae, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a UNet and no VAE.*--vae"):
        read_checkpoint(tmp_path / "bare.safetensors", given)
    given = Given(
        vae=tmp_path / "vae.safetensors",
        vae_config=given.vae_config,
        unet_config=given.unet_config,
        prompt_embedding=given.prompt_embedding,
        recipe="fiffdepth",
    )
    model = read_checkpoint(tmp_path / "bare.safetensors", given)
    assert_same_weights(model.unet, made.unet)
    assert_same_weights(model.vae, made.vae)


def test_a_text_encoder_and_a_noise_schedule_in_an_ldm_file_are_no_matter(tmp_path, made):
    path, given = written(tmp_path, "ldm", made)
    extra = {
        k: torch.zeros(3)
        for k in ("betas", "sqrt_recipm1_alphas_cumprod", "cond_stage_model.model.ln.weight")
    }
    save_file(load_file(path) | extra, path)
    assert_same_weights(read_checkpoint(path, given).unet, made.unet)


def sd2_unet(recipe):
    return random_unet(
        class_labels=len(recipe.class_labels or ()), in_channels=8 if recipe.zero_latent else 4
    )


@pytest.mark.parametrize("recipe", ["fiffdepth", "marigold-e2e", "lotus-d"])
def test_the_configuration_of_stable_diffusion_2_is_read_off_the_shapes(recipe):
    with torch.device("meta"):
        unet, vae = sd2_unet(RECIPES[recipe]), random_vae()
    found = layouts.unet_config(unet.state_dict(), "x", way="")
    with torch.device("meta"):
        again = type(unet).from_config(found)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in unet.state_dict().items()
    }
    for key in ("attention_head_dim", "cross_attention_dim", "use_linear_projection", "norm_num_groups"):
        assert found[key] == unet.config[key]
    assert found["attention_head_dim"] == [5, 10, 20, 20]
    shape = layouts.vae_config(vae.state_dict(), "x", way="")
    assert [*vae.config.block_out_channels] == shape["block_out_channels"] == [128, 256, 512, 512]
    assert (shape["layers_per_block"], shape["latent_channels"], shape["scaling_factor"]) == (2, 4, 0.18215)


def test_the_random_checkpoint_has_the_size_of_stable_diffusion_2_1():
    with torch.device("meta"):
        unet, vae = random_unet(), random_vae()
    count = lambda m: round(sum(p.numel() for p in m.parameters()) / 1e6, 1)  # noqa: E731
    assert (count(unet), count(vae)) == (865.9, 83.7)


def test_heads_that_shapes_do_not_tell_are_asked_for(tmp_path, made):
    path, given = written(tmp_path, "ldm", made)
    with pytest.raises(CheckpointError, match="--unet-config"):
        read_checkpoint(path, Given(prompt_embedding=given.prompt_embedding))


def edited(tmp_path, made, edit):
    """Our own checkpoint with its tensors edited in place, metadata kept."""
    from safetensors import safe_open

    path = tmp_path / "edited.safetensors"
    save_checkpoint(path, made)
    with safe_open(path, framework="pt") as f:
        metadata = f.metadata()
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata=metadata)
    return path


def test_missing_surplus_and_misshapen_tensors_are_listed(tmp_path, made):
    def edit(tensors):
        del tensors["unet.conv_in.bias"]
        tensors["unet.extra.weight"] = torch.zeros(1)
        tensors["unet.conv_out.bias"] = torch.zeros(7)

    with pytest.raises(CheckpointError) as error:
        read_checkpoint(edited(tmp_path, made, edit))
    assert "1 missing: conv_in.bias" in str(error.value)
    assert "1 surplus: extra.weight" in str(error.value)
    assert "1 misshapen: conv_out.bias (7,) for (4,)" in str(error.value)


def test_nan_weights_are_named(tmp_path, made):
    def edit(tensors):
        tensors["vae.decoder.conv_out.weight"][0, 0, 0, 0] = torch.nan

    with pytest.raises(
        CheckpointError, match=r"VAE.*1 tensors hold NaN or infinity: decoder.conv_out.weight"
    ):
        read_checkpoint(edited(tmp_path, made, edit))


def test_tensors_of_the_wrong_dtype_are_named(tmp_path, made):
    def edit(tensors):
        tensors["unet.conv_in.weight"] = tensors["unet.conv_in.weight"].to(torch.int8)

    with pytest.raises(CheckpointError, match=r"conv_in.weight \(torch.int8\)"):
        read_checkpoint(edited(tmp_path, made, edit))


@pytest.mark.parametrize("keep", [0, 4, 1000, -8])
def test_a_truncated_file_is_said(tmp_path, made, keep):
    path = tmp_path / "cut.safetensors"
    save_checkpoint(path, made)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cut off"):
        read_checkpoint(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "nowhere.safetensors")


def test_a_file_of_something_else_says_what_it_holds(tmp_path):
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "llm.safetensors")
    with pytest.raises(CheckpointError, match=r"no network that is known.*lm_head.weight"):
        read_checkpoint(tmp_path / "llm.safetensors")


@pytest.mark.parametrize("layout", ["folder", "prefixed"])
def test_a_prompt_embedding_beside_the_checkpoint_is_found_by_its_name(tmp_path, made, layout):
    path, given = written(tmp_path, layout, made)
    beside = tmp_path / f"{path.name}.prompt.safetensors"
    model = read_checkpoint(path, dataclasses.replace(given, prompt_embedding=None))
    assert torch.equal(model.prompt_embedding, made.prompt_embedding)
    assert model.sha256 == read_checkpoint(path, given).sha256
    save_file({"e": made.prompt_embedding * 2}, tmp_path / "other.safetensors")
    model = read_checkpoint(path, dataclasses.replace(given, prompt_embedding=tmp_path / "other.safetensors"))
    assert torch.equal(model.prompt_embedding, made.prompt_embedding * 2)
    assert beside.is_file()


def test_a_checkpoints_own_prompt_embedding_wins_over_the_file_beside_it(tmp_path, made):
    save_checkpoint(tmp_path / "own.safetensors", made)
    save_file({"e": made.prompt_embedding * 2}, tmp_path / "own.safetensors.prompt.safetensors")
    model = read_checkpoint(tmp_path / "own.safetensors")
    assert torch.equal(model.prompt_embedding, made.prompt_embedding)


def test_the_prompt_embedding_is_never_guessed(tmp_path, made):
    path, _ = written(tmp_path, "folder", made)
    (tmp_path / "folder.prompt.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"--prompt-embedding FILE.*\[1, 2, 12\].*do_not_pad") as error:
        read_checkpoint(path, PLAIN)
    assert "as folder.prompt.safetensors beside the checkpoint" in str(error.value)


def test_a_prompt_embedding_of_another_width_is_refused(tmp_path, made):
    path, _ = written(tmp_path, "folder", made)
    save_file({"e": torch.zeros(1, 2, 13)}, tmp_path / "e.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \[1, 2, 13\].*\[1, tokens, 12\]"):
        read_checkpoint(path, Given(recipe="fiffdepth", prompt_embedding=tmp_path / "e.safetensors"))


def test_the_empty_prompt_is_computed_from_the_text_encoder_without_padding(tmp_path, made):
    transformers = pytest.importorskip("transformers")
    path, _ = written(tmp_path, "folder", made)
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=3, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    encoder = transformers.CLIPTextModel(config).eval()
    encoder.save_pretrained(path / "text_encoder")
    (path / "tokenizer").mkdir()
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2}
    (path / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "folder.prompt.safetensors").unlink()
    found = read_checkpoint(path, PLAIN).prompt_embedding
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1]]))[0]
    assert found.shape == (1, 2, 12)
    assert (found - expected).abs().max() <= 1e-6


def test_an_eight_channel_unet_is_not_taken_for_fiffdepth(tmp_path):
    made = tiny_checkpoint(in_channels=8)
    path, given = written(tmp_path, "folder", made)
    given = Given(prompt_embedding=given.prompt_embedding)
    with pytest.raises(CheckpointError, match=r"takes 8 channels.*--recipe"):
        read_checkpoint(path, given)


def test_licence_and_data_sources_are_taken_from_the_model_card(tmp_path, made):
    path, given = written(tmp_path, "folder", made)
    assert read_checkpoint(path, given).licence == "not stated by the checkpoint"
    (path / "README.md").write_text(
        "---\nlicense: openrail++\ndatasets:\n- hypersim\n- vkitti2\ntags:\n- depth\n---\n# A model\n"
    )
    (path / "LICENSE.md").write_text("CreativeML Open RAIL++-M")
    model = read_checkpoint(path, given)
    assert (model.licence, model.data_sources) == ("openrail++", ("hypersim", "vkitti2"))
    assert model.licence_file == path / "LICENSE.md"


def test_the_checkpoints_scheduler_is_read(tmp_path, made):
    path = tmp_path / "folder"
    write_layout(path, "folder", made, scheduler=RECIPES["genpercept"].scheduler)
    given = Given(prompt_embedding=tmp_path / "folder.prompt.safetensors", recipe="genpercept")
    assert read_checkpoint(path, given).scheduler_config["beta_start"] == 1.0


@pytest.mark.parametrize("layout", ["ldm", "prefixed"])
def test_a_plain_fiffdepth_file_needs_its_recipe_alone(tmp_path, layout):
    made = sized_like_sd2()
    write_layout(tmp_path / "ckpt.safetensors", layout, made)
    model = read_checkpoint(tmp_path / "ckpt.safetensors", PLAIN)
    assert (model.recipe, model.name, model.output_space) == (FIFFDEPTH, "fiffdepth", "depth")
    assert_same_weights(model.unet, made.unet)
    assert_same_weights(model.vae, made.vae)
    latent = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        ours, theirs = (
            unet(latent, 0, encoder_hidden_states=prompt).sample
            for unet, prompt in ((model.unet, model.prompt_embedding), (made.unet, made.prompt_embedding))
        )
    assert torch.equal(ours, theirs)  # the configuration too: heads, groups, activations


@pytest.mark.parametrize("name", layouts.PROMPT_KEYS)
def test_a_prompt_embedding_inside_a_plain_file_is_taken(tmp_path, name):
    made, path = sized_like_sd2(), tmp_path / "ckpt.safetensors"
    write_layout(path, "ldm", made)
    (tmp_path / "ckpt.safetensors.prompt.safetensors").unlink()
    save_file(load_file(path) | {name: made.prompt_embedding}, path)
    assert torch.equal(read_checkpoint(path, PLAIN).prompt_embedding, made.prompt_embedding)

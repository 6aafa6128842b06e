"""Each sibling's own computation (tests/support/public_models/) against our stages with every fold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from export import parity, recipe
from export.errors import RecipeError, UnsupportedModelError
from export.graph_set import build_stage
from export.model import Given, read_checkpoint
from export.recipe import RECIPES, output_scale
from export.stages import STAGES, UnetStage
from tests.support.public_models.siblings import SIBLINGS
from tests.support.tiny_models import tiny_checkpoint
from training.weights.ours import save_checkpoint
from training.weights.random import write_layout

CONFIG = {
    "lotus-d": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4},
    "marigold-e2e": {"in_channels": 8},
}


def test_a_checkpoint_of_ours_says_what_it_is_and_is_not_asked(tmp_path, caplog):
    save_checkpoint(tmp_path / "ours.safetensors", tiny_checkpoint(7, recipe="genpercept-disparity"))
    with caplog.at_level("INFO", logger="fiffdepth_export"):
        assert read_checkpoint(tmp_path / "ours.safetensors").recipe.name == "genpercept-disparity"
    assert not caplog.messages


def made_for(name):
    return tiny_checkpoint(7, **CONFIG.get(name.removesuffix("-disparity"), {}))


@pytest.fixture(params=list(RECIPES))
def name(request):
    return request.param


@pytest.fixture
def image():
    return np.random.default_rng(2).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)


def read(tmp_path, name):
    made = made_for(name)
    write_layout(tmp_path / "folder", "folder", made, scheduler=RECIPES[name].scheduler)
    prompt = tmp_path / "folder.prompt.safetensors"
    return read_checkpoint(tmp_path / "folder", Given(recipe=name, prompt_embedding=prompt))


def test_the_folded_stages_compute_what_the_sibling_computes(tmp_path, name, image):
    model = read(tmp_path, name)
    value = torch.from_numpy(image)
    with torch.no_grad():
        for stage in STAGES:
            value = build_stage(stage, model)(value)
        expected = SIBLINGS[name](made_for(name), image)
    assert (value[1] - expected).abs().max() <= 1e-4
    assert torch.equal(value[0], (value[1].clip(-1, 1) + 1) / 2)
    assert expected.std() > 0.01


def test_the_reference_is_the_siblings_computation(tmp_path, name, image):
    found = parity.reference(read(tmp_path, name), {"noise": image[0]})["noise"]["decoder"].output
    with torch.no_grad():
        expected = SIBLINGS[name](made_for(name), image[:1]).numpy()
    assert np.abs(found - expected).max() <= 1e-5


def test_every_recipe_has_a_sibling_to_be_held_against():
    assert SIBLINGS.keys() == RECIPES.keys()


def test_the_output_space_is_the_recipes(tmp_path, name):
    assert read(tmp_path, name).output_space == ("disparity" if name.endswith("disparity") else "depth")


def test_the_scalars_are_those_of_the_published_schedules():
    scales = {name: output_scale(row) for name, row in RECIPES.items()}
    assert scales["fiffdepth"] == scales["lotus-d"] == 1.0
    assert scales["genpercept"] == -1.0
    alphas = np.cumprod(1 - np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2)
    assert scales["marigold-e2e"] == pytest.approx(-math.sqrt(1 - alphas[999]), abs=1e-6)
    assert scales["marigold-e2e"] == pytest.approx(-0.99767, abs=1e-5)


def test_the_scalar_follows_the_checkpoints_scheduler():
    config = {**recipe.SD2_SCHEDULER, "rescale_betas_zero_snr": True}
    assert output_scale(RECIPES["marigold-e2e"], config) == pytest.approx(-1.0, abs=1e-6)


def test_a_scheduler_that_clips_is_refused():
    with pytest.raises(RecipeError, match="clip_sample"):
        output_scale(RECIPES["marigold-e2e"], {**recipe.SD2_SCHEDULER, "clip_sample": True})


def test_a_scheduler_that_keeps_the_photo_in_the_depth_is_refused():
    with pytest.raises(RecipeError, match="would stay in the depth latent"):
        output_scale(RECIPES["genpercept"], recipe.SD2_SCHEDULER)


@pytest.mark.parametrize(
    ("recipe_name", "made_as"),
    [("fiffdepth", "lotus-d"), ("lotus-d", "fiffdepth"), ("fiffdepth", "marigold-e2e")],
)
def test_a_network_that_is_not_the_recipes_is_refused(recipe_name, made_as):
    row, made = RECIPES[recipe_name], made_for(made_as)
    with pytest.raises(UnsupportedModelError, match=r"class_embed_type|in_channels"):
        UnetStage(
            made.unet,
            timestep=row.timestep,
            prompt=made.prompt_embedding,
            class_labels=row.class_labels_tensor(),
            zero_channels=4 if row.zero_latent else 0,
        )


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(RecipeError, match="fiffdepth, genpercept"):
        recipe.recipe_named("marigold")

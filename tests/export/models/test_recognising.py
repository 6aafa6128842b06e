"""What a checkpoint is, by its name and its small files: found, asked for, or refused with a reason."""

from __future__ import annotations

import json
import logging

import pytest

from export.errors import RecipeError
from export.model import Given, read_checkpoint
from export.models.known_models import KNOWN_MODELS
from export.models.recognising import STRANGERS, Evidence, find_recipe, folder_evidence
from export.recipe import GENPERCEPT, GENPERCEPT_SCHEDULER, RECIPES, SD2_SCHEDULER
from tests.support.public_models.published import E2E_SCHEDULER, LOTUS_LABELS, PUBLISHED
from tests.support.tiny_models import sized_like_sd2, tiny_checkpoint
from training.weights.errors import CheckpointError
from training.weights.random import write_layout

SD2 = {"in_channels": 4, "cross_attention_dim": 1024}
MARIGOLD = {**SD2, "in_channels": 8}
LOTUS = {**SD2, **LOTUS_LABELS}


def evidence(name="somebody/model", unet=SD2, **more):
    return Evidence(name=name, unet=unet, **more)


FOUND = [
    (evidence("me/lotus-depth-d-disparity-tuned", LOTUS), "lotus-d-disparity"),
    (evidence("me/marigold-e2e-tuned", MARIGOLD), "marigold-e2e"),
    (evidence("me/tuned", MARIGOLD, tags=("depth", "single-step")), "marigold-e2e"),
    (evidence("me/tuned", SD2, unet_folder="unet_depth_v2"), "genpercept"),
    (evidence("me/tuned", SD2, unet_folder="unet_disparity_v2"), "genpercept-disparity"),
    (evidence("me/disparity", SD2, scheduler=GENPERCEPT_SCHEDULER), "genpercept-disparity"),
    (evidence("genpercept-depth-tuned", SD2), "genpercept"),
    (evidence("fiffdepth-v1.safetensors", SD2), "fiffdepth"),
    (evidence("fiffdepth", SD2, scheduler=SD2_SCHEDULER), "fiffdepth"),
]


@pytest.mark.parametrize(("found", "recipe"), FOUND, ids=[f"{e.name}-{r}" for e, r in FOUND])
def test_names_cards_folders_and_schedulers_lead_to_the_recipe(found, recipe, caplog):
    with caplog.at_level(logging.INFO, "fiffdepth_export"):
        assert find_recipe(found).name == recipe
    assert caplog.messages == [f"taken for {RECIPES[recipe].title}, by its name and its files"]


@pytest.mark.parametrize("row", KNOWN_MODELS.values(), ids=list(KNOWN_MODELS))
def test_a_known_repository_and_a_folder_that_is_called_as_it_is_are_found(row):
    unet, folder = {**SD2, **PUBLISHED[row.repository].unet}, row.repository.split("/")[1]
    called = [row.repository] if folder == "lotus" else [row.repository, folder, folder.upper()]
    assert {find_recipe(evidence(name, unet)).name for name in called} == {row.recipe}


LOTUS_PAIR = r"--recipe lotus-d or --recipe lotus-d-disparity\.$"
GENPERCEPT_PAIR = r"--recipe genpercept or --recipe genpercept-disparity\.$"
SD_2 = evidence("me/sd2", scheduler=SD2_SCHEDULER, pipeline="StableDiffusionPipeline")
ASKED = [
    (evidence("me/lotus-tuned", LOTUS), rf"Lotus-D, and nothing says.*{LOTUS_PAIR}"),
    (evidence("me/depth", LOTUS), LOTUS_PAIR),
    (
        SD_2,
        rf"of Stable Diffusion as it was.*gives none\. Say it with --recipe fiffdepth or {GENPERCEPT_PAIR}",
    ),
    (evidence("me/x", scheduler=GENPERCEPT_SCHEDULER), GENPERCEPT_PAIR),
    (
        evidence("me/x", MARIGOLD, scheduler=E2E_SCHEDULER),
        r"takes 8 channels and gives 4, and.*--recipe marigold-e2e\.$",
    ),
    (evidence("me/x", {**SD2, "in_channels": 7}), r"takes 7 channels and gives 4, .*No recipe here takes"),
    *(
        (
            evidence("me/x", {**SD2, "in_channels": takes, "out_channels": gives}),
            rf"takes {takes} channels and gives {gives}, .*No recipe here takes such a network",
        )
        for takes, gives in ((12, 8), (16, 12), (4, 8))
    ),
]


@pytest.mark.parametrize(
    ("found", "question"), ASKED, ids=[e.name + str(i) for i, (e, _) in enumerate(ASKED)]
)
def test_what_words_alone_could_tell_is_asked_for_with_the_choices(found, question):
    with pytest.raises(CheckpointError, match=question):
        find_recipe(found)


SDXL = {"cross_attention_dim": 2048, "addition_embed_type": "text_time"}
LOTUS_G = {**LOTUS, "in_channels": 8}
SD_1 = {**SD2, "cross_attention_dim": 768}
LCM = {"_class_name": "LCMScheduler"}
REFUSED = [
    (evidence("stabilityai/sdxl", SDXL), "Diffusion XL"),
    (evidence("me/x-inpainting", {**SD2, "in_channels": 9}), "an inpainting model: its 9 channels"),
    (evidence("stabilityai/sd-2-depth", {**SD2, "in_channels": 5}), "a depth-to-image model"),
    (evidence("me/lcm-sd", {**SD2, "time_cond_proj_dim": 256}), r"consistency model \(LCM\) that is told"),
    (evidence("jingheya/lotus-depth-g-v1-0", LOTUS_G, pipeline="LotusGPipeline"), "Lotus-G, the"),
]


def marigold(name, steps, pipeline="MarigoldDepthPipeline", **more):
    return evidence(f"prs-eth/{name}", MARIGOLD, pipeline=pipeline, denoising_steps=steps, **more)


DOUBTED = [
    (
        evidence("me/lotus", LOTUS, pipeline="DirectDiffusionY0Pipeline"),
        "lotus-d",
        "Lotus-G by its model_index",
    ),
    (marigold("marigold-depth-v1-1", 4), "marigold-e2e", "Marigold, which removes noise in several steps"),
    (marigold("marigold-depth-v1-0", None, "MarigoldPipeline"), "marigold-e2e", "several steps"),
    (marigold("marigold-depth-lcm-v1-0", 1, scheduler=LCM), "marigold-e2e", r"model \(LCM\): it begins"),
    (evidence("runwayml/stable-diffusion-v1-5", SD_1), "fiffdepth", "Stable Diffusion 1 "),
    (evidence("jingheya/lotus-normal-d-v1-0", LOTUS), "lotus-d", "by its name a model of normals"),
    (evidence("guangkaixu/genpercept-disparity-dpt-head"), "genpercept-disparity", "with a DPT head"),
]


@pytest.mark.parametrize(("found", "said"), REFUSED, ids=[e.name for e, _ in REFUSED])
@pytest.mark.parametrize("recipe", [None, "fiffdepth", "lotus-d"])
def test_shapes_of_another_kind_are_refused_whatever_is_said(found, said, recipe):
    with pytest.raises(RecipeError, match=rf"^{found.name} is .*{said}"):
        find_recipe(found, said=recipe)


@pytest.mark.parametrize(("found", "recipe", "said"), DOUBTED, ids=[e.name for e, *_ in DOUBTED])
def test_words_of_another_kind_are_refused_and_overruled_aloud_by_the_users_word(found, recipe, said, caplog):
    with pytest.raises(RecipeError, match=rf"^{found.name} is .*{said}"):
        find_recipe(found)
    with caplog.at_level(logging.WARNING, "fiffdepth_export"):
        assert find_recipe(found, said=recipe).name == recipe
    (message,) = caplog.messages
    assert message.startswith(f"asked by {recipe} as you say; its files say it is ")


def test_every_kind_that_is_refused_has_its_example_here():
    examples = [e for e, *_ in (*REFUSED, *DOUBTED)]
    first = [next(i for i, kind in enumerate(STRANGERS) if kind.fits(e)) for e in examples]
    assert sorted(set(first)) == list(range(len(STRANGERS)))


def test_every_refusal_says_why_one_step_is_not_depth():
    assert all("one step" in kind.what or "first step" in kind.what for kind in STRANGERS)


@pytest.mark.parametrize(
    ("unet", "said", "fits"),
    [
        (LOTUS, "fiffdepth", "--recipe lotus-d"),
        (SD2, "marigold-e2e", "--recipe fiffdepth"),
        (MARIGOLD, "lotus-d", "e2e"),
    ],
)
def test_a_recipe_that_the_shapes_contradict_is_refused_with_those_that_fit(unet, said, fits):
    with pytest.raises(
        RecipeError, match=rf"takes \d channels.*, and {said} asks another kind\. Say it .*{fits}"
    ):
        find_recipe(evidence(unet=unet), said=said)


def test_a_folder_is_refused_before_its_weights_are_read(tmp_path):
    """There are none to read."""
    folder = tmp_path / "sdxl"
    (folder / "unet").mkdir(parents=True)
    config = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 2048}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="sdxl is Stable Diffusion XL"):
        read_checkpoint(folder)


def test_the_evidence_is_read_off_the_small_files(tmp_path):
    folder = tmp_path / "model"
    write_layout(folder, "folder", tiny_checkpoint(7, in_channels=8), scheduler=SD2_SCHEDULER)
    (folder / "model_index.json").write_text(
        '{"_class_name": "MarigoldDepthPipeline", "default_denoising_steps": 4}'
    )
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: my-licence\ntags: [depth, single-step]\n---\n"
    )
    found = folder_evidence(folder, "me/model")
    assert (found.pipeline, found.denoising_steps, found.unet_folder) == ("MarigoldDepthPipeline", 4, "unet")
    assert (found.tags, found.channels, found.scheduler["beta_end"]) == (
        ("depth", "single-step"),
        (8, 4),
        0.012,
    )
    given = Given(prompt_embedding=tmp_path / "model.prompt.safetensors")
    model = read_checkpoint(folder, given)  # the card's word against the file's
    assert (model.recipe.name, model.licence) == ("marigold-e2e", "my-licence")


def test_a_single_file_is_recognised_by_its_shapes_and_its_name(tmp_path):
    made = sized_like_sd2(**LOTUS_LABELS)
    write_layout(tmp_path / "lotus-disparity.safetensors", "prefixed", made)
    assert read_checkpoint(tmp_path / "lotus-disparity.safetensors").recipe.name == "lotus-d-disparity"
    for ending in ("", ".prompt.safetensors"):
        (tmp_path / f"lotus-disparity.safetensors{ending}").rename(tmp_path / f"x.safetensors{ending}")
    with pytest.raises(CheckpointError, match=r"--recipe lotus-d or --recipe lotus-d-disparity"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_genpercepts_pair_is_the_one_of_the_table():
    assert all(RECIPES[name].scheduler is GENPERCEPT_SCHEDULER for name in GENPERCEPT)

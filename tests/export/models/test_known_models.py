"""The table of public models, and `python -m export.models`, which prints it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from export.models.__main__ import main
from export.models.known_models import KNOWN_MODELS, known_model
from export.models.licences import warning_of
from export.recipe import RECIPES
from tests.support.public_models.published import PUBLISHED
from training.weights.folder import UNSTATED


def test_the_models_that_the_table_has_at_least():
    assert {
        "jingheya/lotus-depth-d-v1-0",
        "jingheya/lotus-depth-d-v1-1",
        "jingheya/lotus-depth-d-v2-0-disparity",
        "GonzaloMartinGarcia/marigold-e2e-ft-depth",
        "GonzaloMartinGarcia/stable-diffusion-e2e-ft-depth",
        "guangkaixu/genpercept-depth",
        "guangkaixu/genpercept-disparity",
        "Comfy-Org/lotus",
    } <= {row.repository for row in KNOWN_MODELS.values()}


@pytest.mark.parametrize("row", KNOWN_MODELS.values(), ids=list(KNOWN_MODELS))
def test_every_row_has_a_recipe_a_source_for_what_it_says_and_a_layout_in_the_tests(row):
    assert row.recipe in RECIPES and row.output_space == RECIPES[row.recipe].output_space
    assert all((row.licence_at, row.size_at, row.good_at_source, row.layout_at, row.paper))
    assert row.repository in PUBLISHED and PUBLISHED[row.repository].source
    assert row.size % 64 == 0 and 0.5 < row.gigabytes < 10


@pytest.mark.parametrize("row", KNOWN_MODELS.values(), ids=list(KNOWN_MODELS))
def test_a_row_is_found_by_its_short_name_its_repository_and_its_former_one(row):
    for name in (row.name, row.repository, row.repository.upper(), row.formerly):
        assert name is None or known_model(name) is row


def test_a_folder_called_lotus_is_not_taken_for_comfyuis_file():
    assert known_model("lotus") is None and known_model("me/lotus") is None


def test_non_commercial_rows_are_marked():
    warned = {row.name for row in KNOWN_MODELS.values() if warning_of(row.licence)}
    assert warned == {"genpercept", "genpercept-disparity"}


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("apache-2.0", None),
        ("MIT", None),
        ("cc-by-nc-4.0", "not for commercial use"),
        ("openrail++", "forbids some uses"),
        ("creativeml-openrail-m", "forbids some uses"),
        (UNSTATED, "nothing states a licence"),
        ("my-own", "none that is known here"),
    ],
)
def test_what_to_mind_of_a_licence_is_said(licence, said):
    found = warning_of(licence)
    assert found is None if said is None else said in found


def test_the_table_is_aligned_and_has_the_command_for_each():
    lines = CliRunner().invoke(main).output.splitlines()
    places = [lines[0].index(word) for word in ("gives", "px", "fetches", "licence", "repository")]
    rows = [line for line in lines if line.split(" ")[0] in KNOWN_MODELS]
    assert len(rows) == len(KNOWN_MODELS)
    for line in rows:
        row = KNOWN_MODELS[line.split(" ")[0]]
        cells = [line[place:].split("  ")[0] for place in places]
        assert cells[0] == row.output_space and cells[1] == str(row.size) and cells[4] == row.repository
        assert all(line[place - 2 : place] == "  " for place in places)
        assert f"    $ {row.command}" in lines


def test_one_row_says_its_sources_and_what_is_unverified():
    said = CliRunner().invoke(main, ["lotus-d-v1-1"]).output
    for word in (
        "ComfyUI's blueprint",
        "commits 45d1bb0",
        "unverified    that it gives depth and not disparity",
    ):
        assert word in said

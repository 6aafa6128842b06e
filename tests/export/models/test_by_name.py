"""A public model by its name: fetched, recognised, exported, and computing what the sibling computes."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import fiffdepth_rt
from export.build_engines import main, on_this_disk
from export.graph_set import build_stage
from export.model import Given, read_checkpoint
from export.models.fetching import named
from export.models.known_models import KNOWN_MODELS
from export.options import Options
from export.stages import STAGES
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from tests.support.public_models.loopback_hub import HostedRepository
from tests.support.public_models.published import LOTUS_LABELS, hosted, made_for
from tests.support.public_models.siblings import SIBLINGS
from tests.support.tiny_models import tiny_checkpoint
from training.weights.errors import CheckpointError
from training.weights.prompt import TextEncoder
from training.weights.random import write_layout

FAST = ("lotus-d-v2-0-disparity", "marigold-e2e", "genpercept-disparity")
ROWS = [
    pytest.param(row, id=row.name, marks=() if row.name in FAST else pytest.mark.soak)
    for row in KNOWN_MODELS.values()
]
SMALL = ("--precision", "fp32", "--no-plans", "--no-memory", "--size", "128")


def model_named(text, **options):
    path, given, fetched = on_this_disk(Options(checkpoint=named(text), output=Path("e"), **options))
    return read_checkpoint(path, given), fetched


def siblings_depth(row, image):
    made = made_for(row.repository)
    if row.vae_from:
        made = dataclasses.replace(made, vae=made_for(row.vae_from).vae)
    with torch.no_grad():
        return SIBLINGS[row.recipe](made, image)


def folder_of(repository, folder):
    """A repository as `hf download --local-dir` leaves it."""
    for name, content in hosted(repository).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("row", ROWS)
def test_a_known_model_computes_what_its_sibling_computes(hub, row):
    model, fetched = model_named(row.name)
    assert (model.recipe.name, model.output_space, model.name) == (row.recipe, row.output_space, row.name)
    assert (model.licence, model.size_default) == (row.licence, row.size)
    assert fetched[0].commit == hub.repositories[row.repository].commit
    image = np.random.default_rng(2).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)
    value, expected = torch.from_numpy(image), siblings_depth(row, image)
    with torch.no_grad():
        for stage in STAGES:
            value = build_stage(stage, model)(value)
    assert (value[1] - expected).abs().max() <= 1e-4 and expected.std() > 0.01


@pytest.mark.soak
def test_the_front_pages_command_ends_with_the_siblings_depth(hub):
    row = KNOWN_MODELS["lotus-d-v2-0-disparity"]
    check_export(row, CliRunner().invoke(main, [row.name, *SMALL]), hub)
    assert hub.fetched().count("text_encoder/model.safetensors") == 1
    assert {agent for _, _, agent in hub.requests} == {f"fiffdepth-rt/{fiffdepth_rt.__version__}"}
    unwanted = {".gitattributes", "feature_extractor/preprocessor_config.json", "assets/badges/teaser_1.jpg"}
    assert unwanted <= set(hosted(row.repository).files) and not unwanted & set(hub.fetched())
    assert len(hub.fetched()) == len(set(hub.fetched()))


def check_export(row, run, hub):
    assert run.exit_code == 0, run.output
    place = Path("engines", row.name)
    manifest = open_engine_dir(place).manifest
    assert (manifest.name, manifest.recipe, manifest.licence.model) == (row.name, row.recipe, row.licence)
    assert manifest.provenance["fetched"][0] == {
        "gave": "checkpoint",
        "repository": row.repository,
        "commit": hub.repositories[row.repository].commit,
        "licence": row.licence,
    }
    assert manifest.parity and all(line["passed"] for line in manifest.parity)
    image = np.random.default_rng(5).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    with fiffdepth_rt.Depth(place, threads=1) as depth:
        found = depth.infer(image)
    expected = (np.clip(siblings_depth(row, image[None])[0].numpy(), -1, 1) + 1) / 2
    assert str(found.space) == row.output_space and np.abs(found.values - expected).max() <= 1e-4


@pytest.mark.soak
@pytest.mark.parametrize("row", KNOWN_MODELS.values(), ids=list(KNOWN_MODELS))
def test_every_known_model_is_exported_by_name_and_its_folder_gives_the_same_bytes(hub, row, tmp_path):
    check_export(row, CliRunner().invoke(main, [row.name, *SMALL]), hub)
    folder = folder_of(row.repository, tmp_path / "here" / row.repository.split("/")[1])
    words = [str(folder), "-o", "engines/folder", *SMALL]
    if row.name == "lotus-d-comfy":  # its repository is called "lotus", which tells nothing of a folder
        words += [
            "--recipe",
            row.recipe,
            "--size-max",
            str(2 * row.size),
            "--name",
            row.name,
            "--licence",
            row.licence,
        ]
    if row.vae_from:
        words += ["--vae", str(folder_of(row.vae_from, tmp_path / "vae"))]
    if row.text_encoder_from:
        words += ["--text-encoder", str(folder_of(row.text_encoder_from, tmp_path / "text"))]
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 0, run.output
    by_name, by_folder = Path("engines", row.name), Path("engines", "folder")
    files = {p.relative_to(by_name).as_posix() for p in by_name.rglob("*") if p.is_file()}
    assert files == {p.relative_to(by_folder).as_posix() for p in by_folder.rglob("*") if p.is_file()}
    for file in files - {"manifest.json"}:
        assert (by_name / file).read_bytes() == (by_folder / file).read_bytes(), file
    one, other = (json.loads((place / "manifest.json").read_text()) for place in (by_name, by_folder))
    for differs in ("checkpoint", "command", "fetched"):
        assert one["provenance"].pop(differs) != other["provenance"].pop(differs)
    assert one == other


def test_a_folder_on_disk_is_read_to_the_model_that_its_name_gives(hub, tmp_path):
    row = KNOWN_MODELS["lotus-d-v1-0"]
    by_name, _ = model_named(row.name)
    hub.requests.clear()
    by_folder = read_checkpoint(folder_of(row.repository, tmp_path / "here" / "lotus-depth-d-v1-0"))
    assert hub.requests == []
    for field in (
        "sha256",
        "name",
        "recipe",
        "output_space",
        "size_default",
        "size_max",
        "licence",
        "layout",
    ):
        assert getattr(by_folder, field) == getattr(by_name, field)
    assert torch.equal(by_folder.prompt_embedding, by_name.prompt_embedding)


def test_the_prompts_embedding_is_computed_once_for_all_that_share_the_text_encoder(hub):
    one, _ = model_named("lotus-d-v1-0")
    other, _ = model_named("sd-e2e")
    assert hub.fetched().count("text_encoder/model.safetensors") == 1
    assert torch.equal(one.prompt_embedding, made_for("jingheya/lotus-depth-d-v1-0").prompt_embedding)
    assert torch.equal(one.prompt_embedding, other.prompt_embedding)


def test_what_is_kept_of_an_embedding_and_is_damaged_is_computed_again(hub, tmp_path):
    one, _ = model_named("lotus-d-v1-0")
    (kept,) = (tmp_path / "cache" / "prompts").iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    again, _ = model_named("lotus-d-v1-0")
    assert torch.equal(one.prompt_embedding, again.prompt_embedding)


def test_a_prompt_embedding_that_is_given_wins_and_no_text_encoder_is_asked_for(hub, tmp_path):
    save_file({"mine": torch.ones(1, 2, 12)}, tmp_path / "mine.safetensors")
    given = Given(prompt_embedding=tmp_path / "mine.safetensors")
    for name in ("genpercept", "lotus-d-v1-0"):
        model, _ = model_named(name, given=given)
        assert torch.equal(model.prompt_embedding, torch.ones(1, 2, 12))
    assert not any("text_encoder/model" in path or "lotus-depth-d-v2" in path for _, path, _ in hub.requests)


def test_a_folder_without_a_text_encoder_takes_another_folders(tmp_path):
    folder = folder_of("guangkaixu/genpercept-depth", tmp_path / "genpercept-depth")
    with pytest.raises(CheckpointError, match=r"carries no embedding.*--text-encoder"):
        read_checkpoint(folder)
    text = TextEncoder(folder=folder_of("jingheya/lotus-depth-d-v1-0", tmp_path / "lotus"))
    model = read_checkpoint(folder, Given(text=text))
    assert torch.equal(model.prompt_embedding, made_for("jingheya/lotus-depth-d-v1-0").prompt_embedding)


def test_the_fp16_variant_and_the_shards_are_fetched_alone_where_there_are_both(hub, tmp_path):
    made = tiny_checkpoint(3, **LOTUS_LABELS)
    for dtype in (torch.float32, torch.float16):
        write_layout(tmp_path / "model", "sharded", made, dtype=dtype)
    files = {
        p.relative_to(tmp_path / "model").as_posix(): p.read_bytes()
        for p in (tmp_path / "model").rglob("*")
        if p.is_file()
    }
    hub.repositories["me/big"] = HostedRepository(files=files, commit="b" * 40)
    given = Given(recipe="lotus-d", prompt_embedding=tmp_path / "model.prompt.safetensors")
    model, _ = model_named("me/big", given=given)
    fetched = [file for file in hub.fetched() if file.endswith(".safetensors")]
    assert len(fetched) == 4 and all(".fp16" in file for file in fetched)
    assert torch.equal(model.unet.conv_in.weight, made.unet.conv_in.weight.half().float())


def test_a_revision_is_fetched_as_it_is_asked_for(hub):
    commit = hub.repositories["jingheya/lotus-depth-d-v1-0"].commit
    _, fetched = model_named(f"jingheya/lotus-depth-d-v1-0@{commit}")
    assert [(part.gave, part.commit) for part in fetched] == [("checkpoint", commit)]
    assert f"/api/models/jingheya/lotus-depth-d-v1-0/revision/{commit}" in [
        path for _, path, _ in hub.requests
    ]


def test_a_repository_that_moved_is_found_under_its_former_name(hub):
    row = KNOWN_MODELS["marigold-e2e"]
    hub.moved[row.formerly] = row.repository
    model, _ = model_named(row.formerly)
    assert (model.recipe.name, model.name) == ("marigold-e2e", "marigold-e2e")


def test_a_path_that_is_here_wins_over_a_name(hub, tmp_path):
    for name in ("lotus-d-v1-1", "jingheya/lotus-depth-d-v1-1", "models/x"):
        (tmp_path / name).mkdir(parents=True)
        assert named(name) == Path(name)
    (tmp_path / "models" / "y@v1").mkdir()
    assert named("models/y@v1") == Path("models/y@v1")


@pytest.mark.parametrize(
    "text",
    [
        *("a/b/c", "./owner/name", "/owner/name", "../name", "here/nothing", "owner/name@", "owner/na me"),
        *("ckpt.safetensors", "owner/ckpt.safetensors", "owner/x.bin", "lotus"),
    ],
)
def test_what_is_no_path_and_no_name_is_an_error_without_a_request(hub, tmp_path, text):
    (tmp_path / "here").mkdir()
    run = CliRunner().invoke(main, [text])
    assert run.exit_code == 1 and "does not exist here, and is no name of a public model" in run.output
    assert hub.requests == []


def test_a_short_name_that_is_misspelt_is_put_right(hub):
    with pytest.raises(CheckpointError, match=r"is lotus-d-v1-1 meant\?"):
        named("lotus-d-v11")


def test_a_licence_is_said_before_weights_are_fetched_and_accepting_it_is_recorded(hub, caplog, monkeypatch):
    """At a terminal it is asked; "no" fetches nothing more."""
    monkeypatch.setattr("export.build_engines._at_a_terminal", lambda: True)
    with caplog.at_level(logging.INFO, "fiffdepth_export"):
        run = CliRunner().invoke(main, ["genpercept", *SMALL], input="n\n")
    assert run.exit_code == 1 and "Fetch it under this licence?" in run.output
    assert (
        "licence of guangkaixu/genpercept-depth: non-commercial (BSD-2-Clause for academic use)"
        in caplog.text
    )
    assert "mind: the weights are not for commercial use" in caplog.text
    assert not any(file.endswith(".safetensors") for file in hub.fetched())
    assert not Path("engines").exists()
    model_named("genpercept", accept_licence=True)
    assert "unet_depth_v2/diffusion_pytorch_model.safetensors" in hub.fetched()


def test_where_nobody_can_answer_the_licence_is_said_and_not_asked(hub, caplog):
    with caplog.at_level(logging.WARNING, "fiffdepth_export"):
        model_named("genpercept")
    assert caplog.messages[0].startswith("mind: the weights are not for commercial use")


def test_what_is_no_depth_model_is_refused_before_its_weights_are_fetched(hub):
    files = {
        "unet/config.json": json.dumps({"_class_name": "UNet2DConditionModel", "in_channels": 9}).encode(),
        "unet/diffusion_pytorch_model.safetensors": b"gigabytes",
    }
    hub.repositories["me/inpainting"] = HostedRepository(files=files, commit="c" * 40)
    run = CliRunner().invoke(main, ["me/inpainting"])
    assert run.exit_code == 1 and "me/inpainting is an inpainting model" in run.output
    assert hub.fetched() == ["unet/config.json"]

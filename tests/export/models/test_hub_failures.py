"""A hub that fails: each way has its own sentence, nothing is half-written, the same command goes on."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from export.build_engines import main, on_this_disk
from export.model import read_checkpoint
from export.models.fetching import named
from export.options import Options
from tests.support.public_models.loopback_hub import HostedRepository
from tests.support.public_models.published import made_for
from training.weights.errors import CheckpointError, HubError

NAME = "jingheya/lotus-depth-d-v1-0"
UNET, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))


def fetch(name=NAME):
    path, given, _ = on_this_disk(Options(checkpoint=named(name), output=Path("engines/x")))
    return read_checkpoint(path, given)


def assert_nothing_half_written(tmp_path):
    """No engine directory; in the cache, whole files and links to them alone."""
    assert not (tmp_path / "engines").exists()
    assert not list((tmp_path / "hub").rglob("*.incomplete"))
    assert all(link.exists() for link in (tmp_path / "hub").rglob("snapshots/*/**/*"))


def assert_whole(model):
    """It is the model that the hub has."""
    for ours, theirs in ((model.unet, made_for(NAME).unet), (model.vae, made_for(NAME).vae)):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


def test_a_connection_that_breaks_midway_is_taken_up_where_it_broke(hub):
    hub.cut[UNET] = 1000
    assert_whole(fetch())
    assert hub.fetched().count(UNET) == 2


def test_a_download_that_breaks_for_good_keeps_what_is_whole_and_the_same_command_goes_on(hub, tmp_path):
    hub.cut[VAE], hub.refused[VAE] = 1000, [503]
    with pytest.raises(
        HubError, match=rf"broke off at {VAE} .* answered 503\. 1 of 2 files are whole and kept; the"
    ):
        fetch()
    assert_nothing_half_written(tmp_path)
    before = len(hub.fetched())
    assert_whole(fetch())
    assert hub.fetched()[before:] == [VAE, "text_encoder/model.safetensors"]


def test_a_file_of_another_hash_is_removed_and_fetched_again(hub, tmp_path):
    hub.damaged.add(UNET)
    with pytest.raises(
        HubError, match=rf"{UNET} of {NAME} is not what the hub says.*The same command fetches it"
    ):
        fetch()
    assert_nothing_half_written(tmp_path)
    assert_whole(fetch())
    assert hub.fetched().count(UNET) == 2 and hub.fetched().count(VAE) == 1


def test_a_file_that_is_damaged_in_the_cache_is_found(hub, tmp_path):
    fetch()
    (file,) = (tmp_path / "hub").glob(f"*/snapshots/*/{UNET}")
    content = file.read_bytes()
    file.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HubError, match="is not what the hub says"):
        fetch()
    assert_whole(fetch())


ANSWERS = [
    (
        (401, "RepoNotFound"),
        NAME,
        r"has no repository .*look at the spelling; for a private one set HF_TOKEN",
    ),
    ((401, ""), NAME, r"does not let you read .* \(401\): the token in HF_TOKEN"),
    ((403, "GatedRepo"), NAME, r"given to those alone who accept its terms: .*hf auth login"),
    ((401, "GatedRepo"), NAME, r"given to those alone who accept its terms"),
    ((403, ""), NAME, r"does not let you read .* \(403\): the token in HF_TOKEN"),
    ((500, ""), NAME, r"answered 500 when asked for .*: the hub has a fault"),
    (None, "nobody/nothing", r"has no repository nobody/nothing, or shows it to its members alone"),
    (None, f"{NAME}@v9", r"has no revision v9: it never had, or it is gone\. Without @v9 the main branch"),
]


@pytest.mark.parametrize(("answer", "name", "said"), ANSWERS, ids=[f"{a} {n}" for a, n, _ in ANSWERS])
def test_every_refusal_has_its_own_sentence(hub, tmp_path, answer, name, said):
    hub.repositories[NAME].answer = answer
    run = CliRunner().invoke(main, [name])
    assert run.exit_code == 1
    with pytest.raises(HubError, match=said) as error:
        fetch(name)
    assert run.output.splitlines()[-1] == f"Error: {error.value}"  # one line, no traceback
    assert hub.fetched() == []
    assert_nothing_half_written(tmp_path)


def test_every_sentence_is_another():
    assert len({said for _, _, said in ANSWERS}) == len(ANSWERS)


def test_a_repository_with_pickles_alone_is_refused_before_anything_large_is_fetched(hub):
    files = {"unet/config.json": b'{"in_channels": 4}', "unet/diffusion_pytorch_model.bin": b"\x80\x04."}
    hub.repositories["me/fiffdepth"] = HostedRepository(files=files, commit="d" * 40)
    with pytest.raises(
        HubError, match=r"no unet/diffusion_pytorch_model\.safetensors\. It holds pickles \(unet/d.*none"
    ):
        fetch("me/fiffdepth")
    assert hub.fetched() == ["unet/config.json"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["transformer/config.json", "transformer/x.safetensors"], r"holds a transformer \(as FLUX"),
        (
            ["a.safetensors", "b.safetensors"],
            r"several files \(a\.safetensors, b\.safetensors\).*give its path",
        ),
        (["README.md"], r"no UNet of diffusers \(unet/config\.json\)\. Is it a depth model"),
    ],
)
def test_a_repository_of_another_kind_is_said_to_be_one(hub, files, said):
    hub.repositories["me/other"] = HostedRepository(files=dict.fromkeys(files, b"{}"), commit="e" * 40)
    with pytest.raises(HubError, match=said):
        fetch("me/other")


def test_several_unets_are_asked_for_by_name(hub):
    files = {f"unet_{what}_v2/config.json": b"{}" for what in ("depth", "normal")}
    hub.repositories["me/many"] = HostedRepository(files=files, commit="f" * 40)
    with pytest.raises(
        CheckpointError, match=r"2 UNets lie here.*unet_depth_v2, unet_normal_v2.*--vae FOLDER"
    ):
        fetch("me/many")


def test_what_does_not_fit_on_the_disk_is_not_begun(hub, tmp_path):
    hub.claims[UNET] = 10**15
    with pytest.raises(
        HubError, match=r"1000000\.0 GB to fetch, and .* GB of room.*HF_HOME.*Nothing was fetched"
    ):
        fetch()
    assert not any(file.endswith(".safetensors") for file in hub.fetched())


@contextlib.contextmanager
def a_disk_that_is_full_after(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_on_the_way_is_said_and_the_same_command_goes_on(hub, tmp_path):
    with (
        a_disk_that_is_full_after(20_000),
        pytest.raises(HubError, match=r"cannot be written to .*HF_HOME.*0 of 2 files"),
    ):
        fetch()
    assert_nothing_half_written(tmp_path)
    assert_whole(fetch())


def test_without_a_network_one_sentence_has_the_ways(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    run = CliRunner().invoke(main, [NAME])
    assert run.exit_code == 1
    for way in (f"hf download {NAME} --local-dir lotus-depth-d-v1-0", "HF_ENDPOINT", "HF_HUB_OFFLINE=1"):
        assert way in run.output
    assert run.output.splitlines()[-1].startswith("Error: http://127.0.0.1:9 cannot be reached")
    assert_nothing_half_written(tmp_path)


def test_offline_the_cache_is_asked_and_no_network(hub, monkeypatch):
    fetch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert_whole(fetch())
    assert_whole(fetch(f"{NAME}@{hub.repositories[NAME].commit}"))
    assert hub.requests == []


@pytest.mark.parametrize("lacking", ["everything", "another revision", VAE, "text_encoder/model.safetensors"])
def test_offline_what_the_cache_lacks_is_said(hub, monkeypatch, tmp_path, lacking):
    if lacking != "everything":
        fetch()
    for file in (tmp_path / "hub").glob(f"*/snapshots/*/{lacking}"):
        file.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FIFFDEPTH_CACHE", "off")  # no embedding is kept
    name = f"{NAME}@{'0' * 40}" if lacking == "another revision" else NAME
    expected = f"holds no {name}" if "/" not in lacking else f"lacks {lacking}"
    with pytest.raises(
        HubError, match=rf"HF_HUB_OFFLINE is set, and the cache .* {expected}.*hf download {NAME}"
    ):
        fetch(name)

"""Checkpoints as strangers hand them on: other dtypes, surplus tensors, pickles, configurations that lie."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from export.errors import RecipeError
from export.model import Given, read_checkpoint
from export.options import Options
from export.provenance import provenance_of
from export.recipe import RECIPES
from tests.export.test_checkpoint import assert_same_weights, edited, written
from tests.support.paths import ROOT
from tests.support.tiny_models import sized_like_sd2, tiny_checkpoint
from training.weights import from_pickle
from training.weights.errors import CheckpointError
from training.weights.ours import save_checkpoint
from training.weights.random import write_layout
from training.weights.tensors import looks_like_pickle

PLAIN = Given(recipe="fiffdepth")


@pytest.fixture(scope="module")
def made():
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def plain():
    """Of Stable Diffusion's own proportions, so that a single file needs no configuration beside it."""
    return sized_like_sd2()


# --- dtypes ---


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_every_float_is_read_as_its_exact_value_in_fp32(tmp_path, made, dtype):
    tensors = {k: v.to(dtype) for k, v in made.unet.state_dict().items()}

    def edit(content):
        content.update({f"unet.{k}": v for k, v in tensors.items()})

    model = read_checkpoint(edited(tmp_path, made, edit))
    for name, value in model.unet.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[name].float()), name


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_eight_bits_are_said_and_reach_the_manifest(tmp_path, made, dtype):
    def edit(content):
        content["unet.conv_in.weight"] = content["unet.conv_in.weight"].to(dtype)

    path = edited(tmp_path, made, edit)
    model = read_checkpoint(path)
    (note,) = model.notes
    assert note.startswith(
        f"1 of {len(model.unet.state_dict()) + len(model.vae.state_dict())} tensors were in "
    )
    assert str(dtype).removeprefix("torch.") in note
    options = Options(checkpoint=path, output=tmp_path / "engines")
    provenance = provenance_of(model, options, fetched=(), left_out={})
    assert provenance["checkpoint_notes"] == [note]


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str
)
def test_what_is_no_float_is_refused_with_its_name_and_dtype(tmp_path, made, dtype):
    def edit(content):
        content["unet.conv_in.weight"] = content["unet.conv_in.weight"].to(dtype)

    with pytest.raises(CheckpointError, match=rf"UNet.*conv_in\.weight \({dtype}\)"):
        read_checkpoint(edited(tmp_path, made, edit))


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0"])
def test_a_dtype_that_torch_has_no_weights_in_is_refused(tmp_path, dtype):
    bits = {"F4": 4, "F6_E2M3": 6, "F8_E8M0": 8}[dtype]
    length = 16 * bits // 8
    header = json.dumps({"conv_in.weight": {"dtype": dtype, "shape": [16], "data_offsets": [0, length]}})
    file = tmp_path / "odd.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(length))
    with pytest.raises(CheckpointError, match="odd"):
        read_checkpoint(file)


def test_a_float64_beyond_fp32_is_infinity_and_said_so(tmp_path, made):
    def edit(content):
        content["vae.decoder.conv_out.bias"] = torch.full((3,), 1e300, dtype=torch.float64)

    with pytest.raises(CheckpointError, match=r"hold NaN or infinity: decoder\.conv_out\.bias"):
        read_checkpoint(edited(tmp_path, made, edit))


def test_nan_in_eight_bits_is_found(tmp_path, made):
    def edit(content):
        eight = content["unet.conv_in.weight"].to(torch.float8_e4m3fn)
        eight.view(torch.uint8)[0] = 0x7F
        content["unet.conv_in.weight"] = eight

    with pytest.raises(CheckpointError, match=r"hold NaN or infinity: conv_in\.weight"):
        read_checkpoint(edited(tmp_path, made, edit))


# --- files and tensors beside those that are needed ---


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_a_variant_alone_is_taken_and_said(tmp_path, made, variant):
    path, given = written(tmp_path, "folder", made)
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    model = read_checkpoint(path, given)
    assert_same_weights(model.unet, made.unet)
    assert model.notes == (f"unet: the variant {variant} is taken, as there is no plain one",)


def test_beside_plain_weights_no_variant_is_taken(tmp_path, made):
    path, given = written(tmp_path, "folder", made)
    other = path / "unet" / "diffusion_pytorch_model.non_ema.safetensors"
    save_file({k: v * 2 for k, v in made.unet.state_dict().items()}, other)
    model = read_checkpoint(path, given)
    assert_same_weights(model.unet, made.unet)
    assert model.notes == ()


def test_a_folder_with_unet_ema_alone_is_read_and_said(tmp_path, made):
    path, given = written(tmp_path, "folder", made)
    (path / "unet").rename(path / "unet_ema")
    model = read_checkpoint(path, given)
    assert_same_weights(model.unet, made.unet)
    assert "unet_ema/" in model.notes[0] and "is taken: there is no unet/" in model.notes[0]


def test_unet_ema_beside_unet_is_left_out_and_said(tmp_path, made):
    path, given = written(tmp_path, "folder", made)
    other = tiny_checkpoint(5)
    write_layout(tmp_path / "other", "folder", other)
    (tmp_path / "other" / "unet").rename(path / "unet_ema")
    model = read_checkpoint(path, given)
    assert_same_weights(model.unet, made.unet)
    assert model.notes == ("left out: unet_ema/, a moving average (EMA) of unet/, which is taken",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_before_a_configuration_is_no_matter(tmp_path, made, encoding):
    path, given = written(tmp_path, "folder", made)
    for file in (path / "unet" / "config.json", path / "scheduler" / "scheduler_config.json"):
        if file.is_file():
            file.write_text(file.read_text(), encoding=encoding)
    assert_same_weights(read_checkpoint(path, given).unet, made.unet)


NEEDLESS = {
    "ztsnr": "the noise schedule",
    "v_pred": "the noise schedule",
    "denoiser.sigmas": "the noise schedule",
    "betas": "the noise schedule",
    "global_step": "the training's counters",
    "cond_stage_model.model.ln.weight": "a text encoder",
    "conditioner.embedders.0.model.ln.weight": "a text encoder",
    "text_encoder.text_model.final_layer_norm.weight": "a text encoder",
    "depth_model.model.scratch.weight": "a depth estimator",
    "loss.discriminator.main.0.weight": "the training's loss",
    "model_ema.diffusion_modeltime_embed0weight": "a moving average (EMA) of the weights, beside the plain",
}


@pytest.mark.parametrize("layout", ["ldm", "prefixed"])
def test_surplus_tensors_that_depth_does_not_need_are_left_out_by_name(tmp_path, plain, layout):
    write_layout(path := tmp_path / "x.safetensors", layout, plain)
    save_file(load_file(path) | {k: torch.zeros(3) for k in NEEDLESS}, path)
    model = read_checkpoint(path, PLAIN)
    assert_same_weights(model.unet, plain.unet)
    assert_same_weights(model.vae, plain.vae)
    for key, words in NEEDLESS.items():
        (note,) = (note for note in model.notes if words in note)
        assert note.startswith("left out: ")
        assert int(re.search(r"\((\d+) tensors", note)[1]) == list(NEEDLESS.values()).count(words), key


def test_plain_weights_are_taken_where_a_moving_average_lies_beside_them(tmp_path, plain):
    write_layout(path := tmp_path / "x.safetensors", "prefixed", plain)
    tensors = load_file(path)
    ema = {k.replace("module.unet.", "ema."): v * 2 for k, v in tensors.items() if "unet." in k}
    save_file(tensors | ema, path)
    assert_same_weights(read_checkpoint(path, PLAIN).unet, plain.unet)
    alone = {k: v for k, v in (tensors | ema).items() if not k.startswith("module.unet.")}
    save_file(alone, path)
    model = read_checkpoint(path, PLAIN)
    assert torch.equal(model.unet.conv_in.weight, plain.unet.conv_in.weight * 2)
    assert model.notes == ("the moving average (EMA) of the weights is taken: there are no plain ones",)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("control_model.input_blocks.0.0.weight", "a ControlNet, which steers the UNet"),
        ("lora_unet_down_blocks_0.lora_down.weight", "LoRA weights.*merge them"),
        ("scaled_fp8", "quantisation: take the checkpoint before"),
        ("model.diffusion_model.input_blocks.0.0.scale_weight", "scaled fp8"),
    ],
)
def test_tensors_that_change_the_networks_are_refused_by_kind(tmp_path, plain, key, said):
    write_layout(path := tmp_path / "x.safetensors", "ldm", plain)
    save_file(load_file(path) | {key: torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=rf"x\.safetensors holds .*{said}"):
        read_checkpoint(path)


def test_a_tensor_that_the_names_of_ldm_want_and_the_file_lacks_is_named(tmp_path, plain):
    write_layout(path := tmp_path / "x.safetensors", "ldm", plain)
    tensors = load_file(path)
    del tensors["first_stage_model.encoder.down.0.downsample.conv.bias"]
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"x\.safetensors.* lacks what becomes encoder\..*downsamplers\.0\.conv\.bias"
    ):
        read_checkpoint(path, PLAIN)


def test_tensors_that_nobody_knows_are_still_refused(tmp_path, plain):
    write_layout(path := tmp_path / "x.safetensors", "ldm", plain)
    save_file(load_file(path) | {"adapter.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"1 tensors belong to no part that is known: adapter\.weight"):
        read_checkpoint(path)


# --- pickles ---


def lightning_checkpoint(path: Path, tensors: dict[str, torch.Tensor], monkeypatch) -> None:
    """What pytorch_lightning writes: the weights, optimizer states, and a class of its own as a key."""
    callbacks = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": callbacks.__name__})
    callbacks.ModelCheckpoint = callback
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callbacks.__name__):
        monkeypatch.setitem(sys.modules, name, callbacks)
    monitor = callback()
    monitor.best = torch.zeros(2)
    content = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": tensors,
        "callbacks": {callback: {"monitor": "val/loss"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "hyper_parameters": monitor,
    }
    torch.save(content, path)
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callbacks.__name__):
        monkeypatch.delitem(sys.modules, name)


def test_the_command_for_a_pickle_converts_what_lightning_wrote(tmp_path, plain, monkeypatch):
    """The command is taken from the message, and run as a user would."""
    write_layout(tmp_path / "x.safetensors", "ldm", plain)
    tensors = load_file(tmp_path / "x.safetensors") | {"global_step": torch.tensor(7)}
    lightning_checkpoint(tmp_path / "sd 2.ckpt", tensors, monkeypatch)
    with pytest.raises(CheckpointError, match=r"sd 2\.ckpt is a pickle.*runs nothing: python -m") as error:
        read_checkpoint(tmp_path / "sd 2.ckpt")
    python, *words = shlex.split(str(error.value).partition("runs nothing: ")[2])
    assert python == "python"
    words = [str(tmp_path / "out.safetensors") if word == "OUT.safetensors" else word for word in words]
    run = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "left out, not run: pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint" in run.stderr
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) for k in found)
    given = Given(recipe="fiffdepth", prompt_embedding=tmp_path / "x.safetensors.prompt.safetensors")
    assert_same_weights(read_checkpoint(tmp_path / "out.safetensors", given).unet, plain.unet)


class _Program:
    """A pickle of this runs `os.mkdir` when it is opened without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_program_in_a_pickle_is_not_run_by_the_converter(tmp_path):
    content = {"state_dict": {"w": torch.ones(2)}, "x": _Program(tmp_path / "made")}
    torch.save(content, tmp_path / "evil.ckpt")
    try:
        tensors, _ = from_pickle.read_pickle(tmp_path / "evil.ckpt")
        assert torch.equal(tensors["w"], torch.ones(2))
    except CheckpointError as error:
        assert "without running what is in it" in str(error)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.bin", "x.safetensors"])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_is_known_by_its_content(tmp_path, name, how):
    file = tmp_path / name
    if how == "pickle":
        file.write_bytes(pickle.dumps({"w": 1}, protocol=4))
    else:
        torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_checkpoint(file)
    if how != "pickle":
        assert torch.equal(from_pickle.read_pickle(file)[0]["w"], torch.ones(2))


def test_a_checkpoint_that_is_not_there_is_said_once(tmp_path):
    with pytest.raises(CheckpointError, match=r"^\S+nowhere\.pt does not exist, or is not a file\.$"):
        looks_like_pickle(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.bin"])
def test_safetensors_under_the_name_of_a_pickle_are_read(tmp_path, made, name):
    save_checkpoint(tmp_path / name, made)
    assert_same_weights(read_checkpoint(tmp_path / name).unet, made.unet)
    with pytest.raises(CheckpointError, match="is no pickle but safetensors"):
        from_pickle.read_pickle(tmp_path / name)


def test_a_folder_with_pickles_only_is_refused_too(tmp_path, made):
    path, _ = written(tmp_path, "folder", made)
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_checkpoint(path, PLAIN)


def _loop():
    loop = {"w": torch.ones(1)}
    return loop | {"loop": loop.setdefault("loop", loop)}


@pytest.mark.filterwarnings("ignore")  # torch's, on quantised tensors
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: {"w": torch.eye(3).to_sparse()}, "the tensor w is sparse"),
        (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}, "is quantised"),
        (lambda: {"w": torch.empty(3, device="meta")}, "is without values"),
        (lambda: {"w": torch.ones(1).expand(10**12)}, "is larger than its values in the file"),
        (lambda: {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, "two tensors that are called a.b"),
        (_loop, "containers in containers without an end"),
    ],
)
def test_what_no_weights_are_is_not_converted(tmp_path, content, said):
    torch.save(content(), tmp_path / "x.ckpt")
    result = CliRunner().invoke(from_pickle.main, [str(tmp_path / "x.ckpt"), str(tmp_path / "x.safetensors")])
    assert (result.exit_code, said in result.stderr) == (1, True), result
    assert not (tmp_path / "x.safetensors").exists()


def test_a_converted_pickle_never_replaces_its_source(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.ckpt")
    before = (tmp_path / "x.ckpt").read_bytes()
    words = [str(tmp_path / "x.ckpt"), str(tmp_path / "." / "x.ckpt"), "--overwrite"]
    result = CliRunner().invoke(from_pickle.main, words)
    assert result.exit_code == 1 and "is the checkpoint" in result.stderr and "itself" in result.stderr
    assert (tmp_path / "x.ckpt").read_bytes() == before


def test_the_names_in_a_pickle_are_shown_escaped(tmp_path, monkeypatch):
    class Callback:
        pass

    Callback.__module__, Callback.__qualname__ = "evil\x1b]52;c;x\x07", "Callback"
    monkeypatch.setitem(sys.modules, Callback.__module__, types.SimpleNamespace(Callback=Callback))
    torch.save({"state_dict": {"w": torch.ones(2)}, "callbacks": Callback}, tmp_path / "x.ckpt")
    words = [str(tmp_path / "x.ckpt"), str(tmp_path / "x.safetensors")]
    result = CliRunner().invoke(from_pickle.main, words)
    assert (result.exit_code, "\x1b" in result.output) == (0, False)
    assert r"evil\x1b]52" in result.stderr


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02garbage", b"\x80\x04."])
def test_a_pickle_that_is_broken_is_said(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.ckpt cannot be read without running what is in it: \S"):
        from_pickle.read_pickle(tmp_path / "x.ckpt")


# --- configurations ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made):
    """A diffusers folder of GenPercept, in shards, and what has to be given beside it."""
    return written(tmp_path_factory.mktemp("folder"), "sharded", made, recipe=RECIPES["genpercept"])


@contextlib.contextmanager
def changed(file, **values):
    """A JSON file with other values, until the block ends."""
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole) | values))
    try:
        yield
    finally:
        file.write_text(whole)


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("unet", "layers_per_block", 1_000_000, "layers_per_block should be a whole number of at most 1024"),
        (
            "unet",
            "layers_per_block",
            [10**9, 1],
            r"layers_per_block\[0\] should be a whole number of at most",
        ),
        ("unet", "layers_per_block", 1000, "asks for 2000 blocks, and there are"),
        ("unet", "layers_per_block", -1, "layers_per_block should be a whole number of at least 0"),
        ("unet", "layers_per_block", 1.5, "layers_per_block should be a whole number"),
        ("unet", "block_out_channels", [2**40, 2**40], r"block_out_channels\[0\] should be"),
        ("unet", "block_out_channels", None, "builds no UNet2DConditionModel"),
        ("unet", "block_out_channels", [], "block_out_channels should be a list that is not empty"),
        ("unet", "block_out_channels", "wide", "block_out_channels should be a list or null, but is"),
        ("unet", "norm_num_groups", 0, "norm_num_groups should be a whole number of at least 1"),
        ("unet", "attention_head_dim", [], "attention_head_dim should be"),
        ("unet", "cross_attention_dim", {"x": 1}, "cross_attention_dim should be"),
        ("unet", "down_block_types", ["NoBlock", "NoBlock"], "builds no UNet2DConditionModel"),
        ("unet", "sample_size", 4096, "sample_size 4096"),
        ("unet", "act_fn", [[[]]], "builds no UNet2DConditionModel"),
        ("unet", "in_channels", {"x": 4}, "in_channels should be a whole number or null, but is"),
        ("unet", "in_channels", "9" * 50, "in_channels should be a whole number or null, but is"),
        ("unet", "\ud800", 4, r"a text in it is no Unicode: '\\ud800'"),
        ("vae", "\ud800", 4, r"a text in it is no Unicode: '\\ud800'"),
        ("vae", "scaling_factor", 0, "scaling_factor should be a number above 0"),
        ("vae", "scaling_factor", "0.18", "scaling_factor should be a number"),
        ("vae", "scaling_factor", 10**400, "scaling_factor should be a number within the range"),
        ("vae", "layers_per_block", 10**4, "layers_per_block should be a whole number"),
        ("vae", "norm_num_groups", 7, "builds no AutoencoderKL"),
    ],
)
def test_a_configuration_that_lies_is_refused_with_file_and_key(folder, part, key, value, said):
    path, given = folder
    where = {"unet": "UNet", "vae": "VAE"}[part]
    refused = pytest.raises(CheckpointError, match=rf"sharded \({where}\): .*{said}")
    with changed(path / part / "config.json", **{key: value}), refused:
        read_checkpoint(path, given)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a": ' * 100_000, "{", "[]", '{"layers_per_block": NaN}', '{"a": ' + "9" * 5000 + "}"],
    ids=["brackets", "braces", "cut", "list", "NaN", "digits"],
)
def test_a_configuration_that_is_no_json_object_names_its_file(folder, content):
    path, given = folder
    with changed(file := path / "unet" / "config.json"):
        file.write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.json (cannot be read as JSON|is no config)"):
            read_checkpoint(path, given)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "x" * 4096},
        {"a": "../../secret"},
        {"a": "/etc/hostname"},
        {"a": 7},
        [],
        None,
        {"a": "a\0b"},
        {"a": ""},
    ],
    ids=["long", "outside", "absolute", "number", "list", "null", "zero", "empty"],
)
def test_an_index_that_names_no_file_beside_it_is_refused(folder, weight_map):
    path, given = folder
    (index,) = path.rglob("*.index.json")
    with changed(index, weight_map=weight_map), pytest.raises(CheckpointError) as error:
        read_checkpoint(path, given)
    assert len(str(error.value)) < 1000


# --- what a checkpoint says of itself ---


@pytest.fixture(scope="module")
def own(tmp_path_factory, made):
    """Metadata and tensors of one of our files; too few tensors, which is found after the metadata."""
    save_checkpoint(path := tmp_path_factory.mktemp("own") / "own.safetensors", made)
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {"unet.conv_in.bias": file.get_tensor("unet.conv_in.bias")}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("output_space", "metres", r"output_space should be one of depth, disparity, but is \"metres\""),
        ("size_default", 0, "size_default should be a whole number of at least 16"),
        ("size_default", "512", "size_default should be a whole number"),
        ("size_default", 4096, "default size of 4096 px beyond its largest"),
        ("size_max", 10**9, "size_max should be a whole number of at most 16384"),
        ("name", "", "name should be a text that is not empty"),
        ("name", "x" * 10**6, "name should be a text of at most 200"),
        ("name", None, "name should be a text"),
        ("recipe", 7, "recipe should be a text"),
        ("data_sources", "photos", "data_sources should be a list"),
        ("training", [], "training should be an object"),
        ("licence", ..., "lacks licence"),
    ],
)
def test_metadata_of_wrong_types_is_refused_when_it_is_read(tmp_path, own, key, value, said):
    metadata, tensors = dict(own[0]), own[1]
    path = tmp_path / "own.safetensors"
    info = json.loads(metadata["info"]) | {key: value}
    if value is ...:
        del info[key]
    save_file(tensors, path, metadata=metadata | {"info": json.dumps(info)})
    with pytest.raises(CheckpointError, match=rf"own\.safetensors: its metadata .*{said}"):
        read_checkpoint(path)


@pytest.mark.parametrize("key", ["info", "unet_config", "vae_config"])
@pytest.mark.parametrize("content", [None, "", "{", "[" * 10**5, "7", "[]"], ids=str)
def test_metadata_that_is_missing_or_no_object_is_refused(tmp_path, own, key, content):
    metadata, tensors = dict(own[0]), own[1]
    path = tmp_path / "own.safetensors"
    metadata.pop(key)
    save_file(tensors, path, metadata=metadata | ({} if content is None else {key: content}))
    with pytest.raises(CheckpointError, match=rf"own\.safetensors: its metadata (lacks|holds) {key}"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", 10**12),
        ("num_train_timesteps", "x"),
        ("num_train_timesteps", 0),
        ("beta_start", "x"),
        ("beta_start", 10**400),
        ("trained_betas", ["x"]),
        ("beta_schedule", "nowhere"),
        ("prediction_type", 7),
    ],
)
def test_a_scheduler_that_lies_is_refused_when_it_is_read(folder, key, value):
    path, given = folder
    file = path / "scheduler" / "scheduler_config.json"
    said = "checkpoint's scheduler configuration cannot be used"
    with changed(file, **{key: value}), pytest.raises(RecipeError, match=said):
        read_checkpoint(path, given)

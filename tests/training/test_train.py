"""Promises of the trainer: the same losses after any kill and on any number of processes; nothing lost."""

from __future__ import annotations

import dataclasses
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from export import build_engines
from fiffdepth_rt import Depth
from tests.support.paths import ROOT
from tests.support.small_run import Launched, configuration, launch, losses, write_all, write_toml
from tests.support.tiny_models import tiny_checkpoint, tiny_vae
from tests.support.tiny_teachers import save_depth_anything
from training import config, run_folder, sources
from training.data.mixing import loader
from training.labelling import command as labelling
from training.latents import Encoder, decode, encode
from training.objective import Diffusion
from training.run_folder import only_run_in
from training.step import Randomness, learning_rate
from training.weights.errors import CheckpointError
from training.weights.light import new_light_vae
from training.weights.ours import load_checkpoint, save_checkpoint
from training.weights.random import write_layout
from training.weights.reading import read_base


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole")
    launch(write_toml(run / "c.toml", configuration(sets, run)))
    return run


def same(found: Path, expected: Path) -> None:
    """Two runs' losses and gradient norms at every step: fp32 sums do not always add up in one order."""
    a, b = losses(found), losses(expected)
    assert sorted(a) == sorted(b) == list(range(6))
    for step, figures in b.items():
        assert a[step] == pytest.approx(figures, rel=1e-5, abs=1e-7), step


# ---- the whole journey ----


def killed(launched: Launched, moment: Callable[[], bool]) -> bool:
    """SIGKILL at `moment` -> whether it came before the run's end."""
    while launched.running():
        if moment():
            launched.kill()
            return True
        time.sleep(0.001)
    assert launched.finish() == 0, launched.said
    return False


@pytest.mark.soak
def test_from_raw_data_to_a_depth_map_with_kills_on_the_way(sets: Path, tmp_path: Path) -> None:
    """Two kinds of synthetic sets, photos labelled by a teacher; train, kill, resume, export, infer."""
    labels, run = tmp_path / "labels", tmp_path / "run"
    teacher = save_depth_anything(tmp_path / "teacher")
    labelled = CliRunner().invoke(
        labelling.main,
        ["--images", str(sets / "photos"), "--teacher", str(teacher), "--out", str(labels), "--workers", "0"],
    )
    assert labelled.exit_code == 0, labelled.output
    table = configuration(sets, run)
    table["data"]["real"][0]["labels"] = str(labels)
    toml = write_toml(tmp_path / "c.toml", table)
    undisturbed = configuration(sets, tmp_path / "undisturbed")
    undisturbed["data"]["real"][0]["labels"] = str(labels)
    launch(write_toml(tmp_path / "undisturbed.toml", undisturbed))

    log = run / "log.jsonl"
    moments: list[Callable[[], bool]] = [
        lambda: log.exists() and log.read_text().count("train") >= 1,  # before the first state
        lambda: any(run.glob(".state.pt.*")),  # while it is written
        lambda: (run / "small-000003.safetensors").exists(),  # between a checkpoint and the next state
    ]
    kills = sum(killed(Launched(toml), moment) for moment in moments)
    assert kills >= 2
    if kills == 3:  # on a busy machine the last moment can be missed, and the run ends by itself
        assert not (run / "small-000006.safetensors").exists()
    launch(toml)
    same(run, tmp_path / "undisturbed")
    assert not list(run.glob(".*.tmp"))

    engines = tmp_path / "engines"
    exported = CliRunner().invoke(
        build_engines.main,
        [
            str(run / "small-000006.safetensors"),
            "-o",
            str(engines),
            "--precision",
            "fp32",
            "--no-plans",
            "--no-memory",
        ],
    )
    assert exported.exit_code == 0, exported.output
    with Depth(engines) as depth:
        assert depth.output_space == "depth"
        photo = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
        depth_map = depth.infer(photo)
    assert depth_map.photo_hw == (90, 120)
    assert depth_map.values.std() > 1e-4


# ---- the same losses, however they are computed ----


@pytest.mark.soak
@pytest.mark.parametrize("processes", [2, 4])
def test_many_processes_compute_what_one_does_on_unequal_masks(
    sets: Path, whole: Path, tmp_path: Path, processes: int
) -> None:
    """Gradient norms too: a wrong factor between ranks would be invisible in AdamW's steps."""
    table = configuration(sets, tmp_path, data={"per_device": 1}, compute={"gradient_checkpointing": False})
    launch(write_toml(tmp_path / "c.toml", table), processes=processes)
    same(tmp_path, whole)


@pytest.mark.soak
def test_a_run_on_two_processes_computes_what_one_does_and_goes_on_alone(
    sets: Path, whole: Path, tmp_path: Path
) -> None:
    """On unequal masks, in parts of one pair each; gradient norms too."""
    toml = write_toml(tmp_path / "c.toml", configuration(sets, tmp_path, data={"per_device": 1}))
    launch(toml, "--max-steps", "3", processes=2)
    launch(toml)
    same(tmp_path, whole)


def test_noise_and_timesteps_of_a_row_do_not_depend_on_who_computes_it() -> None:
    diffusion = Diffusion.of()
    alone = Randomness.of(diffusion, seed=1, step=5, rows=range(4), shape=(4, 2, 2))
    second = Randomness.of(diffusion, seed=1, step=5, rows=range(2, 4), shape=(4, 2, 2))
    assert torch.equal(alone.t[2:], second.t)
    assert torch.equal(alone.noise[2:], second.noise)
    later = Randomness.of(diffusion, seed=1, step=6, rows=range(4), shape=(4, 2, 2))
    assert not torch.equal(alone.noise, later.noise)
    assert abs(alone.noise.mean()) < 0.5


def test_the_learning_rate_warms_up_then_falls_exponentially_to_one_percent() -> None:
    paper = {"lr": 3e-5, "warmup": 100, "decay_steps": 25_000, "floor": 0.01}
    assert learning_rate(0, **paper) == pytest.approx(3e-7)
    assert learning_rate(99, **paper) == learning_rate(100, **paper) == pytest.approx(3e-5)
    assert learning_rate((100 + 25_000) // 2, **paper) == pytest.approx(3e-6)
    assert learning_rate(25_000, **paper) == learning_rate(30_000, **paper) == pytest.approx(3e-7)


# ---- checkpoints ----


def test_a_checkpoint_says_what_it_is_made_of_and_what_it_may_be_used_for(whole: Path) -> None:
    info = load_checkpoint(whole / "small-000006.safetensors").info
    assert (info.recipe, info.output_space, info.size_default) == ("fiffdepth", "depth", 128)
    assert info.training["steps"] == 6
    assert info.training["config"]["method"]["lambda_k"] == 0.2
    assert info.training["config"]["run"]["folder"] == whole.name
    assert str(whole.parent) not in repr(info)
    assert [s.split(" (")[0] for s in info.data_sources[1:3]] == ["hypersim", "vkitti"]
    assert "a test's arithmetic (CC-BY-NC-4.0)" in info.data_sources[-1]
    assert info.licence == (
        "not for commercial use: CC BY-NC-SA 3.0 and CC-BY-NC-4.0 and CC0-1.0 and CC BY-SA 3.0"
    )


def test_the_checkpoint_holds_the_averaged_weights_and_the_vae_as_it_was(sets: Path, whole: Path) -> None:
    state = torch.load(whole / "state.pt", weights_only=True)
    tensors = load_file(whole / "small-000006.safetensors")
    names = [name for name in state["unet"]]
    for name, averaged in zip(names, state["ema"]["shadow_params"], strict=True):
        assert torch.equal(tensors[f"unet.{name}"], averaged)
    assert any(not torch.equal(tensors[f"unet.{n}"], state["unet"][n]) for n in names)
    for name, tensor in tiny_vae().state_dict().items():
        assert torch.equal(tensors[f"vae.{name}"], tensor)


def test_no_checkpoint_names_the_host_or_a_folder_of_the_machine(sets: Path, whole: Path) -> None:
    """TensorBoard's own file names do, as docs/train.md says."""
    for path in (*whole.glob("*.safetensors"), whole / "log.jsonl"):
        said = path.read_bytes()
        if path.suffix == ".safetensors":
            said = said[: 8 + int.from_bytes(said[:8], "little")]  # the header, and no weights
        assert not [word for word in (str(sets.parent), str(ROOT), str(Path.home())) if word.encode() in said]
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b".encode(), said), path.name


def test_the_log_holds_validation_and_tensorboard_the_pictures(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(whole / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert sorted(board.Tags()["images"]) == ["real", "synthetic"]
    assert [e.step for e in board.Scalars("validation/abs_rel")] == [2, 5]
    assert len(board.Scalars("train/loss")) == 6
    real, synthetic = (board.Images(name)[-1] for name in ("real", "synthetic"))
    assert (real.width / real.height) / (synthetic.width / synthetic.height) > 0.5  # 4 pictures, 3 pictures
    assert 0 < board.Scalars("validation/delta1")[-1].value <= 1


# ---- kept latents ----


def first_batch(sets: Path) -> object:
    mixture = sources.mixture(config.parse(configuration(sets, sets, data={"views": 1})))
    return next(iter(loader(mixture)))


def test_kept_latents_are_met_again_by_cut_out_and_flip_and_are_the_encoder_s(
    sets: Path, tmp_path: Path
) -> None:
    synthetic, real = first_batch(sets)
    plain = Encoder(tiny_vae()).half(synthetic)
    encoder = Encoder(tiny_vae(), cache=tmp_path)
    once, again = encoder.half(synthetic), encoder.half(synthetic)
    distinct = len(set(synthetic.keys))
    assert (encoder.hits, encoder.misses) == (8 - encoder.misses, encoder.misses)
    assert encoder.hits >= 4
    assert len(list(tmp_path.rglob("*.safetensors"))) == distinct
    for a, b, c in zip(*((h.image, h.depth) for h in (plain, once, again)), strict=True):
        assert torch.equal(b, c)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    encoder.half(real)
    assert len(list(tmp_path.rglob("*.safetensors"))) == distinct + len(set(real.keys))


def test_a_damaged_kept_latent_is_made_again_and_another_vae_s_is_not_taken(
    sets: Path, tmp_path: Path
) -> None:
    synthetic, _ = first_batch(sets)
    expected = Encoder(tiny_vae(), cache=tmp_path).half(synthetic)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(Encoder(tiny_vae(), cache=tmp_path).half(synthetic).depth, expected.depth)
    other = Encoder(tiny_vae(seed=9), cache=tmp_path).half(synthetic)
    torch.testing.assert_close(
        other.depth, Encoder(tiny_vae(seed=9)).half(synthetic).depth, rtol=1e-3, atol=1e-3
    )


def test_a_run_with_half_of_its_latents_kept_has_the_losses_of_one_that_keeps_none_yet(
    sets: Path, tmp_path: Path
) -> None:
    def run(name: str) -> Path:
        cache = {"cache": str(tmp_path / "cache")}
        launch(
            write_toml(
                tmp_path / f"{name}.toml",
                configuration(sets, tmp_path / name, data={"views": 2}, compute=cache),
            )
        )
        return tmp_path / name

    first = run("first")
    kept = sorted((tmp_path / "cache").rglob("*.safetensors"))
    for file in kept[::2]:
        file.unlink()
    same(run("second"), first)


def test_depth_pictures_survive_encoder_and_decoder_in_shape_and_range() -> None:
    vae = tiny_vae()
    picture = torch.linspace(-1, 1, 64 * 96).view(1, 1, 64, 96)
    with torch.no_grad():
        back = decode(vae, encode(vae, picture.expand(-1, 3, -1, -1)))
    assert back.shape == picture.shape
    assert back.abs().max() <= 1


# ---- what goes wrong ----


def test_a_loss_that_is_not_a_number_stops_the_run_with_step_files_and_last_good_state_named(
    sets: Path, tmp_path: Path
) -> None:
    wild = {"lr": 1e-3, "warmup": 0, "decay_steps": 3, "floor": 1e36, "clip": 0}
    often = {"state_every": 1, "checkpoint_every": 1}
    table = configuration(sets, tmp_path / "run", optimizer=wild, run=often)
    launched = Launched(write_toml(tmp_path / "c.toml", table))
    assert launched.finish() == 1
    steps = losses(tmp_path / "run")
    failed = len(steps)
    assert 0 < failed < 6
    assert f"Step {failed}: " in launched.said
    assert "= nan" in launched.said or "= inf" in launched.said
    names = first_names(sets, table, failed)
    assert all(name in launched.said for name in names)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert f"{tmp_path / 'run' / 'state.pt'}" in launched.said
    assert f"{tmp_path / 'run'}/small-{state['step']:06d}.safetensors" in launched.said
    assert state["step"] < failed  # its loss was finite when it was kept
    assert all(tensor.isfinite().all() for tensor in state["unet"].values())


def first_names(sets: Path, table: dict, step: int) -> list[str]:
    mixture = sources.mixture(config.parse(table), start=step)
    synthetic, real = next(iter(loader(mixture)))
    return [*synthetic.names, *real.names]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_at_checkpoint_time_loses_no_earlier_one_and_the_run_goes_on_after(
    sets: Path, whole: Path, small_disk: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    run.mkdir()
    toml = write_toml(
        tmp_path / "c.toml", configuration(sets, run, compute={"gradient_checkpointing": False})
    )
    launch(toml, "--max-steps", "2")
    before = (run / "state.pt").read_bytes()
    kept = sorted(p.name for p in run.glob("*.safetensors"))
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(small_disk).free - 300_000)))
    launched = Launched(toml)
    assert launched.finish() == 1
    assert "No space left on device" in launched.said
    assert "Traceback" not in launched.said
    assert (run / "state.pt").read_bytes() == before
    assert sorted(p.name for p in run.glob("*.safetensors")) == kept
    assert not list(run.glob(".*.tmp"))
    moved = shutil.move(run, tmp_path / "roomy")
    launch(write_toml(tmp_path / "c.toml", configuration(sets, Path(moved))))
    same(Path(moved), whole)


def test_two_runs_in_one_folder_are_refused(sets: Path, tmp_path: Path) -> None:
    toml = write_toml(tmp_path / "c.toml", configuration(sets, tmp_path / "run"))
    with only_run_in(tmp_path / "run"):
        launched = Launched(toml)
        assert launched.finish() == 1
    assert "Another run is using" in launched.said
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["lock"]


def test_a_run_goes_on_only_with_the_configuration_it_began_with(whole: Path, sets: Path) -> None:
    other = config.plain(config.parse(configuration(sets, whole, optimizer={"lr": 2e-3})))
    with pytest.raises(run_folder.TrainingError, match=r"optimizer\.lr was 0\.001 and is 0\.002"):
        run_folder.load_state(whole, other)
    longer = configuration(sets, whole, run={"steps": 99}, data={"workers": 3, "per_device": 2})
    assert run_folder.load_state(whole, config.plain(config.parse(longer))).step == 6


def test_a_finished_run_is_not_repeated(whole: Path, sets: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.glob("*.safetensors")}
    launched = launch(whole / "c.toml")
    assert "small-000006.safetensors" in launched.said
    assert {p: p.stat().st_mtime_ns for p in whole.glob("*.safetensors")} == before
    assert sorted(losses(whole)) == list(range(6))


def test_a_dry_run_says_shapes_memory_and_cost_and_writes_nothing(sets: Path, tmp_path: Path) -> None:
    table = configuration(
        sets, tmp_path / "run", compute={"cache": str(tmp_path / "cache"), "precision": "bf16"}
    )
    toml = write_toml(tmp_path / "c.toml", table)
    said = launch(toml, "--dry-run").said
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]
    for word in ("vkitti: 48 samples", "photos 4×3×64×", "TFLOP", "peak:", "not for commercial use"):
        assert word in said, word


def test_a_teacher_s_labels_in_another_space_are_refused(sets: Path, tmp_path: Path) -> None:
    launched = Launched(
        write_toml(tmp_path / "c.toml", configuration(sets, tmp_path / "run", data={"space": "disparity"}))
    )
    assert launched.finish() == 1
    assert "holds labels in depth, and data.space is disparity" in launched.said


# ---- base weights ----


def test_a_base_that_is_nowhere_is_an_error_with_the_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for model in ("nobody/nothing-at-all", "not/here/either", "missing.safetensors"):
        with pytest.raises(CheckpointError, match="hf download OWNER/NAME"):
            read_base(config.Base(model=model))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sd.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(
        CheckpointError, match=r"is a pickle.*python -m training\.weights\.from_pickle .*sd\.ckpt"
    ):
        read_base(config.Base(model=str(tmp_path / "sd.ckpt")))


def test_our_own_checkpoint_is_a_base(whole: Path) -> None:
    path = whole / "small-000006.safetensors"
    found = read_base(config.Base(model=str(path)))
    assert torch.equal(found.unet.conv_in.weight, load_file(path)["unet.conv_in.weight"])
    assert found.prompt_embedding.shape == (1, 2, 12)


def test_a_checkpoint_with_a_light_vae_is_no_base(tmp_path: Path) -> None:
    path = tmp_path / "light.safetensors"
    save_checkpoint(path, dataclasses.replace(tiny_checkpoint(), vae=new_light_vae(width=8)))
    with pytest.raises(CheckpointError, match="carries a light VAE"):
        read_base(config.Base(model=str(path)))


def test_an_ldm_file_is_a_base_with_configuration_and_prompt_beside_it(tmp_path: Path) -> None:
    made = tiny_checkpoint()
    path = tmp_path / "sd.safetensors"
    write_layout(path, "ldm", made)
    made.unet.save_config(tmp_path / "configs" / "unet")
    made.vae.save_config(tmp_path / "configs" / "vae")
    prompt = str((tmp_path / "sd.safetensors.prompt.safetensors").rename(tmp_path / "prompt.safetensors"))
    with pytest.raises(CheckpointError, match=r"how many attention heads.*base\.config"):
        read_base(config.Base(model=str(path), prompt_embedding=prompt))
    with pytest.raises(CheckpointError, match=r"base\.text"):
        read_base(config.Base(model=str(path), config=str(tmp_path / "configs")))
    found = read_base(config.Base(model=str(path), config=str(tmp_path / "configs"), prompt_embedding=prompt))
    for part in ("unet", "vae"):
        expected = getattr(made, part).state_dict()
        for name, tensor in getattr(found, part).state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_a_folder_with_a_text_encoder_brings_its_prompt_and_its_noise_schedule(
    sets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sd"
    for part in ("unet", "vae"):
        shutil.copytree(sets / "base" / part, folder / part)
    shape = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": 3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    encoder = CLIPTextModel(CLIPTextConfig(**shape, **tokens)).eval()
    encoder.save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    DDPMScheduler(beta_schedule="linear", num_train_timesteps=10).save_pretrained(folder / "scheduler")
    found = read_base(config.Base(model=str(folder)))
    with torch.no_grad():
        torch.testing.assert_close(found.prompt_embedding, encoder(torch.tensor([[0, 1]]))[0])
    assert Diffusion.of(found.scheduler_config).steps == 10


def test_an_embedding_of_another_model_is_refused(sets: Path, tmp_path: Path) -> None:
    save_file({"prompt": torch.zeros(1, 2, 13)}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match=r"\[1, tokens, 12\]"):
        read_base(config.Base(model=str(sets / "base"), prompt_embedding=str(tmp_path / "p.safetensors")))

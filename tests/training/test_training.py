"""Promises of the training: losses by value, resuming without a trace, nothing half-done left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fiffdepth_rt.engine_dir.manifest import BUNDLED
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.space import Space
from tests.support.tiny_models import tiny_checkpoint, tiny_prior
from training import distill_vae, loop, objective
from training.data import procedural
from training.data.images import PhotoFolder
from training.data.labels import Header, LabelStore
from training.errors import TrainingError
from training.labelling.steps import header_for, label_photos
from training.labelling.teachers import open_teacher
from training.log_depth.backbone import WEIGHTS_LICENCE
from training.loop import autocast
from training.nano import __main__ as nano_command
from training.nano import stages
from training.nano.networks import depth_tensor
from training.run_folder import only_run_in
from training.scene_teacher import __main__ as scene_teacher_command
from training.scene_teacher import stages as scene_teacher
from training.weights.errors import CheckpointError
from training.weights.ours import load_checkpoint, save_checkpoint


def test_mae_is_the_mean_absolute_difference() -> None:
    target, predicted = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0], [4.0, 4.0]]]])
    assert objective.mae(target, predicted).item() == pytest.approx(3 / 4)


def test_gradient_matching_sums_neighbour_differences_of_the_residual() -> None:
    target, predicted = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0], [4.0, 4.0]]]])
    # residual [[0, 2], [-1, 0]]: along x |2| + |1|, along y |-1| + |-2|, over 4 pixels
    assert objective.gradient_matching(target, predicted).item() == pytest.approx(6 / 4)


def test_gradient_matching_does_not_see_a_constant_offset() -> None:
    target = torch.rand(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert objective.gradient_matching(target, target + 3).item() == pytest.approx(0, abs=1e-6)
    assert objective.depth_loss(target, target + 3).item() == pytest.approx(3, abs=1e-5)


def _line_fit(noise: float = 0.1) -> tuple[torch.nn.Module, Callable[[int], torch.Tensor]]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)

    def loss_at(step: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(step)
        x = torch.randn(16, 3, generator=g)
        return (module(x) - x.sum(1, keepdim=True) + noise * torch.randn(16, 1, generator=g)).square().mean()

    return module, loss_at


SCHEDULE = loop.Schedule(steps=60, lr=0.05, warmup=5, save_every=10)


def _fit(place: Path, module: torch.nn.Module, loss_at: Callable[[int], torch.Tensor]) -> None:
    loop.fit(module, loss_at, SCHEDULE, place, validate=lambda m: {})


def test_training_brings_the_loss_down(tmp_path: Path) -> None:
    module, loss_at = _line_fit()
    before = loss_at(1000).item()
    _fit(tmp_path, module, loss_at)
    assert loss_at(1000).item() < before / 10


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    module, loss_at = _line_fit()
    _fit(tmp_path / "whole", module, loss_at)

    class KilledError(Exception):
        pass

    module, loss_at = _line_fit()

    def dies_at_37(step: int) -> torch.Tensor:
        if step == 37:
            raise KilledError
        return loss_at(step)

    with pytest.raises(KilledError):
        _fit(tmp_path / "broken", module, dies_at_37)
    assert not (tmp_path / "broken" / loop.WEIGHTS).exists()

    module, loss_at = _line_fit()
    seen = []
    _fit(tmp_path / "broken", module, lambda step: (seen.append(step), loss_at(step))[1])
    assert seen[0] == 30  # the last state before the kill
    whole, broken = (load_file(tmp_path / d / loop.WEIGHTS) for d in ("whole", "broken"))
    for name, value in whole.items():
        assert torch.equal(value, broken[name])


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    module, loss_at = _line_fit()
    _fit(tmp_path, module, loss_at)

    def never(step: int) -> torch.Tensor:
        raise AssertionError(f"step {step} ran again")

    _fit(tmp_path, module, never)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    module, loss_at = _line_fit()
    with pytest.raises(TrainingError, match="nan at step 25"):
        _fit(tmp_path, module, lambda step: loss_at(step) * (float("nan") if step == 25 else 1))
    assert torch.load(tmp_path / loop.STATE, weights_only=True)["step"] == 20


def test_what_another_version_s_networks_left_is_not_gone_on_with(tmp_path: Path) -> None:
    module, loss_at = _line_fit()
    _fit(tmp_path / "done", module, loss_at)
    other = torch.nn.Linear(4, 1)
    with pytest.raises(TrainingError, match=r"done was trained by another version, .* name another run\.$"):
        loop.load_stage(other, tmp_path / "done")
    with pytest.raises(TrainingError, match="nan at step 25"):
        _fit(tmp_path / "begun", module, lambda step: loss_at(step) * (float("nan") if step == 25 else 1))
    with pytest.raises(TrainingError, match="begun was trained by another version"):
        _fit(tmp_path / "begun", other, loss_at)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    module, loss_at = _line_fit()
    with only_run_in(tmp_path), pytest.raises(TrainingError, match="Another run"):
        _fit(tmp_path, module, loss_at)


def test_a_disk_that_fills_up_at_save_time_costs_no_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, loss_at = _line_fit()
    written = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: _full_from(30, written, state, file))
    with pytest.raises(OutputError, match="No space left"):
        _fit(tmp_path, module, loss_at)
    assert torch.load(tmp_path / loop.STATE, weights_only=True)["step"] == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "log.jsonl", loop.STATE]


def _full_from(step: int, save: Callable[..., None], state: dict[str, object], file: BinaryIO) -> None:
    if state["step"] == step:
        file.write(b"half a state")
        raise OSError(28, "No space left on device")
    save(state, file)


def test_the_learning_rate_warms_up_then_falls_to_one_percent() -> None:
    s = loop.Schedule(steps=1000, lr=1e-3, warmup=100)
    assert s.lr_at(0) == pytest.approx(1e-5)
    assert s.lr_at(99) == pytest.approx(1e-3)
    assert s.lr_at(550) == pytest.approx(1e-3 * (0.01 + 0.99 / 2))
    assert s.lr_at(1000) == pytest.approx(1e-5)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of the bundled model's training, as small as it gets."""
    run = tmp_path_factory.mktemp("run")
    settings = dataclasses.replace(stages.TINY, scenes=4, held_out=4, world_scenes=4, per_shard=4)
    photos = run / "photos"
    photos.mkdir()
    for i in range(3):
        texture = np.random.default_rng(i).integers(0, 256, (150, 200 + 8 * i, 3), np.uint8)
        Image.fromarray(texture).save(photos / f"{i}.jpg")
    real = PhotoFolder(photos, licence="noise, free of rights")
    teacher = open_teacher(str(BUNDLED))
    labels = LabelStore.create(run / "labels", header_for(teacher, space=Space.DEPTH, dtype="uint16"))
    label_photos(real, teacher, labels)
    stages.train(run, settings, photos=real, labels=labels, prior=tiny_prior(run))
    return run


def test_nano_and_its_teacher_learn_from_the_same_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make nano` links the teacher's into nano's run: of another source they would be refused there, and of
    another count more would be rendered into them."""
    ours, teachers = stages.Settings(), scene_teacher.Settings()
    for name in ("scenes", "held_out", "per_shard"):
        assert getattr(ours, name) == getattr(teachers, name), name
    Image.fromarray(np.zeros((99, 99, 3), np.uint8)).save(tmp_path / "photo.png")
    licences, threads = [], torch.get_num_threads()
    for command in (nano_command, scene_teacher_command):
        monkeypatch.setattr(command, "train", lambda *_, photos, **__: licences.append(photos.licence))
        words = ["all", "--run", str(tmp_path / "run"), "--photos", str(tmp_path)]
        monkeypatch.setattr("sys.argv", ["training", *words])
        command.main()
    torch.set_num_threads(threads)
    assert licences[0] == licences[1]


def _labelled(folder: Path, *, space: Space, labelled: bool) -> tuple[PhotoFolder, LabelStore]:
    photos = folder / "photos"
    photos.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(photos / "a.png")
    header = Header(space=space, dtype="uint16", teacher="someone", licence="CC0-1.0")
    labels = LabelStore.create(folder / "labels", header)
    if labelled:
        labels.write("a.png", np.zeros((64, 64), np.float32), np.ones((64, 64), bool))
    return PhotoFolder(photos), labels


@pytest.mark.parametrize(
    ("space", "labelled", "sentence"),
    [
        (Space.DISPARITY, True, "are in disparity"),
        (Space.DEPTH, False, "holds no label of any photo"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(
    tmp_path: Path, space: Space, labelled: bool, sentence: str
) -> None:
    photos, labels = _labelled(tmp_path, space=space, labelled=labelled)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=sentence):
        stages.train(run, stages.TINY, photos=photos, labels=labels, start=BUNDLED)
    assert not run.exists()


@pytest.mark.parametrize(
    ("until", "prior", "sentence"),
    [
        ("all", None, "all needs a prior for the light encoder: --prior"),
        ("fine", None, "fine needs a prior for the light encoder: --prior"),
        ("all", BUNDLED / "golden.npz", "golden.npz is no checkpoint of training.scene_teacher"),
        ("scenes", Path("missing"), "missing is no checkpoint of training.scene_teacher"),
    ],
)
def test_a_prior_that_is_missing_or_none_is_said_before_anything_is_rendered(
    tmp_path: Path, until: str, prior: Path | None, sentence: str
) -> None:
    with pytest.raises(TrainingError, match=sentence):
        stages.train(tmp_path / "run", stages.TINY, prior=prior, until=until)
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_light_vae_of_its_own_is_not_started_anew(tmp_path: Path) -> None:
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / distill_vae.RESULT).touch()
    for begun in (False, True):
        if begun:
            _touch(tmp_path / "start" / loop.WEIGHTS)
        with pytest.raises(TrainingError, match="of its own"):
            stages.train(tmp_path, stages.TINY, start=BUNDLED)


def test_a_started_run_has_no_stages_before_the_light_vae(tmp_path: Path) -> None:
    """It went on to the end instead, whatever stage was asked for."""
    with pytest.raises(TrainingError, match="joint is one of the stages"):
        stages.train(tmp_path / "new", stages.TINY, start=BUNDLED, until="joint")
    _touch(tmp_path / "begun" / "start" / loop.WEIGHTS)
    with pytest.raises(TrainingError, match="vae is one of the stages"):
        stages.train(tmp_path / "begun", stages.TINY, until="vae")


def _touch(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.touch()


def test_an_early_stage_of_a_run_that_has_gone_farther_is_no_reason_to_go_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path / "start" / loop.WEIGHTS)
    _touch(tmp_path / "light" / distill_vae.RESULT)
    done: list[str] = []
    monkeypatch.setattr(stages, "_up_to_joint", lambda run, settings, until: done.append(until))
    monkeypatch.setattr(procedural, "render_all", lambda *_, **__: None)
    assert stages.train(tmp_path, stages.TINY, until="joint") is None
    assert done == ["joint"] and sorted(p.name for p in tmp_path.iterdir()) == ["light", "start"]


def test_two_priors_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="hold a prior of their own: give --start or --prior"):
        stages.train(tmp_path / "run", stages.TINY, start=BUNDLED, prior=tiny_prior(tmp_path))


def test_a_stage_that_was_begun_with_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    stages._record(tmp_path / "method", ["3 photos"])
    stages._record(tmp_path / "method", ["3 photos"])
    with pytest.raises(TrainingError, match="was begun with"):
        stages._record(tmp_path / "method", ["4 photos"])


@pytest.mark.soak
def test_the_card_names_the_real_half_and_its_teacher(tiny_run: Path) -> None:
    sources = load_checkpoint(tiny_run / "nano.safetensors").info.data_sources
    at = sources.index(f"the backbone in its encoder: {WEIGHTS_LICENCE}")
    assert sources[at + 1].endswith("by scenes: Apache-2.0; textures from photos: CC0-1.0")
    assert sources[at + 2 :] == (
        "3 photos without depth: noise, free of rights",
        "their labels by nano: Apache-2.0",
    )


@pytest.mark.soak
def test_a_finished_run_keeps_its_card_whoever_repeats_it(tiny_run: Path) -> None:
    """Without photos and labels the card named neither. A run without a record takes what is given."""
    before = load_checkpoint(tiny_run / "nano.safetensors").info.data_sources
    settings = dataclasses.replace(stages.TINY, scenes=4, held_out=4, world_scenes=4, per_shard=4)
    photos = PhotoFolder(tiny_run / "photos", licence="noise, free of rights")
    stages.train(tiny_run, settings, photos=photos)
    assert load_checkpoint(tiny_run / "nano.safetensors").info.data_sources == before
    (tiny_run / "method" / stages.SOURCES).unlink()
    stages.train(tiny_run, settings, photos=photos, labels=LabelStore(tiny_run / "labels"))
    assert load_checkpoint(tiny_run / "nano.safetensors").info.data_sources == before


@pytest.mark.soak
def test_the_whole_training_ends_in_a_checkpoint_that_computes_what_was_trained(tiny_run: Path) -> None:
    read = load_checkpoint(tiny_run / "nano.safetensors")
    assert (read.info.recipe, read.info.output_space) == ("fiffdepth", "depth")
    fine, trained = (stages.model_after(tiny_run, stage) for stage in ("fine", "method"))
    for before, after in zip(fine.parameters(), trained.parameters(), strict=True):
        after.data = (before.data + after.data) / 2
    photos = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        shipped = stages.DepthModel(read.vae, read.unet).eval()(photos)
        full = trained.eval()(photos)
    assert read.vae.config.scaling_factor == trained.vae.config.scaling_factor
    assert full.std() > 1e-3
    torch.testing.assert_close(shipped, full, atol=0.02, rtol=0)  # weights rounded to half


@pytest.mark.soak
def test_shipped_weights_are_exact_in_half_precision(tiny_run: Path) -> None:
    for name, tensor in load_file(tiny_run / "nano.safetensors").items():
        assert torch.equal(tensor.half().float(), tensor), name


@pytest.mark.soak
def test_latents_are_the_vae_s_and_mirrored_ones_follow(tiny_run: Path) -> None:
    vae = stages.load_vae(tiny_run)
    (latents,) = stages.cache_latents(tiny_run, "scenes", vae)
    shard = procedural.open_shard(procedural.shard_paths(tiny_run / "scenes")[0])
    with torch.no_grad(), autocast():
        expected = vae.encode(depth_tensor(shard.depth).flip(-1)).latent_dist.mode()
    expected = (expected * vae.config.scaling_factor).half().numpy()
    assert latents.depth.shape == (8, 4, 24, 32)
    np.testing.assert_allclose(latents.depth[4:], expected, atol=5e-2)


def test_a_checkpoint_of_another_kind_or_with_other_tensors_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_checkpoint(good, tiny_checkpoint())
    foreign, cut, short = (tmp_path / f"{n}.safetensors" for n in ("foreign", "cut", "short"))
    save_file({"a": torch.zeros(1)}, foreign)
    cut.write_bytes(good.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="format"):
        load_checkpoint(foreign)
    with pytest.raises(CheckpointError, match="Copy or download it again"):
        load_checkpoint(cut)
    tensors = load_file(good)
    tensors.pop("unet.conv_in.bias")
    tensors["unet.extra"] = torch.zeros(1)
    tensors["vae.quant_conv.bias"] = torch.zeros(3)
    save_file(tensors, short, metadata=_metadata(good))
    with pytest.raises(CheckpointError, match=r"1 missing: conv_in.bias; 1 surplus: extra"):
        load_checkpoint(short)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        return dict(f.metadata())

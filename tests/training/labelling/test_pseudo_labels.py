"""Promises about teachers and about the command that labels photos with them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from transformers import DepthAnythingForDepthEstimation

import fiffdepth_rt
from tests.support.listed_photos import Listed
from tests.support.tiny_models import shake, tiny_checkpoint
from tests.support.tiny_teachers import SIZE, save_depth_anything
from training.data.labels import Header, LabelStore
from training.data.samples import DataError, Photo
from training.data.teacher_maps import to_picture
from training.labelling import steps as labelling
from training.labelling import teachers
from training.labelling.command import main
from training.labelling.teachers import TeacherError, network_hw, open_teacher
from training.weights.light import new_light_vae
from training.weights.ours import save_checkpoint
from training.weights.random import centre_depth

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="session")
def da(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_anything(tmp_path_factory.mktemp("weights") / "tiny-da")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A photo with structure at every scale."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (2, 5, 13):
        coarse = rng.uniform(0, 255, (cells, cells, 3))
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 3
    return np.clip(total, 0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos of three sizes, in two folders; one of them is junk, another one too long."""
    folder = tmp_path / "photos"
    sizes = {"a.png": (140, 180), "b.png": (140, 180), "trip/c.png": (180, 140), "d.jpg": (140, 180)}
    for i, (name, (height, width)) in enumerate({**sizes, "trip/d.png": (150, 150)}.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(height, width, i)).save(folder / name)
    (folder / "junk.jpg").write_bytes(b"junk")
    Image.fromarray(noise(130, 1300)).save(folder / "long.png")
    return folder


GOOD = ["a.png", "b.png", "d.jpg", "trip/c.png", "trip/d.png"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in (*words, "--workers", 0)])


def stored(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "lock"
    }


# ---- teachers ----


@pytest.mark.parametrize(
    ("photo_hw", "expected"),
    [
        ((480, 640), (518, 686)),  # 690.67 -> 49.3 patches -> 49
        ((400, 600), (518, 784)),  # 777 -> 55.5 patches -> 56 (to even); transformers' own rule: 345 × 518
        ((3024, 4032), (518, 686)),
        ((640, 480), (686, 518)),
        ((100, 100), (518, 518)),
        ((518, 520), (518, 518)),
    ],
)
def test_the_shorter_side_becomes_518_and_both_are_multiples_of_14(
    photo_hw: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert network_hw(photo_hw, shorter=518, multiple=14) == expected


def test_a_photo_of_extreme_shape_is_refused_by_its_size() -> None:
    with pytest.raises(ValueError, match="10×61 px is longer than 6 times"):
        network_hw((61, 10), shorter=518, multiple=14)


def test_depth_anything_sees_what_its_authors_say_and_answers_at_the_photos_size(da: Path) -> None:
    """Against plain calls: bicubic to 56 × 70, ImageNet's mean and deviation, back bilinearly."""
    photo = noise(140, 180)
    teacher = open_teacher(str(da))
    small = np.asarray(Image.fromarray(photo).resize((70, SIZE), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(((small / 255 - MEAN) / STD).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        raw = DepthAnythingForDepthEstimation.from_pretrained(da).eval()(pixels).predicted_depth[0].numpy()
    rows = np.linspace(0, raw.shape[0] - 1, 140)
    columns = np.linspace(0, raw.shape[1] - 1, 180)
    wide = np.stack([np.interp(columns, np.arange(raw.shape[1]), row) for row in raw])
    expected = np.stack([np.interp(rows, np.arange(raw.shape[0]), column) for column in wide.T]).T
    (values,) = teacher([photo])
    assert (values.shape, values.dtype, teacher.output) == ((140, 180), np.float32, "disparity")
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_photos_of_any_sizes_come_back_in_order_as_if_alone(da: Path) -> None:
    teacher = open_teacher(str(da))
    mixed = [noise(140, 180, 1), noise(180, 140, 2), noise(140, 180, 3), noise(90, 100, 4)]
    together = teacher(mixed)
    for photo, values in zip(mixed, together, strict=True):
        assert values.shape == photo.shape[:2]
        np.testing.assert_allclose(values, teacher([photo])[0], atol=1e-5)


def test_a_metric_depth_anything_puts_out_metres(tmp_path: Path) -> None:
    folder = save_depth_anything(tmp_path / "da", depth_estimation_type="metric", max_depth=20)
    teacher = open_teacher(str(folder))
    (metres,) = teacher([noise(140, 180)])
    assert (teacher.output, float(metres.min()) >= 0, float(metres.max()) <= 20) == ("metres", True, True)


def test_an_engine_directory_answers_as_the_runtime_does(toy_dir: Path, depth: fiffdepth_rt.Depth) -> None:
    photo = noise(140, 180)
    engine = open_teacher(str(toy_dir))
    assert (engine.name, engine.output) == (depth.manifest.name, "depth")
    assert engine.licence == depth.manifest.licence.model
    np.testing.assert_array_equal(engine([photo])[0], depth.infer(photo))
    assert engine.bucket((100, 300)) == engine.bucket((200, 600)) != engine.bucket((300, 100))


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_a_checkpoint_of_ours_answers_as_the_journey_says(tmp_path: Path, space: str) -> None:
    ours = tiny_checkpoint(output_space=space)
    save_checkpoint(tmp_path / "ours.safetensors", ours)
    teacher = open_teacher(str(tmp_path / "ours.safetensors"))
    photo = noise(128, 128)  # the grid itself: no resizing on the way
    with torch.no_grad():
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 127.5 - 1
        scale = ours.vae.config.scaling_factor
        latent = ours.vae.encode(image).latent_dist.mean * scale
        depth_latent = ours.unet(latent, torch.tensor(0), ours.prompt_embedding).sample
        expected = (ours.vae.decode(depth_latent / scale).sample.mean(1)[0].clip(-1, 1) + 1) / 2
    (values,) = teacher([photo])
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)
    assert (teacher.output, teacher.licence, teacher.name) == (space, "CC0-1.0", "tiny")
    assert teacher([noise(100, 140)])[0].shape == (100, 140)


def test_a_checkpoint_with_a_light_vae_is_a_teacher_too(tmp_path: Path) -> None:
    torch.manual_seed(3)
    light = centre_depth(shake(new_light_vae(width=8)))
    ours = dataclasses.replace(tiny_checkpoint(), vae=light)
    save_checkpoint(tmp_path / "light.safetensors", ours)
    photo = noise(128, 128)
    with torch.no_grad():
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 127.5 - 1
        depth_latent = ours.unet(light.encode(image).latents, torch.tensor(0), ours.prompt_embedding).sample
        expected = (light.decode(depth_latent).sample.mean(1)[0].clip(-1, 1) + 1) / 2
    (values,) = open_teacher(str(tmp_path / "light.safetensors"))([photo])
    assert values.std() > 0.01
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)


def test_weights_that_cannot_be_had_are_an_error_with_the_ways_to_get_them() -> None:
    with pytest.raises(TeacherError) as caught:
        open_teacher("depth-anything/Depth-Anything-V2-Small-hf")
    for way in ("hf download", "--teacher dav2-small", "HF_ENDPOINT", "HF_HOME"):
        assert way in str(caught.value)


def test_a_folder_that_is_no_teacher_says_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"no teacher .*manifest\.json.*config\.json"):
        open_teacher(str(tmp_path))


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_depth_anything(tmp_path / "da")
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.conv3.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=r"not hold all weights.*head\.conv3\.weight"):
        open_teacher(str(folder))


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    folder = save_depth_anything(tmp_path / "da")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(TeacherError, match="no teacher"):
        open_teacher(str(folder))


# ---- licences ----


@pytest.mark.parametrize(
    ("name", "card", "given", "expected"),
    [
        ("x", "license: cc-by-sa-4.0", None, "cc-by-sa-4.0"),
        ("x", "license: other\nlicense_name: some-terms", None, "some-terms"),
        ("x", None, "CC0-1.0", "CC0-1.0"),
        ("Depth-Anything-V2-Large-hf", None, None, "CC-BY-NC-4.0"),
        ("Depth-Anything-V2-Base-hf", None, None, "CC-BY-NC-4.0"),
        ("Depth-Anything-V2-Metric-Indoor-Large-hf", None, None, "CC-BY-NC-4.0"),
        ("depth_anything_v2_vitl", None, None, "CC-BY-NC-4.0"),
        ("Depth-Anything-V2-Small-hf", None, None, "Apache-2.0"),
    ],
)
def test_the_licence_comes_from_the_card_or_the_name_or_the_user(
    tmp_path: Path, name: str, card: str | None, given: str | None, expected: str
) -> None:
    folder = save_depth_anything(tmp_path / name, card=card)
    assert open_teacher(str(folder), licence=given).licence == expected


def test_without_a_licence_there_are_no_labels(tmp_path: Path) -> None:
    folder = save_depth_anything(tmp_path / "x", card=None)
    with pytest.raises(TeacherError, match=r"Nothing says the licence of x.*--licence"):
        open_teacher(str(folder))


def test_a_given_licence_that_contradicts_the_known_one_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_depth_anything(tmp_path / "Depth-Anything-V2-Large-hf", card=None)
    with caplog.at_level(logging.WARNING, "training"):
        assert open_teacher(str(folder), licence="Apache-2.0").licence == "Apache-2.0"
    assert "is under CC-BY-NC-4.0 as far as is known" in caplog.text


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [("CC-BY-NC-4.0", True), ("cc-by-nc-sa-3.0", True), ("Apache-2.0", False), ("Non-Commercial", True)],
)
def test_a_licence_against_commerce_is_known_by_its_name(licence: str, forbids: bool) -> None:
    assert teachers.forbids_commerce(licence) is forbids


# ---- batches ----


class Plain:
    """A teacher of a few lines: disparity is the red channel plus one; buckets are sizes."""

    name, licence, output = "plain", "CC0-1.0", "disparity"

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        return photo_hw

    def __call__(self, photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        self.batches.append([photo.shape[:2] for photo in photos])
        return [photo[..., 0].astype(np.float32) + 1 for photo in photos]


def test_photos_of_one_size_run_together() -> None:
    teacher = Plain()
    sizes = [(20, 30), (30, 20)] * 6 + [(20, 30)]
    mixed = [Photo(photo=noise(h, w, i), name=str(i)) for i, (h, w) in enumerate(sizes)]
    groups = list(labelling.in_batches(mixed, teacher, 4, []))
    assert [len(group) for group in groups] == [4, 4, 3, 2]
    assert all(len({photo.photo.shape for photo in group}) == 1 for group in groups)
    assert sorted(photo.name for group in groups for photo in group) == sorted(map(str, range(13)))


def test_photos_of_many_sizes_do_not_pile_up() -> None:
    held = most = 0

    def arriving():  # type: ignore[no-untyped-def]
        nonlocal held, most
        for i in range(200):
            held, most = held + 1, max(most, held + 1)
            yield Photo(photo=np.zeros((20 + i % 50, 20, 3), np.uint8), name=str(i))

    names = []
    for group in labelling.in_batches(arriving(), Plain(), 4, []):
        held -= len(group)
        names += [photo.name for photo in group]
    assert (most, sorted(names)) == (labelling.PENDING_BATCHES * 4, sorted(map(str, range(200))))


def test_any_network_can_be_wrapped_as_a_teacher(tmp_path: Path) -> None:
    pictures: dict[str, NDArray[np.uint8] | None] = {str(i): noise(20, 30, i) for i in range(5)}
    pictures |= {"bad": None, "flat": np.full((20, 30, 3), 7, np.uint8), "last": noise(30, 20)}
    teacher = Plain()
    store = LabelStore.create(tmp_path, labelling.header_for(teacher, space="depth", dtype="float16"))
    tally = labelling.label_photos(Listed(pictures), teacher, store, batch=4)
    assert (tally.made, tally.there, sorted(one.name for one in tally.skipped)) == (6, 0, ["bad", "flat"])
    assert teacher.batches == [[(20, 30)] * 4, [(20, 30)] * 2, [(30, 20)]]
    values = pictures["3"]
    assert values is not None
    expected, _ = to_picture(
        values[..., 0].astype(np.float32) + 1, output="disparity", space="depth", name="3"
    )
    np.testing.assert_allclose(store.picture("3")[0], expected, atol=3e-4)
    assert [row["name"] for row in json.loads((tmp_path / "skipped.json").read_text())] == ["bad", "flat"]


def test_a_space_that_the_teacher_cannot_give_is_refused_before_any_work(tmp_path: Path) -> None:
    teacher = Plain()
    teacher.output = "depth"
    with pytest.raises(DataError, match="up to scale and shift"):
        labelling.header_for(teacher, space="disparity", dtype="uint16")
    store = LabelStore.create(
        tmp_path, Header(space="disparity", dtype="uint16", teacher="x", licence="x", made={})
    )
    with pytest.raises(DataError, match="up to scale and shift"):
        labelling.label_photos(Listed({"a": noise(20, 30)}), teacher, store)
    assert teacher.batches == []


# ---- the command ----


@pytest.mark.parametrize(("space", "dtype"), [("depth", "uint16"), ("disparity", "float16")])
def test_the_command_labels_every_photo_and_lists_what_it_skipped(
    photos: Path, da: Path, tmp_path: Path, space: str, dtype: str
) -> None:
    result = run("--images", photos, "--teacher", da, "--space", space, "--dtype", dtype, "--batch", 2)
    assert result.exit_code == 0, result.output
    assert "5 labels made, 0 were there, 2 skipped" in result.stdout
    store = LabelStore(tmp_path / "photos-labels")
    assert list(store) == GOOD
    assert (store.header.space, store.header.dtype, store.header.teacher) == (space, dtype, "tiny-da")
    assert (store.header.licence, store.header.made["teacher_output"]) == ("cc0-1.0", "disparity")
    assert ("floor_quantile" in store.header.made) == (space == "depth")
    skipped = {row["name"]: row["reason"] for row in json.loads((store.folder / "skipped.json").read_text())}
    assert set(skipped) == {"junk.jpg", "long.png"}
    assert "not a photo" in skipped["junk.jpg"] and "1300×130 px is longer" in skipped["long.png"]
    teacher = open_teacher(str(da))
    for name in GOOD:
        photo = np.asarray(Image.open(photos / name).convert("RGB"))
        expected, _ = to_picture(teacher([photo])[0], output="disparity", space=space, name=name)  # type: ignore[arg-type]
        picture, valid = store.picture(name)
        assert valid.all()
        np.testing.assert_allclose(picture, expected, atol=2e-3)


def test_finished_labels_are_not_made_again(photos: Path, da: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    words = ("--images", photos, "--teacher", da, "--out", out)
    assert run(*words).exit_code == 0
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "a.png.png").unlink()
    result = run(*words)
    assert "1 labels made, 4 were there, 2 skipped" in result.stdout
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert {path.name for path in after if after[path] != first[path]} == {"a.png.png"}


def test_shards_are_labelled_under_the_names_of_their_photos(photos: Path, da: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, names in enumerate((["a.png", "b.png"], ["d.jpg"])):
        with tarfile.open(shards / f"{number:05d}.tar", "w") as tar:
            for name in names:
                tar.add(photos / name, arcname=f"00{name}")
    for images in (shards, f"{shards}/{{00000..00001}}.tar"):
        out = tmp_path / f"labels-{len(str(images))}"
        assert run("--images", images, "--teacher", da, "--out", out).exit_code == 0
        assert list(LabelStore(out)) == ["00000.tar/00a", "00000.tar/00b", "00001.tar/00d"]
    (expected,) = open_teacher(str(da))([np.asarray(Image.open(photos / "d.jpg"))])
    picture, _ = to_picture(expected, output="disparity", space="depth", name="d")
    np.testing.assert_allclose(LabelStore(out).picture("00001.tar/00d")[0], picture, atol=1e-4)


def test_two_kinds_of_labels_do_not_mix_in_a_folder(photos: Path, da: Path, tmp_path: Path) -> None:
    words = ("--images", photos, "--teacher", da, "--out", tmp_path / "labels")
    assert run(*words).exit_code == 0
    before = stored(tmp_path / "labels")
    result = run(*words, "--space", "disparity")
    assert (result.exit_code, "labels of another kind (space='depth' there" in result.stderr) == (1, True)
    assert stored(tmp_path / "labels") == before


def test_labels_are_never_put_among_the_photos(photos: Path, da: Path) -> None:
    result = run("--images", photos, "--teacher", da, "--out", photos / "labels")
    assert (result.exit_code, "labels would be taken for photos" in result.stderr) == (1, True)
    assert not (photos / "labels").exists()


def test_a_folder_without_one_good_photo_is_a_failure(da: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "junk.jpg").write_bytes(b"junk")
    result = run("--images", tmp_path / "photos", "--teacher", da)
    assert (result.exit_code, "No photo could be used" in result.stderr) == (1, True)


def test_labels_of_a_non_commercial_teacher_come_with_a_warning(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_depth_anything(tmp_path / "Depth-Anything-V2-Large-hf", card=None)
    with caplog.at_level(logging.INFO, "training"):
        assert run("--images", photos, "--teacher", folder).exit_code == 0
    (warning,) = (r for r in caplog.records if r.levelno == logging.WARNING and "Skipped" not in r.msg)
    assert "is under CC-BY-NC-4.0. Its labels inherit that" in warning.getMessage()
    assert LabelStore(tmp_path / "photos-labels").header.licence == "CC-BY-NC-4.0"


@pytest.mark.soak
def test_a_killed_run_leaves_no_half_file_and_goes_on(photos: Path, da: Path, tmp_path: Path) -> None:
    for i in range(20):
        Image.fromarray(noise(300, 400, 100 + i)).save(photos / f"more{i:02d}.png")
    out = tmp_path / "labels"
    words = ["--images", str(photos), "--teacher", str(da), "--out", str(out), "--batch", "2"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "training.labelling", *words, "--workers", "0"],
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and len(list(out.rglob("*.png"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = LabelStore(out)
    done = list(store)
    assert 3 <= len(done) < 25
    for name in done:
        assert store.picture(name)[1].all()
    again = run(*words)
    assert f"{25 - len(done)} labels made, {len(done)} were there, 2 skipped" in again.stdout
    assert list(store) == sorted([*GOOD, *(f"more{i:02d}.png" for i in range(20))])
    assert not list(out.rglob("*.tmp"))

"""Distilling a light VAE: losses by value, views that depend on the step alone, a file that export takes."""

from __future__ import annotations

import dataclasses
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks import light_vae as report
from benchmarks.evaluation.frame_scores import score
from benchmarks.sets import scenes
from export.model import Given, read_checkpoint
from tests.support.tiny_models import tiny_checkpoint
from training import distill_vae, loop
from training.config import Base
from training.data.depth_maps import DepthFolder, depth_pictures
from training.data.samples import DataError, SampleError
from training.distill_vae import (
    DistillationSettings,
    Views,
    cut_depth,
    cut_photo,
    decoder_loss,
    distil,
    edge_error,
)
from training.errors import TrainingError
from training.weights.light import (
    HALVES,
    LightInfo,
    load_light_vae,
    new_light_vae,
    read_light_half,
    save_light_vae,
)
from training.weights.ours import load_checkpoint, save_checkpoint

STEPS = loop.Schedule(steps=6, lr=2e-3, warmup=1, save_every=3)
SETTINGS = DistillationSettings(
    width=8, encoder_blocks=(0, 0, 1, 1), decoder_blocks=(1, 0, 0, 0), crop=64, batch=2, encoder=STEPS,
    decoder=STEPS,
)  # fmt: skip


# --- losses ---


def row(*values):
    return torch.tensor([[[[*values]]]], dtype=torch.float32)


def test_the_edge_term_is_the_error_on_both_sides_of_an_edge_and_nowhere_else():
    target, predicted = row(0.0, 0.0, 0.5, 0.55, 0.55), row(1.0, 0.2, 0.1, 0.55, 9.0)
    everywhere = torch.ones_like(target, dtype=torch.bool)
    # the one step above 0.1 lies between the second and the third pixel
    assert edge_error(target, predicted, everywhere).item() == pytest.approx((0.2 + 0.4) / 2)
    holes = everywhere.clone()
    holes[..., 2] = False
    assert edge_error(target, predicted, holes).item() == 0.0
    upright = target.transpose(2, 3), predicted.transpose(2, 3), everywhere.transpose(2, 3)
    assert edge_error(*upright).item() == pytest.approx(0.3)


def test_the_decoders_loss_is_l1_gradients_and_edges_in_their_weights():
    target, predicted = row(0.0, 0.0, 0.5, 0.5), row(0.1, 0.0, 0.3, 0.5)
    everywhere = torch.ones_like(target, dtype=torch.bool)
    settings = DistillationSettings(gradient_weight=0.5, gradient_scales=1, edge_weight=0.25)
    l1, gradients, edges = 0.3 / 4, (0.1 + 0.2 + 0.2) / 4, 0.2 / 2
    wanted = l1 + 0.5 * gradients + 0.25 * edges
    assert decoder_loss(target, predicted, everywhere, settings).item() == pytest.approx(wanted)


# --- data ---


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """photos/: pictures of several sizes; depth/: millimetres with holes, and an array in metres."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    (folder / "depth").mkdir()
    for i, (h, w) in enumerate([(130, 150), (200, 140), (140, 300)]):
        photo = cv2.GaussianBlur(rng.integers(0, 256, (h, w, 3), dtype=np.uint8), (0, 0), 4)
        cv2.imwrite(str(folder / "photos" / f"{i}.png"), photo)
        depth = np.linspace(800, 4000, w)[None].repeat(h, 0)
        depth[h // 4 : h // 2, w // 4 : w // 2] = 500
        depth[:5, :5] = 0
        cv2.imwrite(str(folder / "depth" / f"{i}.png"), depth.astype(np.uint16))
    np.save(folder / "depth" / "metres.npy", np.linspace(1, 9, 96 * 96, dtype=np.float64).reshape(96, 96))
    return folder


def test_depth_maps_become_pictures_with_their_holes_marked(data):
    maps = DepthFolder(data / "depth", space="depth")
    sample = maps[0]
    assert (len(maps), sample.name, sample.picture.shape) == (4, "0.png", (130, 150))
    assert not sample.valid[:5, :5].any() and sample.valid.sum() == 130 * 150 - 25
    assert (sample.picture[40, 50], sample.picture[100, 149]) == (-1.0, 1.0)  # near, far
    disparity = DepthFolder(data / "depth", space="disparity")[3].picture
    assert (disparity[0, 0], disparity[-1, -1]) == (1.0, -1.0)


def test_a_damaged_or_foreign_depth_map_is_named(tmp_path):
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "photo.npy", np.zeros((4, 4, 3)))
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((8, 8), np.uint8))
    header = b"\x93NUMPY\x01\x00\x28\x23"  # of 9000 bytes
    (tmp_path / "header.npy").write_bytes(header + b"(" * 9000)
    with (tmp_path / "zip.npy").open("wb") as file:
        np.savez(file, depth=np.zeros((8, 8)))
    maps = DepthFolder(tmp_path, space="depth")
    reasons = ["cut.npy.*damaged", "grey.png.*not 16-bit grey", "header.npy.*damaged", "photo.npy.*not H×W"]
    for index, said in enumerate([*reasons, "zip.npy.*no array"]):
        with pytest.raises(SampleError, match=said):
            maps[index]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no depth maps"):
        depth_pictures(tmp_path / "empty", space="depth")


def test_a_view_of_depth_keeps_its_values_and_its_holes():
    picture = np.arange(100 * 80, dtype=np.float32).reshape(100, 80)
    valid = picture % 7 != 0
    view, seen = cut_depth(picture, valid, 64, np.random.default_rng(1))
    assert view.shape == seen.shape == (64, 64)
    assert np.isin(view, picture).all() and np.array_equal(seen, view % 7 != 0)


def test_a_view_of_a_photo_is_never_enlarged_unless_the_photo_is_too_small():
    sides = [cut_photo(np.zeros((h, w, 3), np.uint8), 64, np.random.default_rng(2)).shape for h, w in
             [(64, 64), (50, 90), (300, 400)]]  # fmt: skip
    assert sides == [(64, 64, 3)] * 3


class Numbers:
    """A dataset whose samples are their own index; some of them are damaged."""

    def __init__(self, count, damaged=()):
        self.count, self.damaged = count, damaged

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.damaged:
            raise SampleError(str(index), "damaged")
        return index


def test_a_steps_views_depend_on_the_step_alone_and_never_meet_the_held_out_ones():
    views = Views([Numbers(120), Numbers(80)], lambda sample, rng: sample, seed=3)
    batches = [views.batch(step, 8) for step in range(60)]
    again = Views([Numbers(120), Numbers(80)], lambda sample, rng: sample, seed=3)
    assert again.batch(31, 8) == batches[31] and batches[30] != batches[31]
    held_out = set(views.held_out())
    assert held_out <= {0, 50, 100, 30}  # 30 of the second set is the 150th of all
    first = Views([Numbers(200)], lambda sample, rng: sample, seed=3)
    seen = {i for step in range(200) for i in first.batch(step, 8)}
    assert seen.isdisjoint({0, 50, 100, 150}) and len(seen) > 190


def test_damaged_samples_are_logged_and_replaced_until_nothing_is_left(caplog):
    half = Views([Numbers(100, damaged=range(50))], lambda sample, rng: sample, seed=0)
    assert all(sample >= 50 for sample in half.batch(0, 20))
    assert "left out: " in caplog.text
    with pytest.raises(DataError, match="20 samples in a row"):
        Views([Numbers(10, damaged=range(10))], lambda sample, rng: sample, seed=0).batch(0, 1)


# --- the whole way ---


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "tiny.safetensors"
    save_checkpoint(path, tiny_checkpoint())
    return path


def run(teacher, data, place, settings=SETTINGS, **kwargs):
    arguments = {"photos": [str(data / "photos")], "depth": [str(data / "depth")], **kwargs}
    return distil(Base(model=str(teacher)), run=place, settings=settings, **arguments)


@pytest.fixture(scope="module")
def distilled(teacher, data, tmp_path_factory):
    return run(teacher, data, tmp_path_factory.mktemp("light"))


def test_the_result_says_where_it_comes_from_and_export_takes_it(distilled, teacher):
    vae, halves, info = load_light_vae(distilled)
    assert halves == ("encoder", "decoder") and vae.config.out_channels == 1
    assert (info.name, info.teacher, info.licence) == ("light-tiny", "tiny", "CC0-1.0")
    assert info.data_sources[0] == "random numbers" and any("photos" in s for s in info.data_sources)
    assert info.training["width"] == 8 and info.training["encoder"]["steps"] == 6
    model = read_checkpoint(teacher, Given(encoder=distilled, decoder=distilled))
    assert read_light_half(distilled, "decoder").name == "light-tiny"
    latent = model.vae_of("encoder").encode(torch.zeros(1, 3, 64, 64)).latents
    assert latent.shape == (1, 4, 8, 8)


def test_both_halves_come_closer_to_their_teachers(distilled):
    for half in HALVES:
        log = [json.loads(line) for line in (distilled.parent / half / "log.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in log] == [3, 6]
        assert log[-1]["held_out_mae"] < log[0]["held_out_mae"]


def test_a_killed_run_goes_on_to_the_same_weights(teacher, data, distilled, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    real, calls = distill_vae.decoder_loss, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KilledError
        return real(*args)

    monkeypatch.setattr(distill_vae, "decoder_loss", dies)
    with pytest.raises(KilledError):
        run(teacher, data, tmp_path)
    assert not (tmp_path / distill_vae.RESULT).exists()
    ours, theirs = load_file(run(teacher, data, tmp_path)), load_file(distilled)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_run_does_not_go_on_with_other_settings(teacher, data, distilled):
    with pytest.raises(TrainingError, match="begun with other settings"):
        run(teacher, data, distilled.parent, settings=DistillationSettings(width=16))


def test_depth_maps_alone_make_a_decoder_alone(teacher, data, tmp_path):
    path = run(teacher, data, tmp_path, photos=[])
    assert load_light_vae(path)[1] == ("decoder",)
    with safe_open(path, framework="pt") as f:
        assert all(key.startswith("decoder.") for key in f.keys())  # noqa: SIM118 (not a dict)


def test_what_cannot_be_learnt_from_is_said_before_any_work(teacher, data, tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match="Nothing to learn from"):
        run(teacher, data, tmp_path, photos=[], depth=[])
    with pytest.raises(DataError, match="multiple of 64"):
        run(teacher, data, tmp_path, settings=DistillationSettings(crop=100))
    words = [
        "distill_vae",
        str(teacher),
        "--photos",
        str(tmp_path / "nowhere"),
        "--run",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=r"Error: .*nowhere is not a folder"):
        distill_vae.main()


# --- the report ---


def test_the_report_scores_the_teacher_against_itself_as_no_loss(teacher):
    """A light VAE that answers as the full one does scores as the full one does, in every row."""
    model = load_checkpoint(teacher)
    chain = report.Chain(model, None)
    full_encode, full_decode = chain.encode, chain.decode
    chain.encode = lambda pixels, light: full_encode(pixels, light=False)
    chain.decode = lambda latent, light: full_decode(latent, light=False)
    held_out = list(scenes.frames(2))
    rows = report.evaluate(chain, ("encoder", "decoder"), held_out, pictures=None)
    table = {(r.question, r.halves): (r.abs_rel, r.delta1, r.f1) for r in rows}
    assert set(table) == {
        *(("depth map", h) for h in ("none", "decoder")),
        *(("photo", h) for h in ("none", "encoder", "decoder", "both")),
    }
    assert table["depth map", "none"] == table["depth map", "decoder"]
    assert len({table["photo", h] for h in ("none", "encoder", "decoder", "both")}) == 1
    assert all(r.frames == 2 for r in rows)


def test_perfect_depth_scores_perfectly():
    frame = next(scenes.frames(1))
    near = frame.depth_m < frame.farthest_m
    prediction = np.clip(frame.depth_m / frame.depth_m[near].max(), 0, 1)
    abs_rel, delta1, f1 = score(prediction, frame, space="depth")
    assert abs_rel < 1e-5 and delta1 == 1.0 and f1 > 0.99


def test_a_light_decoder_of_a_half_file_is_reported_alone(teacher, tmp_path):
    torch.manual_seed(0)
    light = new_light_vae(width=8, encoder_blocks=(0, 0, 0, 0), decoder_blocks=(0, 0, 0, 0)).eval()
    rows = report.evaluate(
        report.Chain(load_checkpoint(teacher), light), ("decoder",), list(scenes.frames(1)), pictures=tmp_path
    )
    assert [r.halves for r in rows if r.question == "photo"] == ["none", "decoder"]
    assert len(report.markdown(rows).splitlines()) == 2 + 4
    strip = cv2.imread(str(next(tmp_path.glob("*.png"))))
    assert strip.shape == (192, 256 * 6, 3)


def test_the_report_refuses_a_checkpoint_that_has_no_full_vae(tmp_path):
    vae = new_light_vae(width=8)
    save_checkpoint(tmp_path / "ckpt.safetensors", dataclasses.replace(tiny_checkpoint(), vae=vae))
    info = LightInfo(name="l", teacher="t", licence="CC0-1.0", data_sources=(), training={})
    save_light_vae(tmp_path / "light.safetensors", vae, HALVES, info)
    words = [str(tmp_path / "ckpt.safetensors"), str(tmp_path / "light.safetensors")]
    result = CliRunner().invoke(report.main, words)
    assert result.exit_code == 1 and "carries a light VAE" in result.stderr

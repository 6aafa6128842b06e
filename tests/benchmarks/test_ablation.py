"""Promises of the paper in miniature (benchmarks/ablation.py): its worlds, its verdicts, and its path."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from benchmarks import ablation
from benchmarks.evaluation.boundary_metrics import boundary_f1
from benchmarks.miniature.prior import Size, decode, depth_latent, new_network, photo_latent
from benchmarks.miniature.runs import VARIANTS, score_pictures
from benchmarks.miniature.scenes import PHOTOGRAPHED, RENDERED, draw
from benchmarks.miniature.worlds import make_worlds, teacher
from training.objective import Method


def test_a_seed_has_one_geometry_under_every_look_and_photos_that_differ() -> None:
    rendered, photographed = draw(7, RENDERED), draw(7, PHOTOGRAPHED)
    assert np.array_equal(rendered.depth_m, photographed.depth_m)
    assert np.abs(rendered.photo.astype(int) - photographed.photo).mean() > 20
    assert np.array_equal(draw(7, RENDERED).photo, rendered.photo)
    assert not np.array_equal(draw(8, RENDERED).depth_m, rendered.depth_m)


def test_depth_has_sharp_edges_and_things_one_pixel_wide() -> None:
    thin = 0
    for seed in range(20):
        near = np.log(draw(seed, RENDERED).depth_m)
        inside = near[:, 1:-1]
        thin += np.count_nonzero((near[:, :-2] - inside > 0.1) & (near[:, 2:] - inside > 0.1))
    assert thin > 100


def test_light_tells_depth_more_in_the_rendered_world() -> None:
    def correlation(look) -> float:
        scenes = [draw(seed, look) for seed in range(20)]
        pairs = [(s.photo.max(axis=-1).ravel().astype(float), 1 / s.depth_m.ravel()) for s in scenes]
        return float(np.mean([np.corrcoef(light, near)[0, 1] for light, near in pairs]))

    assert correlation(RENDERED) > correlation(PHOTOGRAPHED) + 0.1


def test_the_teacher_is_about_right_and_has_no_edges() -> None:
    depths = np.stack([draw(seed, PHOTOGRAPHED).depth_m for seed in range(10)])
    pictures = np.stack([teacher(d, seed) for seed, d in enumerate(depths)])
    figures = score_pictures(pictures, depths)
    assert figures.abs_rel < 0.15
    assert figures.delta1 > 0.8
    assert figures.boundary_f1 < 0.2


def test_training_never_sees_the_true_depth_of_the_real_world(tmp_path) -> None:
    worlds = make_worlds(tmp_path, images=3, test_images=1)
    assert not hasattr(worlds.real, "depth_m") and not hasattr(worlds.prior, "pictures")
    with np.load(tmp_path / "real-3.npz") as stored:
        assert set(stored.files) == {"photos", "pictures"}
    again = make_worlds(tmp_path, images=3, test_images=1)
    assert np.array_equal(worlds.real.pictures, again.real.pictures)


def test_the_latent_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    assert np.abs(decode(depth_latent(pictures)) - pictures).max() < 1e-6
    photos = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert photo_latent(photos).shape == (2, 12, 16, 16)
    grey = np.repeat(photos[..., :1], 3, axis=-1)
    assert np.abs(decode(photo_latent(grey)) - (grey[..., 0] / 127.5 - 1)).max() < 1e-6


def test_every_variant_starts_from_the_same_weights() -> None:
    a, b = (new_network(Size(channels=(16, 16, 32))).state_dict() for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_variants_are_the_papers() -> None:
    assert VARIANTS["full method"] == Method()
    assert VARIANTS["no L_k"] == Method(trajectory="off")
    assert VARIANTS["L_k on image latents"] == Method(trajectory="image")
    assert VARIANTS["no teacher"] == Method(teacher="off")
    assert VARIANTS["teacher on d0"] == Method(teacher="d0")
    assert set(ablation.CLAIMS) == set(VARIANTS) - {"full method"}


def _records(full: list[float], other: list[float]) -> list[dict]:
    """Runs whose figures are all the same, but AbsRel of the full method and of "no teacher"."""
    given = {"full method": full, "no teacher": other}
    return [
        {
            "variant": variant,
            "seed": seed,
            "real": {"abs_rel": given.get(variant, full)[seed], "delta1": 0.5, "boundary_f1": 0.5},
        }
        for variant in VARIANTS
        for seed in range(len(full))
    ]


@pytest.mark.parametrize(
    ("full", "other", "text"),
    [
        ([0.10, 0.11, 0.12], [0.20, 0.21, 0.22], "worse, as claimed"),
        ([0.20, 0.21, 0.22], [0.10, 0.11, 0.12], "BETTER, against the claim"),
        ([0.10, 0.11, 0.12], [0.105, 0.115, 0.125], "no evidence"),  # all agree, but within the spread
        ([0.10, 0.10, 0.10], [0.20, 0.30, 0.09], "no evidence"),  # one seed disagrees
        ([0.10], [0.50], "no evidence"),  # a single seed shows nothing
    ],
)
def test_a_difference_counts_where_it_exceeds_the_spread_and_every_seed_agrees(full, other, text) -> None:
    verdict = next(v for v in ablation.verdicts(_records(full, other)) if v.variant == "no teacher")
    assert verdict.text == text
    assert verdict.worse_by == pytest.approx(np.mean(other) - np.mean(full))


@pytest.mark.soak
def test_the_whole_path_runs_reports_and_is_skipped_the_second_time(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    ablation.main(["--out", str(out), "--tiny", "--seed", "5"], standalone_mode=False)
    first = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert {r["variant"] for r in report["runs"]} == set(VARIANTS)
    assert all(0 <= r["real"]["boundary_f1"] <= 1 for r in report["runs"])
    grid = cv2.imread(str(out / "report.png"))
    assert grid.shape == (24 + 2 * 4 * 32, (3 + len(VARIANTS)) * 4 * 32, 3)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    assert len(times) == 1 + len(VARIANTS)
    ablation.main(["--out", str(out), "--tiny", "--seed", "5"], standalone_mode=False)
    assert capsys.readouterr().out == first
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}


def test_two_plans_are_not_mixed_in_one_folder(tmp_path) -> None:
    ablation.keep_to(ablation.TINY, tmp_path)
    ablation.keep_to(ablation.TINY, tmp_path)
    with pytest.raises(SystemExit, match="another --out"):
        ablation.keep_to(ablation.AblationSettings(), tmp_path)


def test_scores_of_the_truth_are_perfect_but_for_the_clipped_quantiles() -> None:
    depths = np.stack([draw(seed, RENDERED).depth_m for seed in range(4)])
    figures = score_pictures(-1 + depths / 6, depths)
    assert figures.abs_rel < 1e-6
    assert figures.delta1 == 1
    assert figures.boundary_f1 == pytest.approx(np.mean([boundary_f1(d, d) for d in depths]), abs=1e-3)

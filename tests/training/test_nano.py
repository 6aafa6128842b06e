"""Promises of the bundled model: what ships is what was trained, and it sees more than "lower is nearer"."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.evaluation.methods import ramp
from fiffdepth_rt import Depth
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import BUNDLED, STAGES
from fiffdepth_rt.files import read_photo
from tests.support.paths import ROOT
from training import metrics
from training.data.procedural import HELD_OUT_SEED
from training.scenes.render import render_scene

COFFEE = ROOT / "examples" / "coffee.jpg"


@pytest.fixture(scope="module")
def nano() -> Iterator[Depth]:
    with Depth() as depth:
        yield depth


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(BUNDLED / "golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("image", ["photo0", "photo1", "noise"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_agrees_with_the_torch_reference(
    nano: Depth, golden: dict[str, np.ndarray], stage: str, image: str
) -> None:
    value, expected = golden[f"{image}/{stage}/input"], golden[f"{image}/{stage}/output"]
    run = nano.backend.run_unclipped if stage == "decoder" else lambda v: nano.backend.run_stage(stage, v)
    found = run(value)
    assert expected.std() > 0.05  # a constant would agree for nothing
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("image", ["photo0", "photo1", "noise"])
def test_the_whole_journey_agrees_with_the_torch_reference(
    nano: Depth, golden: dict[str, np.ndarray], image: str
) -> None:
    expected = (np.clip(golden[f"{image}/decoder/output"], -1, 1) + 1) / 2
    found = nano.backend.run(golden[f"{image}/encoder/input"])
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_the_manifest_says_where_nano_comes_from_and_that_it_passed() -> None:
    manifest = open_engine_dir(BUNDLED).manifest
    assert (manifest.name, manifest.recipe, manifest.output_space) == ("nano", "fiffdepth", "depth")
    assert manifest.licence.model == "Apache-2.0"
    assert any("procedural scenes" in source for source in manifest.licence.data_sources)
    assert {row["stage"] for row in manifest.parity} == {*STAGES, "chain"}
    assert all(row["passed"] for row in manifest.parity)
    assert manifest.provenance["parity_accepted"] is False


def test_no_shipped_file_names_a_machine_s_folders() -> None:
    for path in BUNDLED.rglob("*"):
        if path.is_file() and path.suffix != ".npz":  # deflated pixels may spell anything
            found = re.findall(rb"/(?:home|root|tmp|usr|work|Users|opt|mnt|var)/[\w.-]+", path.read_bytes())
            assert not found, (path.name, found[:3])


def test_a_photo_gets_a_depth_map_of_its_own_size_that_uses_the_range(nano: Depth) -> None:
    photo = read_photo(COFFEE)
    depth = nano.infer(photo).values
    assert depth.shape == photo.shape[:2]
    assert depth.dtype == np.float32
    assert depth.max() - depth.min() > 0.3


def test_on_scenes_it_never_saw_nano_is_far_better_than_the_ramp(nano: Depth) -> None:
    errors, by_ramp = [], []
    for i in range(24):
        scene = render_scene(HELD_OUT_SEED + 10**6 + i, (192, 256))
        truth = np.where(scene.depth_m < 80, scene.depth_m, 0)
        errors.append(metrics.score(nano.infer(scene.photo).values, truth, space="depth", max_m=80).abs_rel)
        by_ramp.append(metrics.score(ramp(truth.shape), truth, space="depth", max_m=80).abs_rel)
    assert np.mean(errors) < 0.75 * np.mean(by_ramp)


def test_a_mirrored_photo_gets_about_the_mirrored_depth(nano: Depth) -> None:
    photo = read_photo(COFFEE)
    straight, mirrored = nano.infer(photo).values, nano.infer(photo[:, ::-1]).values[:, ::-1]
    assert np.abs(straight - mirrored).mean() < 0.1

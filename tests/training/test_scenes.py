"""Promises of the procedural scenes: same seed same picture, and depth that geometry agrees with."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data import procedural
from training.scenes import layouts, render
from training.scenes.meshes import PRIMITIVES, Builder, frame
from training.scenes.objects import Maker

SMALL = (48, 64)


def _scene(builder: Builder, **camera: float) -> layouts.Scene:
    maker = Maker(np.random.default_rng(0))
    maker.material()
    pose = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "focal": 0.8} | camera
    return layouts.Scene(
        kind="test",
        triangles=builder.triangles(),
        materials=maker.materials,
        lights=[layouts.Light(position=(0, 0, 1), colour=(1, 1, 1), sun=True)],
        ambient=(0.5, 0.5, 0.5),
        sky=((1, 1, 1), (0.5, 0.5, 1)),
        camera=layouts.Camera(eye=(0, 0, 0), **pose),
    )


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    a, again, b = (render.render_scene(seed, SMALL) for seed in (5, 5, 6))
    assert np.array_equal(a.photo, again.photo)
    assert np.array_equal(a.depth_m, again.depth_m)
    assert not np.array_equal(a.photo, b.photo)


def test_another_process_renders_the_same_picture() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(render.render_scene, (11, SMALL))
    here = render.render_scene(11, SMALL)
    assert np.array_equal(there.photo, here.photo)
    assert np.array_equal(there.depth_m, here.depth_m)


def test_a_wall_has_the_same_depth_along_the_optical_axis_everywhere() -> None:
    builder = Builder()
    builder.add("box", frame(at=(0, 3.5, 0), scale=(50, 1, 50)), 0)
    depth, _ = render._trace(_scene(builder), SMALL)
    np.testing.assert_allclose(depth, 3.0, rtol=1e-5)


def test_a_floor_is_as_deep_as_the_rays_say() -> None:
    builder = Builder()
    builder.add("box", frame(at=(0, 0, -1.5), scale=(500, 500, 1)), 0)  # top face 1 m below the eye
    depth, _ = render._trace(_scene(builder), SMALL)
    h, w = SMALL
    below = (np.arange(h) - (h - 1) / 2) / (0.8 * w)
    expected = np.where(below > 1 / layouts.FAR_M, 1 / np.where(below > 0, below, 1), layouts.FAR_M)
    np.testing.assert_allclose(depth, np.broadcast_to(expected[:, None], SMALL), rtol=1e-4)


def test_a_sphere_is_nearest_in_its_middle() -> None:
    builder = Builder()
    builder.add("sphere", frame(at=(0, 5, 0), scale=2.0), 0)
    depth, _ = render._trace(_scene(builder), (49, 65))
    assert depth[24, 32] == pytest.approx(4.0, abs=0.03)  # facets lie a little inside
    assert depth[24, 32] == pytest.approx(depth.min(), rel=1e-4)
    assert depth[0, 0] == layouts.FAR_M


def test_looking_up_brings_the_horizon_down() -> None:
    builder = Builder()
    builder.add("box", frame(at=(0, 0, -1.5), scale=(500, 500, 1)), 0)
    level, up = (render._trace(_scene(builder, pitch=p), SMALL)[0] for p in (0.0, 0.3))
    assert (up == layouts.FAR_M).sum() > (level == layouts.FAR_M).sum()


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_every_primitive_stays_within_its_unit_and_has_unit_normals(kind: str) -> None:
    builder = Builder()
    builder.add(kind, frame(), 0)
    triangles = builder.triangles()
    assert np.abs(triangles.corners).max() <= 0.5 + 1e-4
    np.testing.assert_allclose(np.linalg.norm(triangles.normals, axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_every_layout_gives_a_picture_with_relief(kind: str) -> None:
    for seed in range(3):
        scene = layouts.LAYOUTS[kind][1](np.random.default_rng(seed))
        depth, hits = render._trace(scene, SMALL)
        linear = render._shade(scene, hits, SMALL, np.random.default_rng(seed))
        assert scene.kind == kind
        assert depth.min() > 0
        assert depth.max() <= layouts.FAR_M
        assert np.isfinite(linear).all()
        assert linear.min() >= 0


def test_photos_use_the_range_of_an_8_bit_picture() -> None:
    photos = [render.render_scene(seed, SMALL).photo for seed in range(8)]
    assert all(p.dtype == np.uint8 and p.shape == (*SMALL, 3) for p in photos)
    assert min(int(p.max()) - int(p.min()) for p in photos) > 40


def test_the_depth_picture_runs_from_near_minus_one_to_far_plus_one_with_the_sky_far() -> None:
    depth = np.linspace(1, 3, 10_000, dtype=np.float32).reshape(100, 100)
    picture = procedural.normalise(depth)
    assert picture[0, 0] == -1
    assert picture[-1, -1] == 1
    assert picture[50, 0] == pytest.approx(0.0, abs=0.02)
    with_sky = np.concatenate([depth, np.full((30, 100), layouts.FAR_M, np.float32)])
    np.testing.assert_allclose(procedural.normalise(with_sky)[:100], picture, atol=1e-6)
    assert (procedural.normalise(with_sky)[100:] == 1).all()


@pytest.mark.parametrize("depth_m", [2.0, layouts.FAR_M])
def test_a_flat_picture_and_an_empty_one_are_refused(depth_m: float) -> None:
    with pytest.raises(ValueError, match=r"flat|No surface"):
        procedural.normalise(np.full((8, 8), depth_m, np.float32))


def test_stored_depth_comes_back_to_a_sixteenth_bit() -> None:
    picture = np.linspace(-1, 1, 1001, dtype=np.float32)
    stored = np.round((picture + 1) * (65535 / 2)).astype(np.uint16)
    np.testing.assert_allclose(procedural.to_picture(stored), picture, atol=1 / 65535)


def test_the_same_seeds_at_twice_the_size_are_the_same_scenes(tmp_path: Path) -> None:
    for scale in (1, 2):
        procedural.render_all(tmp_path / str(scale), count=2, workers=1, per_shard=2, scale=scale)
    small, large = (procedural.open_shard(tmp_path / str(scale) / "00000") for scale in (1, 2))
    assert large.depth.shape == (2, 384, 512) and large.photos.shape == (2, 384, 512, 3)
    for a, b in zip(small.depth, large.depth, strict=True):
        shrunk = cv2.resize(procedural.to_picture(b), (256, 192), interpolation=cv2.INTER_AREA)
        assert np.median(np.abs(shrunk - procedural.to_picture(a))) < 0.02


def test_rendering_goes_on_where_it_was_killed_and_gives_the_same_shards(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    procedural.render_all(whole, count=4, workers=1, per_shard=2)
    procedural.render_shard(_made(broken), 1, per_shard=2, seed_base=0)
    (broken / "00000.partial-77").mkdir()  # what a killed run leaves
    (broken / "00000.partial-77" / "photos.npy").write_bytes(b"half")
    procedural.render_all(broken, count=4, workers=1, per_shard=2)
    assert [p.name for p in sorted(broken.iterdir())] == ["00000", "00001"]
    for a, b in zip(procedural.shard_paths(whole), procedural.shard_paths(broken), strict=True):
        assert np.array_equal(procedural.open_shard(a).photos, procedural.open_shard(b).photos)
        assert np.array_equal(procedural.open_shard(a).depth, procedural.open_shard(b).depth)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder

"""Promises of the procedural scenes: same seed same picture, and depth that geometry agrees with."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data import procedural
from training.data.images import PhotoFolder
from training.data.samples import DataError
from training.scenes import __main__ as contact_sheet
from training.scenes import render, scene
from training.scenes.layouts import HAND_HELD, Layout, hand_held, within_reach
from training.scenes.meshes import PRIMITIVES, Builder, frame
from training.scenes.objects import Maker
from training.scenes.textures import PhotoCrop, look_up_crop

SMALL = (48, 64)


def _scene(builder: Builder, **camera: float) -> scene.Scene:
    maker = Maker(np.random.default_rng(0))
    maker.material()
    pose = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "focal": 0.8} | camera
    return scene.Scene(
        kind="test",
        triangles=builder.triangles(),
        materials=maker.materials,
        lights=[scene.Light(position=(0, 0, 1), colour=(1, 1, 1), sun=True)],
        ambient=(0.5, 0.5, 0.5),
        sky=((1, 1, 1), (0.5, 0.5, 1)),
        camera=scene.Camera(eye=(0, 0, 0), **pose),
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
    expected = np.where(below > 1 / scene.FAR_M, 1 / np.where(below > 0, below, 1), scene.FAR_M)
    np.testing.assert_allclose(depth, np.broadcast_to(expected[:, None], SMALL), rtol=1e-4)


def test_a_sphere_is_nearest_in_its_middle() -> None:
    builder = Builder()
    builder.add("sphere", frame(at=(0, 5, 0), scale=2.0), 0)
    depth, _ = render._trace(_scene(builder), (49, 65))
    assert depth[24, 32] == pytest.approx(4.0, abs=0.03)  # facets lie a little inside
    assert depth[24, 32] == pytest.approx(depth.min(), rel=1e-4)
    assert depth[0, 0] == scene.FAR_M


def test_a_spheres_normals_lead_away_from_its_middle_between_its_corners_too() -> None:
    builder = Builder()
    builder.add("sphere", frame(at=(0, 5, 0), scale=2.0), 0)
    _, hits = render._trace(_scene(builder), (49, 65))
    outwards = hits.points - np.array([0, 5, 0])
    outwards /= np.linalg.norm(outwards, axis=-1, keepdims=True)
    angles_deg = np.degrees(np.arccos(np.clip((hits.normals * outwards).sum(-1), -1, 1)))
    assert len(angles_deg) > 300 and angles_deg.max() < 1.0


def test_looking_up_brings_the_horizon_down() -> None:
    builder = Builder()
    builder.add("box", frame(at=(0, 0, -1.5), scale=(500, 500, 1)), 0)
    level, up = (render._trace(_scene(builder, pitch=p), SMALL)[0] for p in (0.0, 0.3))
    assert (up == scene.FAR_M).sum() > (level == scene.FAR_M).sum()


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_every_primitive_stays_within_its_unit_and_has_unit_normals(kind: str) -> None:
    builder = Builder()
    builder.add(kind, frame(), 0)
    triangles = builder.triangles()
    assert np.abs(triangles.corners).max() <= 0.5 + 1e-4
    np.testing.assert_allclose(np.linalg.norm(triangles.normals, axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize("layout", [layout for _, layout in HAND_HELD.layouts], ids=lambda one: one.__name__)
def test_every_layout_gives_a_picture_with_relief(layout: Layout) -> None:
    for seed in range(3):
        made = layout(Maker(np.random.default_rng(seed)))
        depth, hits = render._trace(made, SMALL)
        linear = render._shade(made, hits, SMALL, np.random.default_rng(seed))
        assert made.kind == layout.__name__
        assert depth.min() > 0
        assert depth.max() <= scene.FAR_M
        assert np.isfinite(linear).all()
        assert linear.min() >= 0


def _hand_held(layout: Layout, count: int = 16) -> list[scene.Scene]:
    return [layout(Maker(np.random.default_rng(seed))) for seed in range(count)]


@pytest.mark.parametrize("surface", [0.7, 0.95])
@pytest.mark.parametrize("seated", [0.0, 1.0])
def test_an_edge_is_within_reach_and_the_room_goes_on_for_metres_behind_it(
    surface: float, seated: float
) -> None:
    rng = np.random.default_rng(0)
    stands = [hand_held.standpoint(rng, surface=surface, seated=seated) for _ in range(200)]
    eyes = (1.1, 1.3) if seated else (1.4, 1.7)
    assert all(eyes[0] <= one.eye <= eyes[1] for one in stands)
    assert all(0.6 <= one.edge <= 1.2 for one in stands)
    assert all(2 <= one.behind <= 5 for one in stands)
    for one in stands:  # Pythagoras: the eye above the surface, the edge ahead
        assert np.hypot(one.eye - surface, one.ahead) == pytest.approx(one.edge)
    assert np.ptp([one.edge for one in stands]) > 0.1 and np.ptp([one.behind for one in stands]) > 2.5


@pytest.mark.parametrize(
    "layout",
    [within_reach.desk, within_reach.dining, within_reach.kitchen, within_reach.living, within_reach.doorway],
    ids=lambda one: one.__name__,
)
def test_cameras_within_reach_are_phones_in_the_hands_of_people_who_sit_or_stand(layout: Layout) -> None:
    cameras = [one.camera for one in _hand_held(layout)]
    long_sides = np.degrees([2 * np.arctan(0.5 / one.focal) for one in cameras])
    rolls = np.degrees([one.roll for one in cameras])
    assert long_sides.min() >= 57 and long_sides.max() <= 70
    assert all(1.1 <= one.eye[2] <= 1.7 for one in cameras)
    assert np.abs(rolls).max() <= 15 and np.abs(rolls).max() > 5
    assert max(one.pitch for one in cameras) <= 0.05


def test_tabletops_are_seen_from_above() -> None:
    down = np.degrees([one.camera.pitch for one in _hand_held(within_reach.tabletop)])
    assert np.median(down) < -70
    assert (down < -80).any() and (down > -80).any()


def test_desks_have_something_within_reach_before_a_room_of_metres() -> None:
    depths = [render._trace(one, SMALL)[0] for one in _hand_held(within_reach.desk)]
    near, far = (np.array([np.quantile(d, q) for d in depths]) for q in (0.02, 0.98))
    assert np.median(near) < 1.2
    assert np.median(far) > 2.5


def test_some_rooms_are_lit_by_one_lamp_and_dark_elsewhere() -> None:
    rooms = _hand_held(within_reach.dining)
    dark = [one for one in rooms if max(one.ambient) < 0.12]
    assert 1 <= len(dark) <= 9
    assert all(len(one.lights) == 1 for one in dark)


def test_surfaces_show_parts_of_the_photos_in_their_colours_and_the_same_ones_again(tmp_path: Path) -> None:
    photo = tmp_path / "red.png"
    cv2.imwrite(str(photo), np.full((300, 400, 3), (10, 10, 250), np.uint8))
    crop = PhotoCrop(photo=photo, left=0.5, top=0.5, side=0.5)
    uv = np.random.default_rng(0).uniform(-9, 9, (50, 2)).astype(np.float32)
    seen = look_up_crop(crop, uv, np.zeros(50, np.float32))
    np.testing.assert_allclose(seen, np.broadcast_to([(250 / 255) ** 2.2, *[(10 / 255) ** 2.2] * 2], (50, 3)))
    with_photos, again, without = (
        render.render_scene(3, SMALL, mix=HAND_HELD, photos=photos) for photos in ([photo], [photo], [])
    )
    assert np.array_equal(with_photos.photo, again.photo)
    assert not np.array_equal(with_photos.photo, without.photo)


def test_tiles_of_a_photo_meet_without_a_seam(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp)
    crop = PhotoCrop(photo=tmp_path / "ramp.png", left=0, top=0, side=1)
    u = np.linspace(-2, 2, 2001, dtype=np.float32)
    seen = look_up_crop(crop, np.stack([u, u * 0], -1), np.zeros(len(u), np.float32))
    assert np.abs(np.diff(seen[:, 0])).max() < 0.03
    assert np.ptp(seen) > 0.95


def test_a_photo_that_cannot_be_read_leaves_a_grey_surface_and_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    crop = PhotoCrop(photo=tmp_path / "broken.jpg", left=0, top=0, side=1)
    seen = look_up_crop(crop, np.zeros((4, 2), np.float32), np.zeros(4, np.float32))
    np.testing.assert_allclose(seen, (128 / 255) ** 2.2, rtol=1e-6)
    assert "broken.jpg" in caplog.text


def test_shards_know_their_metres_and_whose_photos_they_show(tmp_path: Path) -> None:
    photos = PhotoFolder(_one_photo(tmp_path / "photos"), licence="mine")
    folder = tmp_path / "scenes"
    procedural.render_all(folder, count=2, workers=1, per_shard=2, mix=HAND_HELD, photos=photos)
    shard = procedural.open_shard(folder / "00000")
    exact = render.render_scene(0, (192, 256), mix=HAND_HELD, photos=[photos.root / photos.names[0]]).depth_m
    near, far = np.quantile(exact[exact < scene.FAR_M], [0.02, 0.98])
    found = procedural.to_metres(shard.depth[0], shard.range_m[0])
    np.testing.assert_allclose(found, np.clip(exact, near, far), rtol=1e-3)
    assert procedural.source_of(folder).photos == 1
    (scenes,) = procedural.by_shape(folder, space="depth")
    assert scenes.licence == "Apache-2.0; textures from photos: mine"
    with pytest.raises(DataError, match="another source"):
        procedural.render_all(folder, count=2, workers=1, per_shard=2)


def _one_photo(folder: Path) -> Path:
    folder.mkdir()
    cv2.imwrite(str(folder / "one.png"), np.random.default_rng(0).integers(0, 256, (140, 150, 3), np.uint8))
    return folder


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
    with_sky = np.concatenate([depth, np.full((30, 100), scene.FAR_M, np.float32)])
    np.testing.assert_allclose(procedural.normalise(with_sky)[:100], picture, atol=1e-6)
    assert (procedural.normalise(with_sky)[100:] == 1).all()


@pytest.mark.parametrize("depth_m", [2.0, scene.FAR_M])
def test_a_flat_picture_and_an_empty_one_are_refused(depth_m: float) -> None:
    with pytest.raises(ValueError, match=r"flat|No surface"):
        procedural.normalise(np.full((8, 8), depth_m, np.float32))


def test_stored_depth_comes_back_to_a_sixteenth_bit() -> None:
    picture = np.linspace(-1, 1, 1001, dtype=np.float32)
    stored = np.round((picture + 1) * (65535 / 2)).astype(np.uint16)
    np.testing.assert_allclose(procedural.to_picture(stored), picture, atol=1 / 65535)


@pytest.mark.soak
def test_the_same_seeds_at_twice_the_size_are_the_same_scenes(tmp_path: Path) -> None:
    for scale in (1, 2):
        procedural.render_all(tmp_path / str(scale), count=2, workers=1, per_shard=2, scale=scale)
    small, large = (procedural.open_shard(tmp_path / str(scale) / "00000") for scale in (1, 2))
    assert large.depth.shape == (2, 384, 512) and large.photos.shape == (2, 384, 512, 3)
    for a, b in zip(small.depth, large.depth, strict=True):
        shrunk = cv2.resize(procedural.to_picture(b), (256, 192), interpolation=cv2.INTER_AREA)
        assert np.median(np.abs(shrunk - procedural.to_picture(a))) < 0.02


@pytest.mark.soak
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


def test_a_contact_sheet_replaces_no_picture_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "sheet.png"
    picture.write_bytes(b"mine")
    for name, complaint in ((picture, "exists already"), (tmp_path / "sheet.txt", "in .jpg or .png")):
        monkeypatch.setattr(sys, "argv", ["scenes", str(name)])
        with pytest.raises(SystemExit) as stopped:
            contact_sheet.main()
        assert stopped.value.code == 2 and complaint in capsys.readouterr().err
    assert picture.read_bytes() == b"mine"
    monkeypatch.setattr(sys, "argv", ["scenes", str(picture), "--count", "6", "--overwrite"])
    contact_sheet.main()
    assert cv2.imread(str(picture)).shape == (2 * 144, 6 * 192, 3)

"""Promises of Hypersim: from the published HDF5 files to RGB, plane depth and the list of frames."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.raw_data import HYPERSIM_HW, write_hypersim_frame, write_hypersim_split
from training.data import hypersim_raw
from training.data.hypersim import Hypersim
from training.data.samples import DataError, SampleError

SCENE, CAMERA = "ai_001_001", "cam_00"


def prepared(tmp_path: Path, count: int = 2, **options: object) -> Path:
    """`count` frames of one camera, prepared."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for frame_id in range(count):
        write_hypersim_frame(raw, frame_id)
    write_hypersim_split(raw, [(SCENE, CAMERA, i, True, "train") for i in range(count)])
    hypersim_raw.prepare(raw, out, **options)
    return out


def depth_png(out: Path, frame_id: int = 0) -> np.ndarray:
    return np.asarray(Image.open(out / f"train/{SCENE}/depth_plane_{CAMERA}_fr{frame_id:04d}.png"))


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "train/filename_meta_train.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---- values ----


def test_the_ninetieth_percentile_of_the_brightness_becomes_eighty_percent_of_white() -> None:
    color = np.zeros((10, 10, 3), np.float32)
    color[..., 0] = np.arange(100).reshape(10, 10)
    rgb = hypersim_raw.tone_map(color, np.ones((10, 10)))
    p90 = np.percentile(0.3 * np.arange(100), 90)
    scale = 0.8**2.2 / p90
    for red in (0, 1, 10, 50, 90):
        expected = int(min(1, (scale * red) ** (1 / 2.2)) * 255)
        assert rgb.reshape(-1, 3)[red].tolist() == [expected, 0, 0]
    grey = np.linspace(0, 1, 100)[:, None, None].repeat(3, 2)
    at_p90 = hypersim_raw.tone_map(grey, np.ones((100, 1)))[90, 0, 0]
    assert at_p90 == pytest.approx(0.8 * 255, abs=2)


def test_pixels_that_show_nothing_take_no_part_in_the_exposure() -> None:
    color = np.full((4, 4, 3), 0.5)
    entity = np.ones((4, 4))
    alone = hypersim_raw.tone_map(color, entity)
    color[0], entity[0] = 1000, -1
    np.testing.assert_array_equal(hypersim_raw.tone_map(color, entity)[1:], alone[1:])
    assert alone[0, 0, 0] in (203, 204)  # 0.8 × 255 = 204, truncated on one side of it or the other


def test_a_frame_without_anything_keeps_its_scale_and_a_dark_one_is_black() -> None:
    color = np.full((2, 2, 3), 0.25)
    assert hypersim_raw.tone_map(color, np.full((2, 2), -1))[0, 0, 0] == int(0.25 ** (1 / 2.2) * 255)
    assert (hypersim_raw.tone_map(color * 1e-4, np.ones((2, 2))) == 0).all()


def test_distance_becomes_plane_depth_with_the_focal_length_of_hypersim() -> None:
    cosine = hypersim_raw.pinhole(768, 1024)
    x, y = 1023 - 511.5, 0 - 383.5
    assert cosine[0, 1023] == pytest.approx(886.81 / math.sqrt(x * x + y * y + 886.81**2), abs=1e-12)
    assert cosine.max() == pytest.approx(1, abs=1e-6)
    wall = hypersim_raw.to_millimetres(5 / cosine, np.ones((768, 1024)), cosine)
    assert set(np.unique(wall)) <= {4999, 5000}  # a wall is flat again


def test_a_scenes_own_camera_agrees_with_the_common_one_where_it_is_the_common_one() -> None:
    tangent = math.tan(math.pi / 6)
    common = np.diag([tangent, tangent * 768 / 1024, -1])
    np.testing.assert_allclose(
        hypersim_raw.scene_camera(768, 1024, common), hypersim_raw.pinhole(768, 1024), atol=1e-6
    )


def test_a_shifted_camera_sees_its_axis_off_the_middle() -> None:
    shifted = np.array([[0.5, 0, 0.25], [0, 0.4, 0], [0, 0, -1]])
    cosine = hypersim_raw.scene_camera(96, 128, shifted)
    _, column = np.unravel_index(cosine.argmax(), cosine.shape)
    assert column == pytest.approx((1 - 0.5) / 2 * 128, abs=1)  # 0.5 u + 0.25 = 0 at u = -0.5


def test_depth_beyond_what_sixteen_bits_hold_is_clipped_and_never_wraps() -> None:
    distance_m = np.array([[1.0, 65.534, 65.536, 70.0, 131.08, 1e6]])
    millimetres = hypersim_raw.to_millimetres(distance_m, np.ones((1, 6)), np.ones((1, 6)))
    assert millimetres.tolist() == [[1000, 65534, 65535, 65535, 65535, 65535]]


def test_holes_nan_and_infinity_are_zero() -> None:
    distance_m = np.array([[2.0, np.nan, np.inf, -1.0, 0.0, 2.0]])
    entity = np.array([[1, 1, 1, 1, 1, -1]])
    assert hypersim_raw.to_millimetres(distance_m, entity, np.ones((1, 6))).tolist() == [
        [2000, 0, 0, 0, 0, 0]
    ]


# ---- the journey ----


def test_a_raw_frame_becomes_the_pair_that_training_sees(tmp_path: Path) -> None:
    out = prepared(tmp_path)
    dataset = Hypersim(out, space="depth")
    pair, metric = dataset[0], dataset.metric(0)
    assert len(dataset) == 2
    assert pair.name == f"{SCENE}/rgb_{CAMERA}_fr0000.png"
    assert pair.photo.shape == (*HYPERSIM_HW, 3) and pair.valid.all()
    cosine = hypersim_raw.pinhole(*HYPERSIM_HW)
    distance_m = np.linspace(1, 6, cosine.size).astype(np.float16).astype(np.float64).reshape(HYPERSIM_HW)
    np.testing.assert_allclose(metric.depth_m, distance_m * cosine, atol=1.1e-3)
    assert pair.picture.min() == -1 and pair.picture.max() == 1
    assert Hypersim(out, space="disparity")[0].picture[0, 0] == 1


def test_pixels_at_sixty_five_metres_and_beyond_are_invalid(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    far = np.full(HYPERSIM_HW, 2.0)
    far[:8], far[0, 0], far[0, 1] = 3.0, 200.0, 66.0
    entity = np.ones(HYPERSIM_HW)
    entity[5, 5] = -1
    write_hypersim_frame(raw, 0, distance_m=far, entity=entity)
    write_hypersim_split(raw, [(SCENE, CAMERA, 0, True, "train")])
    assert hypersim_raw.prepare(raw, out).used == 1
    valid = Hypersim(out, space="depth")[0].valid
    assert np.argwhere(~valid).tolist() == [[0, 0], [0, 1], [5, 5]]
    assert depth_png(out)[0, 0] == 65535 and depth_png(out)[5, 5] == 0


def test_frames_that_are_not_public_or_of_another_split_are_left_alone(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for i in range(3):
        write_hypersim_frame(raw, i)
    write_hypersim_split(
        raw,
        [
            (SCENE, CAMERA, 0, True, "train"),
            (SCENE, CAMERA, 1, False, "train"),
            (SCENE, CAMERA, 2, True, "val"),
        ],
    )
    hypersim_raw.prepare(raw, out, splits=("train",))
    assert len(Hypersim(out, space="depth")) == 1
    assert not (out / "val").exists()
    hypersim_raw.prepare(raw, out)
    assert len(Hypersim(out, space="depth", split="val")) == 1


def test_blank_flat_and_holed_frames_are_prepared_but_not_listed(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_hypersim_frame(raw, 0)
    write_hypersim_frame(raw, 1, color=np.zeros((*HYPERSIM_HW, 3)))
    write_hypersim_frame(raw, 2, distance_m=np.full(HYPERSIM_HW, 2.0))
    entity = np.ones(HYPERSIM_HW)
    entity[0] = -1  # 1/24 > 3 %
    write_hypersim_frame(raw, 3, entity=entity)
    write_hypersim_split(raw, [(SCENE, CAMERA, i, True, "train") for i in range(4)])
    done = hypersim_raw.prepare(raw, out)
    assert (done.used, done.excluded, done.damaged) == (1, {"blank": 1, "flat": 1, "invalid": 1}, ())
    assert [row["excluded"].partition(":")[0] for row in rows_of(out)] == ["", "blank", "flat", "invalid"]
    assert float(rows_of(out)[3]["invalid_ratio"]) == pytest.approx(1 / 24)


def test_damaged_and_unfinished_raw_files_are_named_and_the_rest_is_prepared(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    color = np.ones((*HYPERSIM_HW, 3))
    color[3, 3, 0] = np.nan
    entity = np.ones(HYPERSIM_HW)
    entity[2, 2] = 0
    write_hypersim_frame(raw, 0)
    write_hypersim_frame(raw, 1)
    write_hypersim_frame(raw, 2, color=color)
    write_hypersim_frame(raw, 3, entity=entity)
    cut = raw / SCENE / f"images/scene_{CAMERA}_geometry_hdf5/frame.0001.depth_meters.hdf5"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:200])
    write_hypersim_split(raw, [(SCENE, CAMERA, i, True, "train") for i in range(5)])
    done = hypersim_raw.prepare(raw, out)
    assert done.used == 1
    assert done.excluded == {"damaged": 3, "missing": 1}
    assert "frame.0001.depth_meters.hdf5" in done.damaged[0]
    assert "not finite" in done.damaged[1] and "entity 0" in done.damaged[2]
    cut.write_bytes(whole)  # downloaded again
    assert hypersim_raw.prepare(raw, out).used == 2


def test_a_stopped_run_goes_on_and_scenes_downloaded_later_are_taken_in(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_hypersim_frame(raw, 0)
    write_hypersim_frame(raw, 0, scene="ai_002_001")
    write_hypersim_split(raw, [(s, CAMERA, 0, True, "train") for s in (SCENE, "ai_002_001", "ai_003_001")])
    assert hypersim_raw.prepare(raw, out).excluded == {"missing": 1}
    finished = out / f"train/{SCENE}/depth_plane_{CAMERA}_fr0000.png"
    written_ns = finished.stat().st_mtime_ns
    (
        out / f"train/ai_002_001/frames_{CAMERA}.csv"
    ).unlink()  # as a kill in the middle of this camera leaves it
    write_hypersim_frame(raw, 0, scene="ai_003_001")
    assert hypersim_raw.prepare(raw, out).used == 3
    assert finished.stat().st_mtime_ns == written_ns
    assert [row["scene_name"] for row in rows_of(out)] == [SCENE, "ai_002_001", "ai_003_001"]


def test_two_workers_write_what_one_does(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for camera in ("cam_00", "cam_01"):
        write_hypersim_frame(raw, 0, camera=camera)
    write_hypersim_split(raw, [(SCENE, camera, 0, True, "train") for camera in ("cam_00", "cam_01")])
    for workers in (1, 2):
        hypersim_raw.prepare(raw, tmp_path / str(workers), workers=workers)
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_the_licence_is_written_beside_the_data(tmp_path: Path) -> None:
    assert json.loads((prepared(tmp_path) / "dataset.json").read_text())["licence"] == "CC BY-SA 3.0"
    assert Hypersim.licence == "CC BY-SA 3.0"


def test_a_folder_prepared_with_other_cameras_is_not_mixed(tmp_path: Path) -> None:
    out = prepared(tmp_path)
    cameras = tmp_path / "cameras.csv"
    names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    cameras.write_text(f"scene_name,{','.join(names)}\n{SCENE},0.577,0,0,0,0.433,0,0,0,-1\n")
    with pytest.raises(DataError, match="prepared in another way"):
        hypersim_raw.prepare(tmp_path / "raw", out, camera_parameters=cameras)
    assert hypersim_raw.prepare(tmp_path / "raw", tmp_path / "own", camera_parameters=cameras).used == 2
    assert not np.array_equal(depth_png(tmp_path / "own"), depth_png(out))


def test_another_list_of_frames_can_be_used(tmp_path: Path) -> None:
    out = prepared(tmp_path, count=3)
    chosen = tmp_path / "filtered.txt"
    chosen.write_text(f"{SCENE}/rgb_{CAMERA}_fr0002.png {SCENE}/depth_plane_{CAMERA}_fr0002.png\n")
    dataset = Hypersim(out, space="depth", frames=chosen)
    assert len(dataset) == 1 and dataset[0].name.endswith("fr0002.png")


@pytest.mark.parametrize("line", ["one", "/etc/passwd b.png", "../x.png b.png"])
def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path, line: str) -> None:
    chosen = tmp_path / "list.txt"
    chosen.write_text(line)
    with pytest.raises(DataError, match="line 1"):
        Hypersim(tmp_path, space="depth", frames=chosen)


def test_a_damaged_picture_is_a_sample_error_that_names_it(tmp_path: Path) -> None:
    out = prepared(tmp_path)
    path = out / f"train/{SCENE}/depth_plane_{CAMERA}_fr0000.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        SampleError, match=r"rgb_cam_00_fr0000\.png: .*depth_plane_cam_00_fr0000\.png is damaged"
    ):
        Hypersim(out, space="depth")[0]
    path.unlink()
    with pytest.raises(SampleError, match="is not there"):
        Hypersim(out, space="depth")[0]


def test_an_unprepared_folder_says_how_to_prepare_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training\.data prepare hypersim"):
        Hypersim(tmp_path, space="depth")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is not that table"):
        hypersim_raw.prepare(tmp_path, tmp_path / "out", split_csv=tmp_path / "table.csv")

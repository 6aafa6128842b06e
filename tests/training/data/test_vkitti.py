"""Promises of Virtual KITTI 2: centimetres, the benchmark's crop, 80 m, and the published lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.raw_data import write_vkitti_frame
from training.data.samples import DataError, SampleError
from training.data.vkitti import SCENES, SIZE_HW, VARIATIONS, VirtualKitti


def only(root: Path) -> VirtualKitti:
    """The frames of Scene02, clone, camera 0."""
    return VirtualKitti(root, space="depth", scenes=["Scene02"], variations=["clone"], cameras=[0])


def test_centimetres_become_metres_in_the_bottom_rows_and_middle_columns(tmp_path: Path) -> None:
    depth_cm = np.arange(375 * 1242).reshape(375, 1242) % 7000 + 100
    write_vkitti_frame(tmp_path, 0, depth_cm=depth_cm)
    metric = only(tmp_path).metric(0)
    assert metric.depth_m.shape == metric.photo.shape[:2] == SIZE_HW == (352, 1216)
    np.testing.assert_allclose(metric.depth_m, depth_cm[23:, 13:1229] / 100, rtol=1e-6)
    assert metric.name == "Scene02/clone/Camera_0/00000"


def test_the_photo_is_cut_like_the_depth(tmp_path: Path) -> None:
    photo = np.zeros((375, 1242, 3), np.uint8)
    photo[:, :, 0] = (np.arange(375) // 3)[:, None]
    photo[:, :, 1] = np.arange(1242) // 6
    write_vkitti_frame(tmp_path, 0, photo=photo)
    seen = only(tmp_path)[0].photo.astype(int)
    assert np.abs(seen[:, 600, 0] - photo[23:, 613, 0]).max() <= 4  # JPEG
    assert np.abs(seen[100, :, 1] - photo[123, 13:1229, 1]).max() <= 4


def test_eighty_metres_and_the_sky_are_invalid_and_move_no_quantile(tmp_path: Path) -> None:
    depth_cm = np.full((375, 1242), 65535)
    depth_cm[100:200], depth_cm[200] = 8000, 7999
    depth_cm[201:] = np.linspace(500, 4000, 174)[:, None]
    depth_cm[300, 100] = 0
    write_vkitti_frame(tmp_path, 0, depth_cm=depth_cm)
    pair = only(tmp_path)[0]
    rows = pair.valid.mean(axis=1)
    assert (rows[: 200 - 23] == 0).all() and (rows[200 - 23 :] > 0.99).all()
    assert not pair.valid[300 - 23, 100 - 13]
    assert (pair.picture[: 200 - 23] == 1).all()
    assert pair.picture[201 - 23, 0] == -1


def test_training_takes_four_scenes_six_variations_and_both_cameras(tmp_path: Path) -> None:
    for scene in (*SCENES["train"], *SCENES["val"]):
        for variation in (*VARIATIONS, "fog", "rain"):
            for camera in (0, 1):
                folder = tmp_path / f"vkitti_2.0.3_{{}}/{scene}/{variation}/frames/{{}}/Camera_{camera}"
                for kind, file in (("rgb", "rgb_00000.jpg"), ("depth", "depth_00000.png")):
                    place = Path(str(folder).format(kind, kind))
                    place.mkdir(parents=True)
                    (place / file).touch()
    assert len(VirtualKitti(tmp_path, space="depth")) == 4 * 6 * 2
    assert len(VirtualKitti(tmp_path, space="depth", split="val")) == 1 * 6 * 2
    assert len(VirtualKitti(tmp_path, space="depth", variations=["fog"], cameras=[1])) == 4


@pytest.mark.parametrize("names", [("rgb", "depth"), (".", ".")])
def test_other_names_of_the_two_folders_are_found(tmp_path: Path, names: tuple[str, str]) -> None:
    write_vkitti_frame(tmp_path / "as-published", 3)
    for kind, name in zip(("rgb", "depth"), names, strict=True):
        source = tmp_path / f"as-published/vkitti_2.0.3_{kind}"
        target = tmp_path / "mine" / name
        for path in [p for p in source.rglob("*") if p.is_file()]:
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.relative_to(source))
    assert only(tmp_path / "mine")[0].name == "Scene02/clone/Camera_0/00003"


def test_a_missing_half_and_a_missing_scene_say_what_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unpack vkitti_2\.0\.3_rgb\.tar"):
        VirtualKitti(tmp_path, space="depth")
    write_vkitti_frame(tmp_path, 0)
    with pytest.raises(DataError, match=r"Scene06.* is not there"):
        VirtualKitti(
            tmp_path, space="depth", scenes=["Scene02", "Scene06"], variations=["clone"], cameras=[0]
        )


def test_damaged_missing_and_foreign_files_are_sample_errors(tmp_path: Path) -> None:
    for number in range(3):
        write_vkitti_frame(tmp_path, number)
    write_vkitti_frame(tmp_path, 3, photo=np.zeros((100, 200, 3), np.uint8), depth_cm=np.ones((100, 200)))
    depths = tmp_path / "vkitti_2.0.3_depth/Scene02/clone/frames/depth/Camera_0"
    photos = tmp_path / "vkitti_2.0.3_rgb/Scene02/clone/frames/rgb/Camera_0"
    (depths / "depth_00000.png").unlink()
    (depths / "depth_00001.png").write_bytes((photos / "rgb_00001.jpg").read_bytes())
    (photos / "rgb_00002.jpg").write_bytes((photos / "rgb_00002.jpg").read_bytes()[:500])
    dataset = only(tmp_path)
    for index, reason in enumerate(["is not there", "damaged", "damaged or cut off", r"\(100, 200\)"]):
        with pytest.raises(SampleError, match=f"Scene02/clone/Camera_0/0000{index}: .*{reason}"):
            dataset[index]


def test_it_says_that_it_is_not_for_commercial_use() -> None:
    assert "NC" in VirtualKitti.licence

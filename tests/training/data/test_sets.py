"""Promises of the table of datasets: whoever names a dataset or a split gets the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.support.paths import ROOT
from tests.support.raw_data import write_hypersim_frame, write_hypersim_split, write_vkitti_frame
from tests.support.small_run import configuration
from training import config, sources
from training.config import ConfigError
from training.data import hypersim_raw, sets, vkitti
from training.data.check import check
from training.data.command import program
from training.data.samples import DataError

WITH_DEPTH = [row for row in sets.SETS if row.holds != "photos"]


def table(kind: str, split: str, where: Path | str = "place", **more: Any) -> dict[str, Any]:
    one = {"kind": kind, "path": str(where), "split": split, **more}
    return configuration(Path("set"), Path("run"), data={"synthetic": [one]})


def write(row: sets.DatasetRow, place: Path) -> Path:
    """A dataset of two samples in every split of the row; the depths go through 80 m and more, and are 0."""
    depth_m = np.linspace(0, 90, 64, dtype=np.float32)[None].repeat(48, 0)
    if row.name == "hypersim":
        rows = []
        for i, split in enumerate(row.splits):
            for frame in range(2):
                scene = f"ai_00{i + 1}_001"
                write_hypersim_frame(place / "raw", frame, scene=scene)
                rows.append((scene, "cam_00", frame, True, split))
        split_csv = write_hypersim_split(place / "raw", rows)
        hypersim_raw.prepare(place / "raw", place / "out", split_csv=split_csv, workers=1)
        return place / "out"
    if row.name == "vkitti":
        depth_cm = np.linspace(0, 65535, 1242)[None].repeat(375, 0)
        for split in row.splits:
            for scene in vkitti.SCENES[split]:
                for variation in vkitti.VARIATIONS:
                    for camera in vkitti.CAMERAS:
                        write_vkitti_frame(
                            place, 0, scene=scene, variation=variation, camera=camera, depth_cm=depth_cm
                        )
    elif row.name == "rgbd":
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"room_{i}_rgb.png")
            Image.fromarray(np.uint16(np.minimum(depth_m * 200, 65535))).save(
                place / f"room_{i}_depth_mm.png"
            )
    elif row.name == "procedural":
        (place / "00000").mkdir()
        np.save(place / "00000/photos.npy", np.full((2, 48, 64, 3), 7, np.uint8))
        np.save(place / "00000/depth.npy", np.uint16(depth_m / 90 * 65535)[None].repeat(2, 0))
    else:
        raise AssertionError(f"no layout of {row.name} here: add one")
    return place


@pytest.mark.parametrize("split", [*sets.SPLITS, "tset"])
@pytest.mark.parametrize("row", WITH_DEPTH, ids=lambda row: row.name)
def test_a_configuration_and_the_check_agree_on_the_splits_of_every_dataset(
    row: sets.DatasetRow, split: str, tmp_path: Path
) -> None:
    checked = CliRunner().invoke(program, ["check", row.name, str(tmp_path), "--split", split])
    assert checked.exit_code == 2  # the folder is empty, whatever the split
    assert not isinstance(checked.exception, KeyError)
    if split in row.splits:
        config.parse(table(row.name, split))
        with pytest.raises(DataError):
            sets.open_set(row.name, str(tmp_path), space="depth", split=split)
        return
    with pytest.raises(ConfigError, match="one of") as refused:
        config.parse(table(row.name, split))
    for known in row.splits:
        assert known in str(refused.value) and known in checked.stderr
    with pytest.raises(DataError, match=f'{row.name} has no split "{split}"'):
        sets.open_set(row.name, str(tmp_path), space="depth", split=split)


@pytest.mark.parametrize("row", WITH_DEPTH, ids=lambda row: row.name)
def test_every_row_says_of_its_dataset_what_the_opened_dataset_does(
    row: sets.DatasetRow, tmp_path: Path
) -> None:
    place = write(row, tmp_path)
    for split in row.splits:
        (dataset,) = sets.open_set(row.name, str(place), space="depth", split=split)
        assert dataset.name.partition("-")[0] == row.name
        assert row.licence in (None, dataset.licence)
        assert hasattr(dataset, "metric") == (row.holds == "metres") == (row.valid_m is not None)
        report = check(dataset)
        assert report.samples >= 2 and not report.bad
        if row.valid_m is not None:
            sample = sets.open_metric(row.name, str(place), space="depth", split=split).metric(0)
            nearest_m, farthest_m = row.valid_m
            assert sample.farthest_m == farthest_m
            inside = (sample.depth_m > nearest_m) & (sample.depth_m < farthest_m)
            np.testing.assert_array_equal(sample.valid, inside)
            assert row.name == "hypersim" or 0 < inside.mean() < 1  # the prepared frames have no holes


def test_only_a_set_that_takes_a_list_of_frames_gets_one() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.synthetic\[0\]\.frames = \"mine\.txt\": vkitti takes no list"
    ):
        config.parse(table("vkitti", "train", frames="mine.txt"))
    with pytest.raises(DataError, match="vkitti takes no list of frames"):
        sets.open_set("vkitti", "place", space="depth", frames="mine.txt")


def test_validation_by_a_set_without_metres_is_refused_before_anything_is_opened() -> None:
    wrong = table("hypersim", "train")
    wrong["validation"]["set"] = {"kind": "procedural", "path": "scenes"}
    with pytest.raises(
        ConfigError, match=r'validation\.set\.kind = "procedural": one of hypersim, vkitti, rgbd'
    ):
        config.parse(wrong)
    with pytest.raises(DataError, match="procedural holds no metres to score by"):
        sources.metric_set(config.Synthetic(kind="procedural", path="scenes"), "depth")


def test_photos_alone_are_no_exact_set_and_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'data\.synthetic\[0\]\.kind = "images"'):
        config.parse(table("images", "train"))
    with pytest.raises(DataError, match=r'no dataset "vkiti".* Did you mean "vkitti"\?'):
        sets.row_of("vkiti")


def test_the_command_lists_every_dataset_and_the_guide_its_licence() -> None:
    listed = CliRunner().invoke(program, ["sets"]).stdout.splitlines()
    assert [line.partition(":")[0] for line in listed] == [row.name for row in sets.SETS]
    assert listed[1] == "vkitti: metres from 1e-05 to 80; splits train, val; licence CC BY-NC-SA 3.0"
    guide = (ROOT / "docs" / "data.md").read_text()
    assert all(row.licence in guide for row in sets.SETS if row.licence)

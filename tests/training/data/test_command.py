"""Promises of `python -m training.data`: what it prints and how it ends; and of procedural scenes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.paths import ROOT
from tests.support.raw_data import (
    encoded,
    write_hypersim_frame,
    write_hypersim_split,
    write_tar,
    write_vkitti_frame,
)
from training.data import procedural
from training.data.command import program
from training.data.samples import DataError, SampleError
from training.data.vkitti import CAMERAS, SCENES, VARIATIONS

SCENE, CAMERA = "ai_001_001", "cam_00"
PHOTO = np.random.default_rng(0).integers(0, 256, (140, 200, 3), dtype=np.uint8)


def run(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words], terminal_width=100)


def raw_hypersim(raw: Path, count: int) -> None:
    for frame_id in range(count):
        write_hypersim_frame(raw, frame_id)
    write_hypersim_split(raw, [(SCENE, CAMERA, i, True, "train") for i in range(count)])


def write_shard(folder: Path, name: str, shape_hw: tuple[int, int], count: int) -> None:
    """A shard as procedural.render_shard leaves it, with a ramp for depth."""
    place = folder / name
    place.mkdir(parents=True)
    depth = np.linspace(0, 65535, shape_hw[1]).astype(np.uint16)
    np.save(place / "photos.npy", np.full((count, *shape_hw, 3), 7, np.uint8))
    np.save(place / "depth.npy", np.broadcast_to(depth, (count, *shape_hw)))


# ---- prepare ----


def test_prepare_says_what_it_made_and_check_finds_it_whole(tmp_path: Path) -> None:
    raw_hypersim(tmp_path / "raw", 3)
    done = run("prepare", "hypersim", tmp_path / "raw", tmp_path / "out", "--workers", 1)
    assert done.exit_code == 0
    assert "3 frames" in done.stdout
    checked = run("check", "hypersim", tmp_path / "out", "--workers", 1)
    assert checked.exit_code == 0
    assert "hypersim: 3 samples, 0 bad; licence: CC BY-SA 3.0" in checked.stdout
    assert "  3 of 24×32" in checked.stdout
    assert "  picture: -1 to 1" in checked.stdout
    assert "  valid depth, m: 0.9" in checked.stdout


def test_prepare_ends_with_one_and_names_a_damaged_raw_file(tmp_path: Path) -> None:
    raw_hypersim(tmp_path / "raw", 2)
    cut = tmp_path / f"raw/{SCENE}/images/scene_{CAMERA}_final_hdf5/frame.0001.color.hdf5"
    cut.write_bytes(b"")
    done = run("prepare", "hypersim", tmp_path / "raw", tmp_path / "out", "--workers", 1)
    assert done.exit_code == 1
    assert "1 frames" in done.stdout and "1 not: damaged" in done.stdout
    assert "frame.0001.color.hdf5: damaged or cut off" in done.stdout


def test_prepare_ends_with_two_where_there_is_nothing_to_prepare(tmp_path: Path) -> None:
    done = run("prepare", "hypersim", tmp_path, tmp_path / "out")
    assert done.exit_code == 2
    assert "metadata_images_split_scene_v1.csv cannot be read" in done.stderr


# ---- check ----


def test_check_lists_bad_files_on_the_screen_and_all_of_them_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(30):
        whole = encoded(PHOTO)
        (tmp_path / f"photos/{i:02d}.png").write_bytes(whole if i < 5 else whole[:300])
    report = tmp_path / "report.json"
    done = run("check", "images", tmp_path / "photos", "--workers", 2, "--report", report)
    assert done.exit_code == 1
    assert "photos: 30 samples, 25 bad" in done.stdout
    assert done.stdout.count("  bad: ") == 20 and f"and 5 more; {report} has all" in done.stdout
    (whole,) = json.loads(report.read_text())
    assert whole["shapes"] == {"140×200": 5}
    assert [line.partition(":")[0] for line in whole["bad"]] == [f"{i:02d}.png" for i in range(5, 30)]


def test_check_shows_a_name_that_would_move_the_cursor_or_pretend_to_be_a_line(tmp_path: Path) -> None:
    names = ("\x1b]52;c;aGk=\x07.png", "a\nbad: 0 samples.png", "\u202egnp.png", os.fsdecode(b"\xff.png"))
    for name in names:
        (tmp_path / name).write_bytes(b"no photo")
    done = run("check", "images", tmp_path, "--workers", 1)
    assert done.exit_code == 2
    said = re.findall(r"^  bad: (.*?): ", done.stdout, re.M)
    assert said == [r"\x1b]52;c;aGk=\x07.png", r"a\nbad", r"\u202egnp.png", r"\udcff.png"]
    assert not set(done.output) & set("\x1b\x07\u202e")


def test_check_ends_with_two_where_nothing_can_be_used(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": b"x", "b.png": b"y"})
    assert run("check", "shards", tmp_path / "0.tar", "--workers", 1).exit_code == 2
    gone = run("check", "vkitti", tmp_path)
    assert gone.exit_code == 2 and "unpack vkitti_2.0.3_rgb.tar" in gone.stderr


def test_check_reads_virtual_kitti_shards_and_procedural_scenes(tmp_path: Path) -> None:
    for variation in VARIATIONS:
        for camera in CAMERAS:
            write_vkitti_frame(
                tmp_path / "kitti", 0, scene=SCENES["val"][0], variation=variation, camera=camera
            )
    done = run(
        "check", "vkitti", tmp_path / "kitti", "--split", "val", "--workers", 1, "--space", "disparity"
    )
    assert (done.exit_code, "12 of 352×1216" in done.stdout) == (0, True)
    write_tar(tmp_path / "0.tar", {"a.png": encoded(PHOTO)})
    assert "1 of 140×200" in run("check", "shards", tmp_path / "*.tar", "--workers", 1).stdout
    write_shard(tmp_path / "scenes", "00000", (24, 32), 3)
    write_shard(tmp_path / "scenes", "00001", (32, 24), 2)
    both = run("check", "procedural", tmp_path / "scenes", "--workers", 1).stdout
    assert "procedural-24x32: 3 samples, 0 bad" in both and "procedural-32x24: 2 samples" in both


def test_the_module_runs_as_a_program() -> None:
    words = [sys.executable, "-m", "training.data", "check", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "Usage: python -m training.data check" in done.stdout


DOCS = ROOT / "docs" / "data.md"
COMMANDS = re.findall(r"^\$ python -m training\.data (.+)$", DOCS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_docs_are_commands(line: str, tmp_path: Path) -> None:
    name, kind, *rest = shlex.split(line)
    places = [word for word in rest if word.startswith(("raw/", "data/"))]
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    words = [tmp_path / word if word in places else word for word in rest]
    done = run(name, kind, *words)
    assert done.exit_code == 2 and not done.stderr.startswith("Usage")  # understood; the folders are empty


# ---- procedural scenes as a dataset ----


def test_procedural_scenes_are_one_dataset_per_shape_and_already_normalised(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", (24, 32), 3)
    write_shard(tmp_path, "00001", (32, 24), 2)
    write_shard(tmp_path, "00002", (24, 32), 4)
    wide, tall = procedural.by_shape(tmp_path, space="depth")
    assert [(wide.name, len(wide)), (tall.name, len(tall))] == [
        ("procedural-24x32", 7),
        ("procedural-32x24", 2),
    ]
    assert [wide[i].name for i in (0, 2, 3, 6)] == [
        "00000/00000",
        "00000/00002",
        "00002/00000",
        "00002/00003",
    ]
    pair = wide[3]
    np.testing.assert_allclose(pair.picture[5], np.linspace(-1, 1, 32), atol=1e-4)
    assert pair.valid.all() and pair.photo.shape == (24, 32, 3)


def test_procedural_scenes_refuse_a_space_that_they_do_not_have(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", (24, 32), 3)
    with pytest.raises(DataError, match="not metres"):
        procedural.by_shape(tmp_path, space="disparity")
    with pytest.raises(DataError, match="no shard of 8×8"):
        procedural.ProceduralScenes(tmp_path, space="depth", shape_hw=(8, 8))
    with pytest.raises(DataError, match="holds no rendered scenes"):
        procedural.by_shape(tmp_path / "gone", space="depth")


def test_a_shard_damaged_since_is_a_sample_error(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", (24, 32), 3)
    (scenes,) = procedural.by_shape(tmp_path, space="depth")
    path = tmp_path / "00000/photos.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SampleError, match=r"00000/00001: .* is damaged"):
        scenes[1]

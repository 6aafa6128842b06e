"""Promises of benchmarks/da2k.py: the order of the points, which value is nearer, ties, and what is
counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks import da2k
from tests.support.tables import cells

HW = (40, 60)
PAIRS = {
    "images/indoor/a.jpg": [((35, 5), (2, 50)), ((30, 59), (10, 0))],
    "images/aerial/b.jpg": [((20, 5), (5, 30)), ((8, 8), (39, 59)), ((11, 3), (11, 7))],
}
"""Image -> (nearer, farther) by row and column. The ramp is right where the nearer point is lower."""


def write(folder: Path, *, second_first: bool = False) -> Path:
    annotations = {
        name: [
            {"point1": far, "point2": near, "closer_point": "point2"}
            if second_first
            else {"point1": near, "point2": far, "closer_point": "point1"}
            for near, far in pairs
        ]
        for name, pairs in PAIRS.items()
    }
    for name in PAIRS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*HW, 3), 99, np.uint8)).save(path)
    (folder / "annotations.json").write_text(json.dumps(annotations))
    return folder


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(da2k.main, [str(word) for word in words])


def scored(folder: Path, *words: str | Path) -> dict[str, Any]:
    ended = invoke(folder, "--subset", "--out", folder / "out", *words)
    assert ended.exit_code == 0, ended.output
    (only,) = json.loads((folder / "out" / "result.json").read_text())["scores"]
    return only


@pytest.mark.parametrize("second_first", [False, True])
def test_the_ramp_orders_points_by_their_rows(second_first: bool, tmp_path: Path) -> None:
    """Both pairs of the first image; of the second's three one is right, one wrong, and one a tie, hence
    wrong."""
    result = scored(write(tmp_path, second_first=second_first), "--model", "ramp")
    assert (result["pairs"], result["ties"], result["expected_pairs"]) == (5, 1, 2068)
    assert result["accuracy"] == 3 / 5
    assert result["by_scenario"] == {"indoor": 1.0, "aerial": pytest.approx(1 / 3)}
    assert result["mean_of_scenarios"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("space", "accuracy"), [("depth", 2 / 5), ("log-depth", 2 / 5), ("disparity", 3 / 5)]
)
def test_the_space_says_which_value_is_nearer(space: str, accuracy: float, tmp_path: Path) -> None:
    """Values grow to the lower right: without a tie, and not the same by rows alone."""
    rows, columns = np.mgrid[0 : HW[0], 0 : HW[1]]
    values = (100 * rows + columns).astype(np.float32)
    for name in PAIRS:
        path = (tmp_path / "maps" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True)
        np.save(path, values)
    result = scored(write(tmp_path), "--predictions", tmp_path / "maps", "--space", space)
    assert result["ties"] == 0 and result["accuracy"] == pytest.approx(accuracy)


def test_maps_of_another_size_are_read_after_they_are_enlarged(tmp_path: Path) -> None:
    for name in PAIRS:
        path = (tmp_path / "maps" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True)
        np.save(path, np.linspace(1, 0, 10, dtype=np.float32)[:, None].repeat(15, 1))
    words = ("--predictions", tmp_path / "maps", "--space", "depth", "--resize-predictions")
    assert scored(write(tmp_path), *words)["accuracy"] == 3 / 5


def test_published_rows_stand_beside_ours_and_say_so(tmp_path: Path) -> None:
    rows = cells(invoke(write(tmp_path), "--subset", "--model", "ramp").output)
    assert ["FiffDepth", "97.1", "", "published: FiffDepth (ICCV 2025), table 1"] in rows
    assert ["ramp", "60.0", "66.7", "measured here, 5 of 2068 pairs"] in rows


def test_the_bundled_model_is_scored_beside_the_ramp(tmp_path: Path) -> None:
    ended = invoke(
        write(tmp_path), "--subset", "--size", "64", "--keep", tmp_path / "kept", "--out", tmp_path
    )
    assert ended.exit_code == 0, ended.output
    results = json.loads((tmp_path / "result.json").read_text())["scores"]
    assert [one["method"] for one in results] == ["nano", "ramp"]


def test_images_that_cannot_be_scored_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path)
    Image.fromarray(np.zeros((9, 60, 3), np.uint8)).save(tmp_path / "images/aerial/b.jpg")
    result = scored(tmp_path, "--model", "ramp")
    (skipped,) = result["skipped"]
    assert result["pairs"] == 2 and skipped["reason"] == "point (20, 5) is outside of its 9×60"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("missing", "no prediction images/aerial/b.npy (or .png) in maps"),
        ("of another size", "the prediction is 20×30 and the photo 40×60"),
        ("with NaN", "the prediction has 2400 values that are NaN or infinite"),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_counted_and_named(
    what: str, reason: str, tmp_path: Path
) -> None:
    values = np.linspace(1, 0, HW[0], dtype=np.float32)[:, None].repeat(HW[1], 1)  # the ramp
    for name in PAIRS:
        path = (tmp_path / "maps" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True)
        np.save(path, values)
    bad = {"missing": None, "of another size": values[::2, ::2], "with NaN": np.full(HW, np.nan)}[what]
    path.unlink() if bad is None else np.save(path, bad)
    result = scored(write(tmp_path), "--predictions", tmp_path / "maps", "--space", "depth")
    (skipped,) = result["skipped"]
    assert (result["pairs"], result["accuracy"]) == (2, 1.0)
    assert skipped["name"] == "images/aerial/b.jpg" and skipped["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No annotations.json in"),
        ("[1]", "no list of pairs of points as DA-2K has it"),
        ('{"a.jpg": [{"point1": [1, 2], "point2": [3, 4], "closer_point": "left"}]}', 'calls a point "left"'),
        ("{}", "has 0 pairs, and DA-2K 2068"),
    ],
)
def test_another_folder_says_what_to_do(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "annotations.json").write_text(text)
    ended = invoke(tmp_path, "--model", "ramp")
    assert ended.exit_code == 1 and said in ended.stderr

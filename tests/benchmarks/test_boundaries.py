"""Promises of benchmarks/boundaries.py and its metrics: values by hand, published files read as they lie
there."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import boundaries
from benchmarks.evaluation.boundary_metrics import (
    THRESHOLDS,
    boundary_f1,
    boundary_recall,
    soft_edge_error,
    within_quantiles,
)
from benchmarks.evaluation.boundary_task import stretched
from tests.support import tiny_edge_sets
from tests.support.tables import cells
from tests.support.tiny_edge_sets import DEPTH_SETS, IBIMS, MATTE_SETS, EdgeTiny
from training.alignment import AlignmentSpace


def _square(near: float = 1, far: float = 2, size: int = 16) -> np.ndarray:
    depth = np.full((size, size), far, np.float32)
    depth[5:11, 4:12] = near
    return depth


def _plain_f1(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The published definition, pixel by pixel."""
    h, w = truth.shape
    total = 0.0
    for t in THRESHOLDS:
        recalls, precisions = [], []
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            edges = []
            for depth in (prediction, truth):
                inverse = 1 / depth.astype(np.float64)
                edges.append(
                    {
                        (y, x)
                        for y in range(h)
                        for x in range(w)
                        if 0 <= y + dy < h and 0 <= x + dx < w and inverse[y + dy, x + dx] / inverse[y, x] > t
                    }
                )
            hits = len(edges[0] & edges[1])
            precisions.append(hits / max(len(edges[0]), 1))
            recalls.append(hits / max(len(edges[1]), 1))
        p, r = np.mean(precisions), np.mean(recalls)
        total += t / THRESHOLDS.sum() * (2 * p * r / (p + r) if p + r else 0)
    return float(total)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_f1_is_the_published_definition_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 1.6, (6, 7)).astype(np.float32)
    prediction = (truth * rng.uniform(0.9, 1.1, truth.shape)).astype(np.float32)
    assert boundary_f1(prediction, truth) == pytest.approx(_plain_f1(prediction, truth), abs=1e-12)


def test_the_truth_scores_one_in_every_unit() -> None:
    assert boundary_f1(_square(), _square()) == 1
    assert boundary_f1(1000 * _square(), _square()) == 1


def test_a_blurred_prediction_scores_less_than_a_sharp_one_and_a_flat_one_nothing() -> None:
    truth = _square(1, 1.5)
    blurred = cv2.GaussianBlur(truth, (0, 0), 1.5)
    assert 0 < boundary_f1(blurred, truth) < 0.6
    assert boundary_f1(np.ones_like(truth), truth) == 0


def test_an_edge_one_pixel_off_is_a_miss() -> None:
    assert boundary_f1(np.roll(_square(), 1, axis=1), _square()) == pytest.approx(
        # of 8 edge pixels each way up and down 7 stay, left and right none
        0.5 * 7 / 8
    )


def test_an_edge_from_far_to_near_is_not_one_from_near_to_far() -> None:
    assert boundary_f1(1 / _square(), _square()) == 0


def test_only_the_thresholds_below_a_step_count() -> None:
    step = 1.12
    expected = THRESHOLDS[step > THRESHOLDS].sum() / THRESHOLDS.sum()
    assert boundary_f1(_square(1, step), _square(1, step)) == pytest.approx(expected)


def test_missing_readings_make_no_edges() -> None:
    holes = _square()
    holes[0, :3] = 0
    holes[2, 2] = np.nan
    valid = np.nan_to_num(holes) > 0
    assert boundary_f1(_square(), holes, valid) == 1


def test_recall_finds_a_matte_that_stands_out_and_a_wide_edge_counts_once() -> None:
    foreground = _square() == 1
    assert boundary_recall(_square(), foreground) == 1
    ramp_edge = np.repeat(np.array([[4, 4, 4, 3, 2, 1, 1, 1]], np.float32), 4, axis=0)
    matte = np.repeat(np.array([[0, 0, 0, 0, 0, 1, 1, 1]], bool), 4, axis=0)
    # three edges in a row, the strongest (2 to 1) is the matte's; the other directions have none
    assert boundary_recall(ramp_edge, matte) == 0.25
    assert boundary_recall(ramp_edge, np.roll(matte, -1, axis=1)) == 0


def test_shapes_and_numbers_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="resize first"):
        boundary_f1(_square(), _square()[1:])
    with pytest.raises(ValueError, match="mark them invalid"):
        boundary_f1(np.full((4, 4), np.nan), np.ones((4, 4)))


def _plain_recall(prediction: np.ndarray, foreground: np.ndarray) -> float:
    """The published definition: of a run of edges in a row or column only the first strongest counts."""
    total = 0.0
    for t in THRESHOLDS:
        shares = []
        for along_x, towards in ((True, 1), (True, -1), (False, 1), (False, -1)):
            inverse = 1 / (prediction if along_x else prediction.T).astype(np.float64)
            matte = foreground if along_x else foreground.T
            wanted, hits = 0, 0
            for row, inside in zip(inverse.tolist(), matte.tolist(), strict=True):
                pairs = list(itertools.pairwise(row))
                ratios = [b / a if towards == 1 else a / b for a, b in pairs]
                outline = [
                    (j and not i) if towards == 1 else (i and not j) for i, j in itertools.pairwise(inside)
                ]
                kept, x = set(), 0
                while x < len(ratios):
                    run = x
                    while run < len(ratios) and ratios[run] > t:
                        run += 1
                    if run > x:
                        kept.add(max(range(x, run), key=lambda i: (ratios[i], -i)))
                    x = run + 1
                wanted += sum(outline)
                hits += sum(outline[i] for i in kept)
            shares.append(hits / max(wanted, 1))
        total += t / THRESHOLDS.sum() * sum(shares) / 4
    return float(total)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_recall_is_the_published_definition_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(1, 1.7, (7, 9)).astype(np.float32)
    foreground = rng.random((7, 9)) < 0.4
    expected = _plain_recall(prediction, foreground)
    assert boundary_recall(prediction, foreground) == pytest.approx(expected, abs=1e-9)


def test_neither_score_depends_on_scale() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.uniform(1, 2, (20, 30)), rng.uniform(1, 2, (20, 30))
    assert boundary_f1(3.7 * prediction, 0.2 * truth) == pytest.approx(boundary_f1(prediction, truth))
    matte = truth > 1.5
    assert boundary_recall(3.7 * prediction, matte) == pytest.approx(boundary_recall(prediction, matte))


# ---- the soft edge error ----


def _plain_see(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray, k: int) -> float | None:
    h, w = truth.shape
    errors = []
    for y, x in itertools.product(range(h), range(w)):
        beside = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
        inside = [(i, j) for i, j in beside if 0 <= i < h and 0 <= j < w and valid[i, j]]
        if not valid[y, x] or not any(abs(1 / truth[y, x] - 1 / truth[i, j]) > 0.05 for i, j in inside):
            continue
        r = k // 2
        around = itertools.product(
            range(max(0, y - r), min(h, y + r + 1)), range(max(0, x - r), min(w, x + r + 1))
        )
        errors.append(min(abs(prediction[y, x] - truth[i, j]) for i, j in around if valid[i, j]))
    return sum(errors) / len(errors) if errors else None


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8)
def test_the_soft_edge_error_is_its_definition_pixel_by_pixel(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.uniform(1, 3, (8, 9)), rng.uniform(1, 3, (8, 9))
    valid = rng.random((8, 9)) < 0.8
    expected = _plain_see(prediction, truth, valid, k)
    found = soft_edge_error(prediction, truth, valid, k=k)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_an_edge_that_is_one_pixel_off_is_forgiven_by_a_kernel_of_three() -> None:
    truth = _square(1, 2).astype(np.float64)
    everywhere = np.ones(truth.shape, bool)
    moved = np.roll(truth, 1, axis=1)
    assert soft_edge_error(truth, truth, everywhere, k=1) == 0
    assert (
        soft_edge_error(moved, truth, everywhere, k=3) == 0 < soft_edge_error(moved, truth, everywhere, k=1)
    )
    assert soft_edge_error(truth, np.full_like(truth, 3), everywhere, k=3) is None
    with pytest.raises(ValueError, match="odd k, got k = 4"):
        soft_edge_error(truth, truth, everywhere, k=4)


def test_the_nearest_and_the_farthest_two_percent_take_no_part_in_it() -> None:
    truth = np.arange(1.0, 101).reshape(10, 10)
    inside = within_quantiles(truth, np.ones((10, 10), bool))
    assert np.flatnonzero(~inside.ravel()).tolist() == [0, 1, 98, 99]
    assert not within_quantiles(truth, np.zeros((10, 10), bool)).any()


# ---- maps without a depth to align to ----


@pytest.mark.parametrize("space", list(AlignmentSpace))
def test_a_map_in_0_to_1_becomes_depth_from_1_to_the_ratio_in_every_space(space: AlignmentSpace) -> None:
    ends = stretched(np.array([[0.0, 1.0]], np.float32), space, far_over_near=10)
    expected = [1, 10] if space.grows_with_distance else [10, 1]
    assert ends[0].tolist() == pytest.approx(expected, rel=1e-5)
    wild = stretched(np.array([[-3.0, 0.0, 3.0]], np.float32), space, far_over_near=10)
    tame = stretched(np.array([[0.0, 0.5, 1.0]], np.float32), space, far_over_near=10)
    np.testing.assert_allclose(wild, tame, rtol=1e-6)


# ---- every set, as it lies on disk ----


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(boundaries.main, [str(word) for word in words])


def scored(tiny: EdgeTiny, root: Path, *words: str | Path) -> dict[str, Any]:
    given_ = ["--data", root, "--datasets", tiny.name, "--subset", "--predictions", root / "maps"]
    ended = invoke(*given_, "--out", root / "out", *words)
    assert ended.exit_code == 0, ended.output
    (only,) = json.loads((root / "out" / "result.json").read_text())["scores"][tiny.name]
    return only


@pytest.mark.parametrize("tiny", DEPTH_SETS, ids=lambda tiny: tiny.name)
def test_a_set_with_depth_as_published_has_the_scores_worked_out_by_hand(
    tiny: EdgeTiny, tmp_path: Path
) -> None:
    """Truth: a square of 2 m before 4 m. The truth, scaled and shifted, is perfect; moved by a pixel, 7/16 of
    its edges are right: of 8 up and 8 down 7 stay, left and right none."""
    tiny_edge_sets.write(tiny, tmp_path)
    truth = tiny_edge_sets.truth_m()
    tiny_edge_sets.write_predictions(tiny, tmp_path / "maps", truth * np.float32(0.1) + 3)
    perfect = scored(tiny, tmp_path, "--space", "depth")
    assert (perfect["images"], perfect["expected"]) == (2, tiny.images) and perfect["boundary_f1"] == 1
    assert [perfect[f"see_{k}_m"] for k in (3, 5, 7)] == pytest.approx([0, 0, 0], abs=1e-5)
    tiny_edge_sets.write_predictions(tiny, tmp_path / "maps", np.roll(truth, 1, axis=1))
    moved = scored(tiny, tmp_path, "--unaligned", "--space", "depth")
    assert moved["boundary_f1"] == pytest.approx(0.5 * 7 / 8)


@pytest.mark.parametrize("tiny", MATTE_SETS, ids=lambda tiny: tiny.name)
def test_a_set_with_mattes_as_published_has_the_recall_worked_out_by_hand(
    tiny: EdgeTiny, tmp_path: Path
) -> None:
    """The figure at 0 and the ground at 0.01 of the range: 1 and 1 + 0.01 (r − 1), above 1.05 … 1.25 by
    ratio."""
    tiny_edge_sets.write(tiny, tmp_path)
    maps = np.where(tiny_edge_sets.foreground(), 0, 0.01).astype(np.float32)
    tiny_edge_sets.write_predictions(tiny, tmp_path / "maps", maps)
    result = scored(tiny, tmp_path, "--space", "depth", "--far-over-near", "13", "--sweep")
    assert (result["images"], result["expected"]) == (2, tiny.images)
    recall = {float(ratio): value for ratio, value in result["recall_by_far_over_near"].items()}
    assert list(recall) == [13, 2, 5, 10, 20, 50, 100]
    for ratio, value in recall.items():
        step = 1 + 0.01 * (ratio - 1)
        expected = THRESHOLDS[step > THRESHOLDS].sum() / THRESHOLDS.sum()
        assert value == pytest.approx(expected, abs=1e-9), ratio


def test_published_rows_stand_beside_ours_and_say_so(tmp_path: Path) -> None:
    tiny = DEPTH_SETS[0]
    tiny_edge_sets.write(tiny, tmp_path)
    tiny_edge_sets.write_predictions(tiny, tmp_path / "maps", tiny_edge_sets.truth_m())
    words = ("--data", tmp_path, "--datasets", "sintel", "--subset", "--predictions", tmp_path / "maps")
    rows = cells(invoke(*words, "--space", "depth").output)
    assert ["Depth Pro", "0.409", "published: FiffDepth (ICCV 2025), table 2"] in rows
    assert ["maps", "1.000", "measured here, n = 2 of 1064"] in rows


def test_images_that_cannot_be_scored_are_counted_and_named(tmp_path: Path) -> None:
    tiny = MATTE_SETS[0]
    tiny_edge_sets.write(tiny, tmp_path)
    tiny_edge_sets.write_predictions(tiny, tmp_path / "maps", tiny_edge_sets.truth_m() / 4)
    matte = tmp_path / tiny.folder / tiny.truths[0]
    cv2.imwrite(str(matte), np.zeros(tiny_edge_sets.HW, np.uint8))
    result = scored(tiny, tmp_path, "--space", "depth")
    (skipped,) = result["skipped"]
    assert result["images"] == 1 and "it has no outline" in skipped["reason"]
    with (tmp_path / "out" / "per_image.csv").open() as file:
        assert [line["skipped"] for line in csv.DictReader(file)] == ["", skipped["reason"]]


@pytest.mark.parametrize("tiny", (IBIMS, MATTE_SETS[0]), ids=lambda tiny: tiny.name)
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("truth missing", "cannot be read (No such file or directory)"),
        ("truth cut off", "damaged or no picture"),
        ("prediction missing", "no prediction "),
        ("prediction of another size", "the prediction is 16×24 and the photo 32×48"),
        ("prediction with NaN", "the prediction has 1 values that are NaN or infinite"),
    ],
)
def test_an_image_that_cannot_be_scored_is_counted_and_named(
    what: str, reason: str, tiny: EdgeTiny, tmp_path: Path
) -> None:
    tiny_edge_sets.write(tiny, tmp_path)
    maps = tiny_edge_sets.truth_m() / np.float32(4)
    tiny_edge_sets.write_predictions(tiny, tmp_path / "maps", maps)
    truth = tmp_path / tiny.folder / tiny.truths[0]
    made = tmp_path / "maps" / tiny.name / tiny.predictions[0]
    broken = maps.copy()
    broken[3, 4] = np.nan
    {
        "truth missing": truth.unlink,
        "truth cut off": lambda: truth.write_bytes(truth.read_bytes()[:60]),
        "prediction missing": made.unlink,
        "prediction of another size": lambda: np.save(made, maps[::2, ::2]),
        "prediction with NaN": lambda: np.save(made, broken),
    }[what]()
    result = scored(tiny, tmp_path, "--space", "depth")
    (skipped,) = result["skipped"]
    assert result["images"] == 1 and reason in skipped["reason"]
    assert f"Skipped of {tiny.title}, maps: 1. " in (tmp_path / "out" / "result.md").read_text()


def test_an_image_that_its_masks_leave_nothing_of_is_counted_and_named(tmp_path: Path) -> None:
    tiny_edge_sets.write(IBIMS, tmp_path)
    tiny_edge_sets.write_predictions(IBIMS, tmp_path / "maps", tiny_edge_sets.truth_m())
    mask = tmp_path / IBIMS.folder / "mask_invalid" / Path(IBIMS.truths[0]).name
    cv2.imwrite(str(mask), np.zeros(tiny_edge_sets.HW, np.uint8))
    result = scored(IBIMS, tmp_path, "--space", "depth")
    assert result["images"] == 1 and "at least 2 valid pixels" in result["skipped"][0]["reason"]


@pytest.mark.parametrize("tiny", (*DEPTH_SETS, *MATTE_SETS), ids=lambda tiny: tiny.name)
def test_another_dataset_at_the_place_of_a_set_is_an_error(tiny: EdgeTiny, tmp_path: Path) -> None:
    """Files of some other dataset, and for DIS-5k its list."""
    (tmp_path / tiny.folder / "images").mkdir(parents=True)
    (tmp_path / tiny.folder / "images" / "000001.jpg").touch()
    (tmp_path / tiny.folder / "dis5k_sample_list.txt").write_text("DIS5K/DIS-TE1/im/a b.jpg\n")
    ended = invoke("--data", tmp_path, "--datasets", tiny.name, "--subset", "--model", "ramp")
    assert ended.exit_code == 1
    said = {
        "ibims": "No imagelist.txt in",
        "dis5k": "Not one of the 1 images of DIS-5k could be scored with ramp. The first: DIS-TE1/im/a b.jpg",
    }.get(tiny.name, "is it the right dataset?")
    assert said in ended.stderr


@pytest.mark.parametrize("tiny", (*DEPTH_SETS, *MATTE_SETS), ids=lambda tiny: tiny.name)
def test_another_number_of_images_than_the_sets_is_refused(tiny: EdgeTiny, tmp_path: Path) -> None:
    tiny_edge_sets.write(tiny, tmp_path)
    ended = invoke("--data", tmp_path, "--datasets", tiny.name, "--model", "ramp")
    assert ended.exit_code == 1 and str(tiny.images) in ended.stderr and "--subset" in ended.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--datasets", "sintel"], "Sintel needs --data ROOT"),
        (["--datasets", "am2k", "--data", "."], "No am2k: AM-2k lies there"),
        (["--datasets", "nyuv2"], 'There is no dataset "nyuv2": say sintel, spring, ibims, am2k'),
        (["--datasets", "mattes:."], "No NAME_matte.png in"),
        (["--datasets", "mattes:.", "--far-over-near", "1"], "so > 1"),
    ],
)
def test_what_cannot_be_scored_says_what_to_do(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        ended = invoke(*words)
    assert ended.exit_code != 0 and said in ended.stderr, ended.stderr


def test_a_folder_of_mattes_is_scored_with_the_bundled_model_beside_the_ramp(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 255, (64, 64, 3), np.uint8), (0, 0), 3)
    for name in ("a_1_rgb.jpg", "b_1_rgb.png"):
        cv2.imwrite(str(tmp_path / name), photo)
        matte = ((_square(1, 2, 64) == 1) * 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{name[0]}_1_matte.png"), matte)
    words = ("--datasets", f"mattes:{tmp_path}", "--size", "64", "--keep", tmp_path / "kept")
    ended = invoke(*words, "--out", tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    results = json.loads((tmp_path / "out" / "result.json").read_text())["scores"]
    nano, ramp = results[f"mattes:{tmp_path.name}"]
    assert (nano["images"], nano["method"], ramp["method"]) == (2, "nano", "ramp")
    assert all(0 <= one["recall_by_far_over_near"]["10.0"] <= 1 for one in (nano, ramp))


def test_springs_disparities_lie_at_twice_the_photos_size_and_keep_their_values(tmp_path: Path) -> None:
    from benchmarks.sets import encodings

    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    with h5py.File(tmp_path / "a.dsp5", "w") as file:
        file.create_dataset("disparity", data=values, compression="gzip")
    read = encodings.dsp5((tmp_path / "a.dsp5").read_bytes(), name="a")
    assert read.tolist() == values[::2, ::2].tolist()
    assert math.isclose(read[1, 2], 16)

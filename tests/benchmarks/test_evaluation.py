"""Promises of benchmarks/evaluation/: what protocols do to pixels, and how work is spread."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from benchmarks.evaluation import protocol
from benchmarks.evaluation.methods import exact_grid, padded_grid, ramp
from benchmarks.evaluation.protocol import MARIGOLD, PPD, compare
from benchmarks.evaluation.spread import run
from benchmarks.evaluation.task import at_processing_size
from benchmarks.sets import encodings, rgbd, scenes
from benchmarks.sets.depth_sets import FOLDER, row_of
from tests.support.paths import ROOT
from training.alignment import AlignmentSpace
from training.data.samples import MetricPair, SampleError
from training.metrics import Sums


def frame(depth_m: np.ndarray, valid: np.ndarray | None = None) -> MetricPair:
    return MetricPair(
        photo=np.zeros((*depth_m.shape, 3), np.uint8),
        depth_m=depth_m.astype(np.float32),
        valid=np.ones(depth_m.shape, bool) if valid is None else valid,
        farthest_m=80.0,
        name="one",
    )


def test_the_ramp_is_near_at_the_bottom() -> None:
    assert ramp((3, 2)).tolist() == [[1, 1], [0.5, 0.5], [0, 0]]


# ---- bit by bit as torch and scipy have it in the published scripts ----


@pytest.mark.parametrize("hw", [(4032, 6048), (1000, 1500), (777, 1333), (1500, 900), (300, 400)])
def test_fewer_columns_are_those_that_marigolds_upsample_keeps(hw: tuple[int, int]) -> None:
    factor = min(1024 / np.array(hw))
    columns = torch.arange(hw[1]).float().expand(1, 2, hw[1])  # 3-D, and 2 rows stand for all
    kept = columns[0] if factor >= 1 else torch.nn.Upsample(scale_factor=factor, mode="nearest")(columns)[0]
    assert protocol.kept_columns(hw, 1024).tolist() == kept[0].long().tolist()
    assert len(kept) == 2  # no row is taken away


def test_nearest_neighbours_are_those_of_torch() -> None:
    map_ = np.arange(48 * 72, dtype=np.float32).reshape(48, 72)
    for hw in ((13, 31), (480, 100), (1360, 2048)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(map_)[None, None], size=hw, mode="nearest"
        )
        assert np.array_equal(protocol.nearest(map_, hw), expected[0, 0].numpy())


def test_steepness_is_the_sum_of_scipys_sobels() -> None:
    from scipy import ndimage

    depth = np.random.default_rng(0).uniform(1, 9, (20, 30)).astype(np.float32)
    expected = np.abs(ndimage.sobel(depth, 0)) + np.abs(ndimage.sobel(depth, 1))
    np.testing.assert_allclose(protocol.steepness(depth), expected, atol=1e-5)


def test_predictions_are_enlarged_as_torch_does_it() -> None:
    small = np.random.default_rng(0).random((12, 18), dtype=np.float32)
    images = torch.from_numpy(small)[None, None]
    large = torch.nn.functional.interpolate(images, size=(96, 144), mode="bilinear")
    np.testing.assert_allclose(protocol.resized(small, (96, 144)), large[0, 0].numpy(), atol=1e-5)


def test_photos_shrink_as_marigold_shrinks_them() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (403, 605, 3), np.uint8)
    small = at_processing_size(photo, 75)
    assert small.shape == (49, 75, 3)  # 403 · 75 / 605 = 49.96, cut off
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    size = {"size": (49, 75), "mode": "bilinear", "antialias": True}
    expected = torch.nn.functional.interpolate(pixels, **size)[0].permute(1, 2, 0).numpy()
    assert np.abs(small - expected).max() <= 1  # Pillow rounds between its two passes
    assert at_processing_size(photo, 0) is photo and at_processing_size(photo, None) is photo


# ---- protocols on pixels ----


def test_eth3d_is_aligned_on_fewer_columns_and_scored_on_all() -> None:
    """Columns that the fit does not see are wrong: the line stays right, and the error is theirs."""
    truth = np.tile(np.linspace(1, 9, 2048, dtype=np.float32), (4, 1))
    kept = protocol.kept_columns((4, 2048), 1024)
    prediction = truth + 5
    prediction[:, kept] = truth[:, kept] * 0.5
    rules = row_of("eth3d")
    compared = compare(prediction, frame(truth), rules, MARIGOLD, space=AlignmentSpace.DEPTH)
    assert (compared.line.scale, compared.line.shift) == pytest.approx((2, 0), abs=1e-5)
    assert compared.aligned_m.shape == (4, 2048) and len(kept) == 1024
    everything = dataclasses.replace(MARIGOLD, fewer_columns=False)
    compared = compare(prediction, frame(truth), rules, everything, space=AlignmentSpace.DEPTH)
    assert compared.line.scale != pytest.approx(2, abs=0.1)


def test_ppd_narrows_the_range_leaves_edges_out_and_clips_to_the_farthest_truth() -> None:
    truth = np.full((20, 40), 5.0, np.float32)
    truth[:, 20:] = 9
    truth[:, 38] = 400  # beyond 350 m
    prediction = np.log1p(np.minimum(truth, 20)) * 2 + 1
    prediction[10, 5] = 50
    ppd = compare(prediction, frame(truth), row_of("diode"), PPD, space=AlignmentSpace.LOG1P_DEPTH)
    edges = [19, 20, 37, 38, 39]
    assert np.flatnonzero(~ppd.valid.all(0)).tolist() == edges
    assert ppd.aligned_m.max() == pytest.approx(9)
    marigold = compare(prediction, frame(truth), row_of("diode"), MARIGOLD, space=AlignmentSpace.LOG1P_DEPTH)
    assert marigold.valid.all()  # there, the mask file alone decides


def test_ppd_brings_eth3d_to_its_own_size() -> None:
    truth = np.random.default_rng(0).uniform(1, 9, (40, 60))
    compared = compare(np.log1p(truth), frame(truth), row_of("eth3d"), PPD, space=AlignmentSpace.LOG1P_DEPTH)
    assert compared.truth_m.shape == compared.aligned_m.shape == (1360, 2048)
    np.testing.assert_allclose(compared.aligned_m, compared.truth_m, rtol=1e-3)


def test_ppd_fits_log_depth_to_depth_and_disparity_in_itself() -> None:
    within = {space: PPD.space_of_fit(space) for space in AlignmentSpace}
    assert within[AlignmentSpace.DEPTH] is AlignmentSpace.LOG1P_DEPTH
    assert all(within[space] is space for space in AlignmentSpace if space is not AlignmentSpace.DEPTH)
    assert all(MARIGOLD.space_of_fit(space) is space for space in AlignmentSpace)


def test_the_image_worked_by_hand_in_the_guide_has_those_errors_in_both_protocols() -> None:
    truth = np.array([[3, 3, 3, 1, 7, 7]], np.float32)
    prediction = np.array([[1, 1, 1, 0, 2, 6]], np.float32)
    guide = " ".join((ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8").split())
    for kept_to, space in ((MARIGOLD, AlignmentSpace.DEPTH), (PPD, AlignmentSpace.LOG1P_DEPTH)):
        compared = compare(prediction, frame(truth), FOLDER, kept_to, space=space)
        errors = Sums.of(compared.aligned_m, compared.truth_m).errors()
        part = guide.split(f"- `{kept_to.name}`, p taken for")[1].split("- `ppd`")[0]
        assert f"**{100 * errors.abs_rel:.1f} %**" in part and f"**{100 * errors.delta1:.1f} %**" in part
        if kept_to is MARIGOLD:
            assert f"scale is {compared.line.scale:.4f}" in part and f"= {compared.line.shift:.4f}." in part
            assert ", ".join(f"{z:.3f}" for z in compared.aligned_m[0]) in part


# ---- grids ----


def test_an_exact_grid_floors_to_752_or_ceils_to_760() -> None:
    assert exact_grid((504, 756), "floor") == (504, 752)
    assert exact_grid((504, 756), "ceil") == (504, 760)
    assert exact_grid((352, 1216), "floor") == (352, 1216)
    assert padded_grid((480, 640)) == (512, 640) and padded_grid((352, 1216)) == (384, 1216)


# ---- encodings ----


def test_bytes_that_are_no_such_file_are_named() -> None:
    ok, picture = cv2.imencode(".png", np.zeros((4, 5), np.uint8))
    assert ok
    for read, data in (
        (encodings.png16, picture.tobytes()),
        (encodings.photo, b"junk"),
        (encodings.npy, b"junk"),
        (encodings.npy, b"PK\x03\x04" + bytes(40)),
        (encodings.dpt, b"\0" * 20),
        (encodings.dsp5, b"junk"),
    ):
        with pytest.raises(SampleError) as failed:
            read(data, name="a/b.x")
        assert failed.value.name == "a/b.x"
    with pytest.raises(SampleError, match="no float32 of 4×5"):
        encodings.raw_floats(b"\0" * 79, (4, 5), name="depth")


# ---- spreading ----


@dataclasses.dataclass(frozen=True)
class Squares:
    fails_at: int = -1

    def open(self) -> Callable[[int], int]:
        return self._square

    def _square(self, index: int) -> int:
        if index == self.fails_at:
            raise SampleError("seven", "it is seven")
        return index * index


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_results_come_in_order_and_errors_come_through(processes: int) -> None:
    assert run(Squares(), 20, label="squares", processes=processes) == [i * i for i in range(20)]
    with pytest.raises(SampleError, match="it is seven"):
        run(Squares(fails_at=7), 20, label="squares", processes=processes)


def test_frames_that_are_missing_are_named(tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"No NAME_depth_mm.png in"):
        next(rgbd.frames(tmp_path))
    (tmp_path / "a_1_depth_mm.png").touch()
    with pytest.raises(SystemExit, match=r"No a_1_rgb.jpg or .png beside"):
        next(rgbd.frames(tmp_path))
    with pytest.raises(SystemExit, match="both are at least 1"):
        next(scenes.frames(0))


def test_sets_are_scored_without_what_training_needs() -> None:
    words = "import sys; sys.modules['embreex'] = sys.modules['torch'] = None; "
    words += "import benchmarks.accuracy, benchmarks.boundaries, benchmarks.da2k, benchmarks.resolution, "
    words += "benchmarks.temporal"
    subprocess.run([sys.executable, "-c", words], check=True, cwd=ROOT)

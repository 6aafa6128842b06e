"""Promises of benchmarks/resolution.py and benchmarks/cpu_settings.py: what their figures mean."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import fiffdepth_rt
from benchmarks import cpu_settings, resolution
from tests.support.tables import cells


def test_quadrants_cover_every_pixel_once() -> None:
    for photo_hw in ((480, 640), (33, 17)):
        counted = np.zeros(photo_hw, dtype=int)
        for place in resolution.quadrants(photo_hw):
            counted[place] += 1
        assert (counted == 1).all()


def test_a_tile_fitted_to_the_whole_loses_its_own_scale_and_shift() -> None:
    whole = np.random.default_rng(0).random((40, 50), dtype=np.float32)
    tile = (whole - np.float32(0.2)) * np.float32(0.5) + np.float32(0.4)
    np.testing.assert_allclose(resolution.fitted_to(tile, whole), whole, atol=1e-5)


def test_steepness_is_that_of_the_sharpest_hundredth_and_thousandth() -> None:
    assert resolution.steepness(np.full((50, 50), 0.3, np.float32)) == (0, 0)
    ramp = np.broadcast_to(np.linspace(0, 1, 101, dtype=np.float32), (100, 101))
    assert resolution.steepness(ramp) == pytest.approx((0.01, 0.01), abs=1e-4)
    step = np.zeros((100, 40), np.float32)
    step[:, 20:] = 0.8  # 100 of 7,860 steps
    assert resolution.steepness(step) == pytest.approx((0.8, 0.8))
    step[50:] = 0.8  # 50, and 20 of the new edge
    assert resolution.steepness(step) == pytest.approx((0, 0.8))


def test_larger_sizes_and_tiles_are_rows_with_every_figure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("room_1", "room_2"):
        photo = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60))
        cv2.imwrite(str(tmp_path / f"{name}_rgb.jpg"), photo)
        depth_mm = 1000 + 8 * photo[..., 0].astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"{name}_depth_mm.png"), depth_mm)
    whole = resolution.measure_size(tmp_path, None, 64, tiles=None, runs=1, pictures=None)
    tiled = resolution.measure_size(
        tmp_path, None, 64, tiles="aligned", runs=1, pictures=tmp_path / "pictures"
    )
    assert (whole.what, whole.grid_hw, tiled.what) == ("whole", (64, 64), "2×2 tiles, aligned")
    for row in (whole, tiled):
        assert row.p50_ms > 0 and row.cpu_p50_ms > 0 and row.peak_mib > 0
        assert 0 < row.abs_rel < 1 and 0 < row.delta1 <= 1 and 0 < row.steepness <= row.steepest < 1
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    assert cells(resolution.markdown([whole, tiled]))[1][:2] == ["whole", "64×64"]


def test_every_setting_of_onnxruntime_gives_the_same_depth(toy_dir: Path) -> None:
    measured = cpu_settings.measure_settings(toy_dir, grid_hw=(64, 128), runs=1, threads=2, pause_s=0)
    assert list(measured) == list(cpu_settings.settings(2))
    assert all(row["max_difference"] < 1e-6 and row["p50_ms"] > 0 for row in measured.values())
    assert [line[0] for line in cells(cpu_settings.markdown(measured))] == ["setting", *measured]
    json.dumps(measured)


def test_the_first_setting_is_the_runtime_s_own(toy_dir: Path) -> None:
    name, first = next(iter(cpu_settings.settings(2).items()))
    with fiffdepth_rt.Depth(toy_dir, threads=2) as depth:
        (opened,) = depth.backend.opened()  # type: ignore[attr-defined]
    own = opened.stages["unet"].get_session_options()
    measured = cpu_settings.session_options(first)
    assert name == "no spinning"
    for entry in first["entries"]:
        assert own.get_session_config_entry(entry) == measured.get_session_config_entry(entry)
    for attribute in ("intra_op_num_threads", "inter_op_num_threads", "use_deterministic_compute"):
        assert getattr(own, attribute) == getattr(measured, attribute)


def test_busy_processes_end_with_their_block() -> None:
    """One of them: two would leave nothing of two cores to the test itself."""
    with pytest.raises(ZeroDivisionError), cpu_settings.busy_processes(1) as running:
        assert [process.poll() for process in running] == [None]
        raise ZeroDivisionError
    assert all(process.poll() is not None for process in running)

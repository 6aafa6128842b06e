"""Promises of benchmarks/metres.py: what is drawn, what is scored, and what a perfect model would get."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import metres
from benchmarks.metres import Seen
from fiffdepth_rt import Depth, Space
from tests.runtime.geometry.scene import as_seen, scene_m
from tests.support.paths import ROOT
from tests.support.tables import cells
from training.data.samples import MetricPair

DEPTH_M = (0.7 * scene_m()).astype(np.float32)


def frame(name: str, space: str = "depth") -> Seen:
    """The drawn scene, seen by a model that is never wrong, with a tenth of its depth unknown."""
    truth = DEPTH_M.copy()
    truth[::10] = 0
    pair = MetricPair(
        photo=np.zeros((*truth.shape, 3), np.uint8),
        depth_m=truth,
        valid=(truth > 1e-3) & (truth < 10),
        farthest_m=10.0,
        name=name,
        group=name.rsplit("_", 1)[0],
    )
    return Seen(pair=pair, depth_map=as_seen(0.7 * scene_m(), space))


def test_points_are_of_valid_pixels_and_as_many_are_wrong_as_asked() -> None:
    pair = frame("a_1").pair
    drawn = metres.draw_points(pair, 3, points=50, wrong=5)
    known = np.isfinite(drawn.sparse_m)
    assert np.count_nonzero(known) == 50 and np.count_nonzero(drawn.wrong) == 5
    assert pair.valid[known].all()
    right = known & ~drawn.wrong
    np.testing.assert_array_equal(drawn.sparse_m[right], pair.depth_m[right])
    again = metres.draw_points(pair, 3, points=50, wrong=5)
    np.testing.assert_array_equal(again.sparse_m, drawn.sparse_m)


def test_known_pixels_are_not_scored_and_a_depth_that_is_none_counts_as_wrong() -> None:
    pair = frame("a_1").pair
    known = np.zeros_like(pair.valid)
    known[30:] = True
    depth_m = pair.depth_m.copy()
    depth_m[30:] = 99
    assert metres.errors_of(depth_m, pair, known, Space.DEPTH).abs_rel == 0
    nothing = np.full_like(depth_m, np.nan)
    errors = metres.errors_of(nothing, pair, known, Space.DEPTH)
    assert errors.delta1 == 0 and errors.abs_rel > 0.99


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_a_perfect_model_gets_perfect_metres_by_every_honest_way(space: str) -> None:
    frames = [frame("a_1", space), frame("a_2", space)]
    rows = {row.way: row for row in metres.ways(frames, seeds=2)}
    assert list(rows) == [
        "all pixels, least squares",
        "200 points, none wrong, RANSAC",
        "200 points, 20 wrong, RANSAC",
        "200 points, none wrong, least squares",
        "200 points, 20 wrong, least squares",
        "2 distances, near and far",
        "1 distance, near",
        "another frame's 200 points",
    ]
    for way, row in rows.items():
        if "20 wrong, least squares" in way or "1 distance" in way:
            assert row.abs_rel > 0.01, way
        else:
            assert row.abs_rel < 0.005 and row.delta1 > 0.999, way
    assert rows["another frame's 200 points"].frames == 1
    found = rows["200 points, 20 wrong, RANSAC"].found
    assert found is not None and found > 0.9
    assert rows["2 distances, near and far"].refused == 0


def test_the_command_reports_every_way_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import report

    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    photo = cv2.resize(cv2.imread(str(ROOT / "examples" / "coffee.jpg")), (120, 90))
    with Depth() as depth:  # a room in which the bundled model is right, whatever it has learnt
        depth_mm = 1000 + 3000 * depth.infer(photo[..., ::-1].copy(), size=64).values
    for name in ("room_1", "room_2"):
        cv2.imwrite(str(tmp_path / f"{name}_rgb.jpg"), photo)
        cv2.imwrite(str(tmp_path / f"{name}_depth_mm.png"), depth_mm.astype(np.uint16))
    result = CliRunner().invoke(metres.main, [str(tmp_path), "--size", "64", "--seeds", "1", "--save"])
    assert result.exit_code == 0, result.output
    (kept,) = (tmp_path / "results").glob("*.md")
    assert len(cells(kept.read_text())) == 9
    said = json.loads(kept.with_suffix(".json").read_text())
    assert len(said["rows"]) == 8 and len(said["abs_rel_by_wrong_share"]["ransac"]) == 6
    assert kept.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

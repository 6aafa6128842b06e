"""Promises of streams that run for long, and of their report: order, bits and memory under random delays."""

from __future__ import annotations

from pathlib import Path

import pytest

import fiffdepth_rt
from benchmarks.streams import Watched, differing_threads, draw, markdown, watch
from tests.support.tables import cells


def test_two_depths_and_eight_threads_give_the_same_bits_as_one(toy_dir: Path) -> None:
    with (
        fiffdepth_rt.Depth(toy_dir, threads=1) as first,
        fiffdepth_rt.Depth(toy_dir, threads=1) as second,
    ):
        assert differing_threads(first, second, frames=12) == 0


def _hold(watched: Watched) -> None:
    assert (watched.wrong, watched.out_of_order, watched.threads_left) == (0, 0, 0)
    assert watched.given + watched.skipped == watched.frames
    assert watched.growth_mib < 8


def test_no_frame_is_lost_doubled_or_reordered_under_random_delays(depth: fiffdepth_rt.Depth) -> None:
    watched = watch(depth, frames=200, longest_wait_s=0.003)
    _hold(watched)
    assert watched.skipped == 0


def test_dropped_frames_leave_the_others_in_order_and_as_they_are(depth: fiffdepth_rt.Depth) -> None:
    _hold(watch(depth, frames=200, longest_wait_s=0.003, drop="oldest"))


@pytest.mark.soak
@pytest.mark.parametrize("drop", ["never", "oldest"])
def test_ten_thousand_frames_leave_memory_as_it_was(depth: fiffdepth_rt.Depth, drop: str) -> None:
    watched = watch(depth, frames=10_000, drop=drop)
    _hold(watched)
    assert drop == "oldest" or watched.skipped == 0


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_two_depths_of_the_bundled_model_and_eight_threads_give_the_same_bits_as_one(backend: str) -> None:
    with fiffdepth_rt.Depth(backend=backend) as first, fiffdepth_rt.Depth(backend=backend) as second:
        assert differing_threads(first, second) == 0


def test_the_report_of_a_stream_shows_its_memory(depth: fiffdepth_rt.Depth) -> None:
    watched = watch(depth, frames=50, longest_wait_s=0)
    assert draw({"never": watched}).startswith(b"\x89PNG")
    table = markdown({"never": watched}, 0)
    assert ["never", "50", "50", "0", "0", "0"] in [line[:6] for line in cells(table)]
    assert "0 of 8 gave other bits" in table
    assert len(watched.at) == len(watched.rss_mib) == 50 and watched.at[-1] == 50

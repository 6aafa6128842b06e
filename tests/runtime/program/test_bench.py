"""Promises about `fiffdepth bench`: what a report holds. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import fiffdepth_rt
from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.program import program
from fiffdepth_rt.program.latency import TimedBackend, Timing, measure_latency, time_frames
from fiffdepth_rt.program.options import EngineChoice
from tests.support.paths import ROOT

BRIEF = ("--runs", "4", "--warm-up", "1")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["bench", *arguments])


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The engine directory and what `fiffdepth bench --photo 100x200` prints of it."""
    from tests.support.toy import write_toy_engine_dir

    path = write_toy_engine_dir(tmp_path_factory.mktemp("bench") / "toy")
    result = bench(str(path), "--photo", "100x200", *BRIEF)
    assert (result.exit_code, result.stderr) == (0, "")
    return path, result.stdout


def last_line(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(text.splitlines()[-1])
    return fields


def test_the_last_line_is_json_with_every_figure(answer: tuple[Path, str]) -> None:
    report = last_line(answer[1])
    assert (report["model"], report["precision"]) == ("toy", "fp32")
    assert (report["backend"], report["device"]) == ("onnxruntime", "cpu")
    assert (report["photo_hw"], report["grid_hw"]) == ([100, 200], [128, 256])
    assert (report["runs"], report["warm_up"]) == (4, 1)
    assert list(report["stages"]) == ["encoder", "unet", "decoder"]
    for timing in (report["end_to_end"], report["in_engine"], *report["stages"].values()):
        assert 0 < timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
    for figure in ("load_ms", "first_frame_ms", "peak_memory_mib"):
        assert report[figure] > 0
    assert report["start_ms"] == {}  # ONNX Runtime compiles nothing
    assert set(report["ceiling"]) == {"matmul_gflops", "copy_gb_per_s"}
    assert all(figure > 0 for figure in report["ceiling"].values())


def test_the_host_overhead_is_what_the_engine_does_not_explain_in_the_same_runs(toy_dir: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    with fiffdepth_rt.Depth(toy_dir, threads=1, size=64) as depth:
        backend = TimedBackend(depth.backend)
        timed = depth.with_backend(backend)
        np.testing.assert_array_equal(timed.infer(photo), depth.infer(photo))
        timed.infer_batch([photo, photo])
        with pytest.raises(ImageError):
            timed.infer(photo[..., :2])
        assert len(backend.seconds) == 2 and all(s > 0 for s in backend.seconds)
        assert timed.describe() == depth.describe() and timed.size == 64
        wall_s, engine_s = time_frames(depth, photo, runs=3)
    assert all(0 < inside < wall for wall, inside in zip(wall_s, engine_s, strict=True))


def test_the_engine_s_part_and_the_host_s_are_in_the_report(answer: tuple[Path, str]) -> None:
    report = last_line(answer[1])
    assert 0 < report["in_engine"]["p50_ms"] < report["end_to_end"]["p50_ms"]
    assert 0 < report["host_overhead_ms"] < report["end_to_end"]["p99_ms"]
    assert report["full_hd_overhead_ms"] > 0
    assert "| host overhead of a 1080×1920 photo | " in answer[1]


def test_the_card_tells_the_machine_and_no_names_of_places(answer: tuple[Path, str]) -> None:
    path, text = answer
    assert set(last_line(text)["card"]) == {"CPU", "cores", "memory", "GPU", "system", "software"}
    assert str(path) not in text and str(Path.home()) + "/" not in text and str(ROOT) not in text


def test_the_table_shows_the_percentiles_stage_by_stage(answer: tuple[Path, str]) -> None:
    lines = answer[1].splitlines()
    assert lines[0] == "# toy, fp32, onnxruntime on cpu: 100×200"
    start = lines.index("| 100×200 on grid 128×256 | p50 ms | p90 ms | p99 ms |")
    rows = [line.split("|")[1].strip() for line in lines[start + 2 : start + 7]]
    assert rows == ["end to end", "encoder", "unet", "decoder", "host overhead"]


def test_percentiles_are_those_of_the_runs() -> None:
    timing = Timing.of([ms / 1000 for ms in range(101)])
    assert (timing.p50_ms, timing.p90_ms, timing.p99_ms) == pytest.approx((50, 90, 99))


def test_without_a_photo_s_size_it_takes_the_model_s_default(toy_dir: Path) -> None:
    choice = EngineChoice(backend="auto", device=None, precision=None, threads=None)
    report = measure_latency(toy_dir, choice, runs=1, warm_up=1)
    assert report.photo_hw == report.grid_hw == (256, 256)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--photo", "99999x99999"), "from 16 to 1024 px"),
        (("--photo", "8x64"), "too small"),
        (("--photo", "64"), "is no size: say height x width in px"),
        (("--photo", "-1x64"), "is no size"),
        (("--backend", "abacus"), "backend='abacus' is not known"),
        (("--precision", "fp64"), "precision='fp64' is not here"),
        (("--threads", "0"), "0 is not in the range"),
        (("--runs", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_measured_is_said(toy_dir: Path, arguments: tuple[str, str], complaint: str) -> None:
    result = bench(str(toy_dir), *arguments)
    assert result.exit_code in (1, 2) and result.stdout == ""
    assert complaint in result.stderr.splitlines()[-1]


def test_bench_needs_no_more_than_the_runtime() -> None:
    code = "import sys; sys.modules['torch'] = None; import fiffdepth_rt.program.latency"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

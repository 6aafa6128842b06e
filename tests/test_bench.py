"""Promises about `fiffdepth bench` and benchmarks/latency.py: what a report holds. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import fiffdepth_rt
from benchmarks.latency import save
from fiffdepth_rt.bench import Timing, measure
from fiffdepth_rt.cli import program

ROOT = Path(__file__).parents[1]
BRIEF = ("--runs", "4", "--warm-up", "1")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["bench", *arguments])


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The engine directory and what `fiffdepth bench --size 100x200` prints of it."""
    from toy import write_toy_engine_dir

    path = write_toy_engine_dir(tmp_path_factory.mktemp("bench") / "toy")
    result = bench(str(path), "--size", "100x200", *BRIEF)
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
    for timing in (report["end_to_end"], *report["stages"].values()):
        assert 0 < timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
    for figure in ("load_ms", "first_frame_ms", "peak_memory_mib"):
        assert report[figure] > 0
    assert set(report["ceiling"]) == {"matmul_gflops", "copy_gb_per_s"}
    assert all(figure > 0 for figure in report["ceiling"].values())


def test_the_host_overhead_is_what_the_stages_do_not_explain(answer: tuple[Path, str]) -> None:
    report = last_line(answer[1])
    stages_ms = sum(stage["p50_ms"] for stage in report["stages"].values())
    assert report["host_overhead_ms"] == pytest.approx(report["end_to_end"]["p50_ms"] - stages_ms)


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


def test_without_a_size_it_takes_the_model_s_default(toy_dir: Path) -> None:
    report = measure(toy_dir, runs=1, warm_up=1)
    assert report.photo_hw == report.grid_hw == (256, 256)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--size", "99999x99999"), "from 16 to 1024 px"),
        (("--size", "8x64"), "too small"),
        (("--size", "64"), "is no size: say height x width in px"),
        (("--size", "-1x64"), "is no size"),
        (("--backend", "abacus"), "backend='abacus' is not known"),
        (("--runs", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_measured_is_said(toy_dir: Path, arguments: tuple[str, str], complaint: str) -> None:
    result = bench(str(toy_dir), *arguments)
    assert result.exit_code in (1, 2) and result.stdout == ""
    assert complaint in result.stderr.splitlines()[-1]


def test_latency_py_measures_the_import_too(toy_dir: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.latency", str(toy_dir), *BRIEF]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    report = last_line(answer.stdout)
    assert report["import_ms"] > 0 and f"import {report['import_ms']:.0f} ms" in answer.stdout


def test_a_report_is_kept_as_markdown_and_json_and_says_its_command(toy_dir: Path, tmp_path: Path) -> None:
    report = measure(toy_dir, photo_hw=(64, 128), runs=1, warm_up=1)
    markdown = save(report, tmp_path / "results")
    assert markdown.name == "latency-toy-fp32-onnxruntime-cpu-64x128.md"
    assert sorted(path.suffix for path in (tmp_path / "results").iterdir()) == [".json", ".md"]
    assert json.loads(markdown.with_suffix(".json").read_text()) == json.loads(report.to_json())
    text = markdown.read_text()
    assert text.startswith(report.to_markdown())
    assert "`python -m benchmarks.latency --size 64x128 --runs 1 --warm-up 1`" in text
    assert save(report, tmp_path / "results") == markdown


def test_bench_needs_no_more_than_the_runtime() -> None:
    code = "import sys; sys.modules['torch'] = None; import fiffdepth_rt.bench"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(fiffdepth_rt.__file__).parents[1])

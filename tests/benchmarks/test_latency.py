"""Promises about benchmarks/latency.py: which rows, in which processes, and what the table makes of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import latency, report
from benchmarks.latency import LatencySettings, Records, specs
from benchmarks.rows import ceiling, flops, ours, picture, worker
from benchmarks.rows.row import Budget, Row, Spec, repeated
from benchmarks.rows.table import REFERENCE, Table
from benchmarks.rows.worker import measure_apart, without_places
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import BUNDLED, STAGES
from fiffdepth_rt.program.latency import Timing
from tests.benchmarks.test_commands import start_as_a_file
from tests.support.paths import ROOT
from tests.support.tables import cells


def spec(**changes: Any) -> Spec:
    common = {"module": "benchmarks.rows.ours", "kind": "ours", "name": "x", "size_hw": (64, 64)}
    common |= {"device": "cpu", "threads": 1}
    return Spec(**{**common, "runs": 2, "warm_up": 1, "budget_s": 60.0, **changes})


def settings(**changes: Any) -> LatencySettings:
    nothing = {"checkpoint": None, "prompt_embedding": None, "peers": (), "growth": (), "photo_hw": None}
    common = {"device": "cpu", "threads": 1, "runs": 9, "warm_up": 2, "width": 1.0, "budget_s": 60.0}
    return LatencySettings(**{**nothing, **common, "limit_s": 600.0, "directories": (BUNDLED,), **changes})


def row(name: str, p50_ms: float, **changes: Any) -> Row:
    timing = Timing(p50_ms=p50_ms, p90_ms=p50_ms * 1.1, p99_ms=p50_ms * 1.2)
    common = {"kind": "ours", "size_hw": (512, 512), "computes_in": "fp32", "runs": 5}
    return Row(name=name, **{**common, "end_to_end": timing, "jitter_ms": 1.0, "gflop": 100.0, **changes})


def table(*made: Row, growth: tuple[Row, ...] = ()) -> Table:
    reached = {"flops": {"fp32": 2e11, "bf16": 8e11}, "copy": 1e10, "emulated": ["fp16"]}
    return Table(
        rows=made,
        growth=growth,
        ceiling=Row(name="ceiling", kind="ceiling", size_hw=(512, 512), ceiling=reached),
        card={"CPU": "Some CPU", "GPU": "none", "threads": "2"},
        device="cpu",
        warm_up=3,
        import_ms=30.0,
        date="2026-01-02",
    )


# Which rows


def test_every_backend_and_precision_of_every_directory_is_a_row(toy_dir: Path) -> None:
    named = [s.name for part, s in specs(settings(directories=(toy_dir, BUNDLED))) if part == "rows"]
    assert named == [
        "ours: toy, onnxruntime fp32",
        "ours: toy, openvino bf16",
        "ours: toy, openvino fp32",
        "ours: nano, onnxruntime fp32",
        "ours: nano, openvino fp32",
    ]


def test_two_directories_of_one_name_are_told_apart(toy_dir: Path, tmp_path: Path) -> None:
    other = toy_dir.rename(tmp_path / "light")
    named = [s.name for _, s in specs(settings(directories=(BUNDLED, other, other)))]
    assert "ours: toy (light), onnxruntime fp32" in named


def test_the_paper_s_own_way_comes_in_every_precision_layout_and_compiled(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.safetensors"
    found = [s for _, s in specs(settings(checkpoint=checkpoint)) if s.kind == "torch"]
    kinds = {(s.options["dtype"], s.options["channels_last"], s.options["compiled"]) for s in found}
    assert kinds == {(d, *how) for d in ("fp32", "bf16", "fp16") for how in ((0, 0), (1, 0), (1, 1))}
    assert len({s.key for s in found}) == len(found) == 9


def test_growth_goes_from_256_to_what_the_model_takes(toy_dir: Path) -> None:
    found = [
        s for part, s in specs(settings(directories=(toy_dir,), growth=latency.GROWTH)) if part == "growth"
    ]
    assert [s.size_hw for s in found] == [
        (256, 256),
        (512, 512),
        (768, 768),
        (1024, 1024),
    ]
    assert all(s.runs == 3 and s.options["precision"] == "bf16" for s in found)


def test_every_row_names_a_module_that_there_is() -> None:
    given = settings(checkpoint=Path("x"), peers=latency.PEER_NAMES)
    modules = {s.module for _, s in specs(given)}
    names = ("ceiling", "ours", "in_torch", "peers", "peer_in_engine")
    assert modules == {f"benchmarks.rows.{name}" for name in names}
    assert all(importlib.util.find_spec(module) for module in modules)


def test_a_changed_engine_directory_is_measured_again(toy_dir: Path) -> None:
    before = next(iter(ours.options_of(toy_dir, "cpu")))
    manifest = toy_dir / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert spec(options=before).key != spec(options=next(iter(ours.options_of(toy_dir, "cpu")))).key


# One row


@pytest.fixture(scope="module")
def nano_row() -> Row:
    options = next(iter(ours.options_of(BUNDLED, "cpu")))
    return ours.measure(spec(options=options, runs=3))


def test_a_row_of_ours_holds_every_figure(nano_row: Row) -> None:
    assert (nano_row.computes_in, nano_row.runs) == ("fp32", 3)
    assert list(nano_row.stages_ms) == ["encoder", "unet", "decoder"]
    for figure in ("fps", "gflop", "load_ms", "first_frame_ms", "peak_host_mib", "host_overhead_1080p_ms"):
        assert getattr(nano_row, figure) > 0, figure
    assert nano_row.end_to_end is not None and nano_row.host_overhead_ms is not None
    assert 0 < nano_row.host_overhead_ms < nano_row.end_to_end.p99_ms


def test_speed_travels_with_its_accuracy(nano_row: Row) -> None:
    assert nano_row.deviation is not None and 0 < nano_row.deviation < 1e-4


def test_a_graph_s_arithmetic_is_that_of_its_convolutions_and_products(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(np.zeros((6, 2, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.zeros((32, 5), np.float32), "m"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], group=2),
        helper.make_node("MatMul", ["c", "m"], ["y"]),
    ]
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "h", "w_"])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [takes], [gives], weights)
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    counted = flops.graph_flops(tmp_path / "g.onnx", {"x": (1, 4, 16, 64)})
    assert counted == 2 * (6 * 8 * 32) * (2 * 9) + 2 * (6 * 8 * 5) * 32


def test_nano_s_graphs_cost_what_its_size_says() -> None:
    at = flops.engine_dir_gflop(open_engine_dir(BUNDLED), "fp32", (64, 64))
    assert at == pytest.approx(0.2318, rel=1e-3)


def test_a_slow_row_gets_fewer_runs_but_one_at_least() -> None:
    assert len(repeated(lambda: 1, 10, Budget(60))) == 10
    assert len(repeated(lambda: 1, 10, Budget(0))) == 1
    assert repeated(lambda: 1, 4, Budget(0), at_least=0) == []
    assert repeated(lambda: 1, 4, Budget(60), share=0.0, at_least=0) == []


def test_the_budget_ends_the_row_whose_figures_are_taken_once_then() -> None:
    options = next(iter(ours.options_of(BUNDLED, "cpu")))
    found = ours.measure(spec(options=options, runs=50, warm_up=50, budget_s=0.0))
    assert found.runs == 1 and found.end_to_end is not None and list(found.stages_ms) == list(STAGES)
    assert found.fps is None and found.host_overhead_1080p_ms is None and found.deviation is not None


def test_the_ceiling_is_of_what_this_cpu_has_units_for() -> None:
    found = ceiling.measure_ceiling("cpu", 1, budget=Budget(0), side=256)
    assert found.flops["fp32"] > 0 and found.copy > 0
    assert set(found.flops) | set(found.emulated) == {"fp32", "fp16", "bf16"}
    assert not set(found.flops) & set(found.emulated)
    assert all(flops >= found.flops["fp32"] for flops in found.flops.values())


# Processes


def test_a_row_that_fails_is_a_line_with_the_reason_and_no_places() -> None:
    failed = measure_apart(spec(options={"directory": "/some/where/else"}), limit_s=120)
    assert failed.end_to_end is None and failed.error == "KeyError: 'backend'"


def test_a_row_that_takes_too_long_is_ended_and_said() -> None:
    assert measure_apart(spec(), limit_s=0.01).error == "ended after 0.01 s without a result"


def test_a_process_that_the_system_killed_is_told_from_one_that_crashed() -> None:
    assert "memory ran out" in worker.why_ended(-9, "", 1)
    assert worker.why_ended(-11, "", 1) == "crashed (signal 11)"
    assert worker.why_ended(1, "Traceback:\n  x\nValueError: no\n\n", 1) == "ValueError: no"
    assert worker.why_ended(1, "", 1) == "exit code 1 without a word"


def test_no_place_of_this_machine_is_in_an_error() -> None:
    assert without_places("No such file: '/home/me/models/a.onnx' (1/2)") == "No such file: 'a.onnx' (1/2)"
    assert without_places(r"cannot read C:\Users\me\a.onnx") == "cannot read a.onnx"


# Going on after a kill


def test_finished_rows_are_not_measured_again_and_failed_ones_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    first = Records(file)
    first.add(spec(name="fine"), row("fine", 10))
    first.add(spec(name="broken"), Row(name="broken", kind="ours", size_hw=(64, 64), error="no"))
    again = Records(file)
    assert again.get(spec(name="fine")) == row("fine", 10)
    assert again.get(spec(name="broken")) is None and again.get(spec(name="new")) is None


def test_a_line_that_a_kill_cut_off_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    Records(file).add(spec(name="fine"), row("fine", 10))
    whole = file.read_text()
    file.write_text(whole + whole[: len(whole) // 2])
    assert Records(file).get(spec(name="fine")) == row("fine", 10)
    Records(file).add(spec(name="next"), row("next", 11))
    assert Records(file).get(spec(name="next")) == row("next", 11)


# The table


def test_the_share_of_the_ceiling_is_that_of_the_row_s_own_precision() -> None:
    made = table(row("a", 1000), row("b", 1000, computes_in="bf16"), row("c", 1000, computes_in="int8"))
    assert [made.ceiling_percent(r) for r in made.rows] == [50, 12.5, None]
    assert [made.floor_ms(r) for r in made.rows] == [500, 125, None]


def test_rows_are_held_against_diffusers_in_fp32_and_its_best_bf16_variant() -> None:
    made = table(
        row("ours", 500),
        row("torch fp32, compiled", 900, kind="torch"),
        row(REFERENCE, 2000, kind="torch"),
        row("torch bf16", 1000, kind="torch", computes_in="bf16"),
        row("torch bf16, compiled", 800, kind="torch", computes_in="bf16"),
    )
    assert made.speedup(made.rows[0]) == 4
    assert made.ratios() == [f"- ours: 4.00 × {REFERENCE}; 1.60 × torch bf16, compiled"]
    assert made.ratios()[0] in made.to_markdown()
    assert table(row("ours", 500)).ratios() == []


def test_the_reference_is_a_row_of_the_whole_table() -> None:
    assert REFERENCE in [s.name for _, s in specs(settings(checkpoint=Path("x")))]


def test_the_markdown_holds_every_row_what_was_modelled_and_what_failed() -> None:
    modelled = row("slow", 60_000, kind="peer", modelled="10 × UNet step of 6 s")
    failed = Row(name="broken", kind="torch", size_hw=(512, 512), error="MemoryError")
    text = table(row("fast", 123.4, fps=8.5, deviation=2e-7), modelled, failed).to_markdown()
    assert ["fast", "123", "136", "148", "1", "5", "", "8.5", "100", "405"] in cells(text)
    assert ["slow*", "60,000"] in [line[:2] for line in cells(text)]
    assert "- slow: 10 × UNet step of 6 s" in text
    assert "## What gave no figures\n\n- broken, 512×512: MemoryError" in text
    assert "2.0e-07" in text


def test_the_ceiling_is_told_beside_the_machine() -> None:
    said = table(row("fast", 1)).facts["ceiling"]
    assert "fp32 200, bf16 800 GFLOP/s" in said and "(fp16 only emulated by this CPU)" in said


def test_growth_is_a_line_per_engine_and_a_column_per_size() -> None:
    small = row("a", 10, size_hw=(256, 256), peak_host_mib=300.0)
    large = row("a", 41, size_hw=(512, 512), peak_host_mib=900.0)
    text = table(row("a", 41), growth=(small, large)).to_markdown()
    assert ["p50 ms / peak host MiB", "256²", "512²"] in cells(text)
    assert ["a", "10 / 300", "41 / 900"] in cells(text)


def test_the_picture_shows_a_bar_per_row() -> None:
    few, many = (
        cv2.imdecode(np.frombuffer(picture.bars(table(*made)), np.uint8), cv2.IMREAD_COLOR)
        for made in ([row("a", 10)], [row(f"row {i}", 10 * i) for i in range(1, 12)])
    )
    assert few.shape[1] == many.shape[1] and few.shape[0] + 400 < many.shape[0]
    blue = np.array([0xA8, 0x6C, 0x1B])  # of ours, in BGR
    assert (np.abs(many.astype(int) - blue).sum(axis=2) < 12).sum() > 10_000


# The command


def test_one_command_measures_every_row_from_any_folder_and_ends_in_json(
    toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file in a folder beside nothing; then again in this process, to which every row is known."""
    words = [str(toy_dir), "--photo", "64x96", "--runs", "1", "--warm-up", "1"]
    words += ["--records", str(tmp_path / "rows.jsonl")]
    first = start_as_a_file(ROOT / "benchmarks" / "latency.py", *words, folder=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    first_report = json.loads(first.stdout.splitlines()[-1])
    assert [r["name"] for r in first_report["rows"]] == [
        "ours: toy, onnxruntime fp32",
        "ours: toy, openvino bf16",
        "ours: toy, openvino fp32",
    ]
    assert dataclasses.asdict(table()).keys() <= first_report.keys() and first_report["import_ms"] > 0
    assert all(not r["error"] and r["peak_host_mib"] > 0 for r in first_report["rows"])
    assert first_report["command"].startswith("python -m benchmarks.latency toy --photo 64x96 ")
    assert str(tmp_path) not in first.stdout

    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    again = CliRunner().invoke(latency.main, [*words, "--save"])
    assert (again.exit_code, again.stderr) == (0, "")
    assert json.loads(again.stdout.splitlines()[-1])["rows"] == first_report["rows"]
    assert sorted(p.suffix for p in (tmp_path / "results").iterdir()) == [".json", ".md", ".png"]
    assert str(tmp_path) not in again.stdout.replace(f"Kept in {tmp_path}", "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--photo", "64"], "is no size: say height x width in px"),
        (["nowhere"], "does not exist"),
        (["--runs", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_asked_is_said(words: list[str], complaint: str) -> None:
    result = CliRunner().invoke(latency.main, words)
    assert result.exit_code == 2 and complaint in result.stderr

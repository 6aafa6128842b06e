"""Promises of `make gpu`: a step ends or is ended, nothing that was found is lost, and failures show."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from benchmarks import latency
from benchmarks import report as reports
from benchmarks.gpu_proof import __main__ as gpu_proof
from benchmarks.gpu_proof import full_size, gpu_tests, process, speed, steps, writing
from benchmarks.gpu_proof.process import Findings, Outcome, Task, run_step
from benchmarks.rows.row import Row
from fiffdepth_rt import machine
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS
from fiffdepth_rt.engine_dir.manifest import BUNDLED
from fiffdepth_rt.program.latency import Timing
from tests.support import proof_steps
from tests.support.paths import ROOT
from tests.support.tiny_models import exact_in_half, sized_like_sd2
from tests.support.toy import write_toy_engine_dir
from training.weights.random import write_layout


def task(folder: Path, **changes: Any) -> Task:
    return Task(**{"work": str(folder), "rehearse": True, "device": "cpu", **changes})


def outcome(state: str, **changes: Any) -> Outcome:
    common = {"name": "nano", "title": "nano's bits", "why": "", "seconds": 3.0, "budget_s": 40.0}
    return Outcome(**{**common, "state": state, "findings": Findings(), **changes})


# --- a step in a process of its own ---


def test_a_step_that_raises_has_failed_and_what_it_found_before_is_kept(tmp_path: Path) -> None:
    found = run_step(proof_steps.step("raises"), task(tmp_path), budget_s=60)
    assert (found.state, found.why) == ("failed", "RuntimeError: the engine is on fire")
    assert [check.name for check in found.findings.checks] == ["the first half"]
    assert "Traceback" in found.last_words and "/" not in found.last_words


def test_a_step_that_is_killed_has_failed_and_what_it_found_before_is_kept(tmp_path: Path) -> None:
    found = run_step(proof_steps.step("is killed"), task(tmp_path), budget_s=60)
    assert found.state == "failed" and "signal 9" in found.why
    assert [check.name for check in found.findings.checks] == ["the first half"]


def test_a_step_that_hangs_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    found = run_step(proof_steps.step("hangs"), task(tmp_path), budget_s=2)
    assert (found.state, found.why) == ("failed", "ended after 2 s without a result")


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    run_step(proof_steps.step("leaves a child"), task(tmp_path), budget_s=60)
    pid = int((tmp_path / proof_steps.CHILD_PID).read_text())
    while _is_alive(pid):  # it has been killed; else this goes on until the suite's own end
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("checks", "state"),
    [([True, None], "passed"), ([True, False], "failed"), ([None, None], "skipped"), ([], "skipped")],
)
def test_a_step_is_what_its_checks_are(checks: list[bool | None], state: str) -> None:
    findings = Findings()
    for passed in checks:
        findings = findings.and_check("it", passed, "no GPU")
    found, why = process._state(0, "", findings, 60)
    assert found == state
    assert why == {"passed": "", "failed": "it: no GPU", "skipped": "no GPU" if checks else ""}[state]


@pytest.mark.parametrize(
    ("states", "proof"),
    [
        (["passed", "skipped"], True),
        (["passed", "failed"], False),
        (["skipped", "skipped"], False),
        ([], False),
    ],
)
def test_it_is_a_proof_if_something_passed_and_nothing_failed(states: list[str], proof: bool) -> None:
    assert gpu_proof.is_proof([outcome(state) for state in states]) is proof


def test_what_a_step_leaves_of_its_time_goes_to_those_behind_it(tmp_path: Path) -> None:
    """Two steps of 100 s and 50 s, the first one of which takes almost nothing."""
    planned = [proof_steps.step("passes", budget_s=100), proof_steps.step("disagrees", budget_s=50)]
    first, second = gpu_proof.run_steps(planned, task(tmp_path))
    whole = steps.MINUTES * 60 - steps.REPORT_S
    assert (first.state, second.state) == ("passed", "failed")
    assert first.budget_s == pytest.approx(whole - 50, abs=1)
    assert second.budget_s == pytest.approx(whole - first.seconds, abs=2)


def test_all_steps_and_the_report_fit_into_eight_minutes_and_each_can_be_started() -> None:
    assert sum(step.budget_s for step in steps.STEPS) + steps.REPORT_S <= 8 * 60
    for step in steps.STEPS:
        assert importlib.util.find_spec(step.module), step.module
        assert callable(importlib.import_module(step.module).prove)


# --- pytest -m gpu ---


def test_no_file_with_a_test_for_a_gpu_is_left_out() -> None:
    marked = [path for path in gpu_tests.files_of_gpu_tests() if path != Path(__file__).relative_to(ROOT)]
    on_gpu = [Path("tests/runtime/gpu") / name for name in ("test_on_a_gpu.py", "test_on_an_rtx_card.py")]
    assert marked == [*on_gpu, Path("tests/runtime/test_backends.py")]


CASE = '<testcase classname="tests.a" name="{}">{}</testcase>'
FAILED = CASE.format("bits", '<failure message="AssertionError: /x/y/z.py differs">long</failure>')
SKIPPED = CASE.format("cupy", '<skipped message="no cupy"/>')


@pytest.mark.parametrize(
    ("cases", "code", "passed", "words"),
    [
        ([CASE.format("a", ""), SKIPPED], 0, True, "1 passed, 1 skipped"),
        ([CASE.format("a", ""), FAILED], 1, False, "1 passed, 1 failed"),
        ([SKIPPED], 0, None, "1 skipped; no cupy"),
        ([CASE.format("a", "")], 3, False, "1 passed"),
    ],
)
def test_pytest_s_word_becomes_one_check(
    cases: list[str], code: int, passed: bool | None, words: str
) -> None:
    found = gpu_tests.judge(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>", code)
    assert [(check.passed, check.words) for check in found.checks] == [(passed, words)]
    assert ("AssertionError: z.py differs" in found.text) is (FAILED in cases)


# --- speed ---


def test_on_a_gpu_the_rows_that_are_worth_most_come_first(toy_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "random").touch()
    asked = task(tmp_path, rehearse=False, device="cuda")
    work = speed.work_of(asked, speed.settings_for(asked, [toy_dir], torch=True, growth=False))
    assert [spec.name for _, spec in work] == [
        "ceiling",
        "Depth Anything V2-L, fp16, compiled",
        "diffusers in torch, fp16, channels-last, eager",
        "diffusers in torch, bf16, channels-last, eager",
        "Depth Anything V2-L, tensorrt-rtx fp16",
        "Depth Anything V2-L, tensorrt fp16",
        "diffusers in torch, fp16, channels-last, compiled",
        "diffusers in torch, bf16, channels-last, compiled",
    ]
    assert {spec.size_hw for _, spec in work} == {(512, 512)}


def test_ours_is_timed_right_after_the_ceiling(toy_dir: Path, tmp_path: Path) -> None:
    asked = task(tmp_path)
    work = speed.work_of(asked, speed.settings_for(asked, [toy_dir], torch=True, growth=True))
    parts = [part for part, _ in work]
    assert [spec.kind for _, spec in work][:4] == ["ceiling", "ours", "ours", "ours"]
    assert parts == sorted(parts, key=["ceiling", "rows", "growth"].index) and "growth" in parts


def test_without_a_library_its_rows_are_left_out_with_the_reason(
    toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speed.NEEDS, "torch", ("torch", "a_library_that_is_not_here"))
    (tmp_path / "random").touch()
    asked = task(tmp_path, end=0.0)
    work = speed.work_of(asked, speed.settings_for(asked, [toy_dir], torch=True, growth=False))
    *_, found = speed.measure(asked, [(part, spec) for part, spec in work if spec.kind == "torch"])
    left_out = "- diffusers in torch, bf16, channels-last, eager: a_library_that_is_not_here not installed"
    assert left_out in found.text and found.rows == ()


def test_an_engine_that_is_not_here_leaves_its_row_out_before_a_graph_is_made(tmp_path: Path) -> None:
    asked = task(tmp_path, rehearse=False, device="cuda")
    work = speed.work_of(asked, speed.settings_for(asked, [BUNDLED], torch=True, growth=False))
    reasons = {spec.options["engine"]: speed.why_not(spec) for _, spec in work if "engine" in spec.options}
    for flavour in FLAVOURS:
        usability = here.usable(flavour)
        assert reasons[flavour.name] == ("" if usability.usable else f"{usability.why}. Run: {usability.fix}")


def test_rows_that_there_is_no_time_for_say_so(toy_dir: Path, tmp_path: Path) -> None:
    asked = task(tmp_path, end=0.0)
    work = speed.work_of(asked, speed.settings_for(asked, [toy_dir], torch=False, growth=False))
    *_, found = speed.measure(asked, work)
    assert {row.error for row in found.rows} == {"not measured: there was no time left"}
    assert [check.passed for check in found.checks] == [False]


# --- the report ---


def timed_row(name: str) -> Row:
    timing = Timing(p50_ms=4.0, p90_ms=5.0, p99_ms=6.0)
    return Row(name=name, kind="ours", size_hw=(512, 512), computes_in="fp16", end_to_end=timing, gflop=100.0)


def test_the_report_has_every_step_its_reason_and_what_a_failed_one_printed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "import_ms", lambda: 30.0)
    ceiling = Row(
        name="ceiling",
        kind="ceiling",
        size_hw=(512, 512),
        ceiling={"flops": {"fp16": 5e13}, "emulated": [], "copy": 1e12},
    )
    speedy = Findings(ceiling=ceiling, rows=(timed_row("ours: full"),)).and_check("ours was timed", True)
    done = [
        outcome("passed", name="latency", title="Latency", findings=speedy),
        outcome("failed", why="crashed (signal 11)", last_words="Fatal Python error: Segmentation fault"),
        outcome("skipped", name="light-vae", title="Light", why="torch: not installed"),
    ]
    made = writing.report(done, task(tmp_path, rehearse=False), command="python -m benchmarks.gpu_proof")
    text = made.to_markdown()
    assert "| nano      | **FAILED** |   3 |           40 | crashed (signal 11)  |" in text
    assert "| light-vae | skipped    |" in text and "torch: not installed" in text
    assert "```text\nFatal Python error: Segmentation fault\n```" in text
    assert re.search(
        r"\| ours: full \|\s+4 \|\s+5 \|\s+6 \|.*\|\s+50 \|", text
    )  # 100 GFLOP in 4 ms: half of 5e13
    assert "REHEARSAL" not in text and made.stem.startswith("gpu-proof-")
    assert json.loads(made.to_json())["outcomes"][1]["state"] == "failed"


def pages(text: str) -> list[str]:
    return re.split(r"^(?=##? )", text, flags=re.M)[1:]


def rehearse(*words: str | Path) -> tuple[int, str, str]:
    """Exit status, what went to stdout, what went to stderr."""
    result = CliRunner().invoke(gpu_proof.main, ["--rehearse", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.soak
def test_a_rehearsal_says_so_on_every_page_and_in_its_name_and_keeps_out_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = write_toy_engine_dir(tmp_path / "toy")
    monkeypatch.setattr(reports, "RESULTS", tmp_path / "results")
    only = ["--only", "nano-tensorrt-rtx", "--only", "full-size"]
    code, text, _ = rehearse(*only, "--engine", toy, "--work", tmp_path / "work")
    assert code == 0, text
    assert len(pages(text)) == 4 and all("REHEARSAL" in page for page in pages(text))
    kept = sorted(path.name for path in (tmp_path / "work" / "report").iterdir())
    assert [Path(name).suffix for name in kept] == [".json", ".md", ".png"]
    assert all(name.startswith("gpu-proof-rehearsal-") for name in kept)
    assert not (tmp_path / "results").exists()
    assert re.search(r"the same bits on every route +\| yes +\| 8 routes × 3 frames", text)
    assert re.search(r"onnxruntime fp32: every stage and the journey agree .* \| yes", text)
    assert re.search(r"TensorRT for RTX: plans are built +\| yes .* not yet run on a GPU", text)


def test_parity_beyond_the_gate_fails_the_rehearsal(tmp_path: Path) -> None:
    wrong = write_toy_engine_dir(tmp_path / "toy", shift=0.5)
    code, text, said = rehearse("--only", "full-size", "--engine", wrong)
    assert code == 1
    assert "full-size: failed" in said
    assert "onnxruntime fp32: every stage and the journey agree with the golden values" in said
    assert re.search(
        r"\*\*NO\*\* +\| fp32/unet on photo0 \(128x192, onnxruntime\) differs from the checkpoint", text
    )


@pytest.mark.soak
def test_a_checkpoint_is_exported_by_the_recipe_that_was_typed(tmp_path: Path) -> None:
    """A bare state dict, which does not say of itself which model it is."""
    made = exact_in_half(sized_like_sd2())
    write_layout(tmp_path / "plain.safetensors", "ldm", made)
    words = ["--only", "full-size", "--checkpoint", tmp_path / "plain.safetensors"]
    code, text, said = rehearse(*words, "--minutes", "30")
    assert code == 1 and re.search(r"full-size: failed .* --recipe", said), said
    code, text, said = rehearse(*words, "--recipe", "fiffdepth", "--minutes", "30")
    assert code == 0 and re.search(r"\| exported +\| yes", text), said


def test_a_recipe_that_is_unknown_or_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    code, _, said = rehearse("--recipe", "fiffdepth")
    assert code == 2 and "says how the model of --checkpoint is asked" in said
    code, _, said = rehearse("--recipe", "fifdepth", "--checkpoint", tmp_path)
    assert code == 2 and "'fifdepth' is none of fiffdepth, genpercept" in said


def test_without_a_gpu_it_says_how_to_rehearse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_proof, "nvidia_driver", machine.NvidiaDriver)
    result = CliRunner().invoke(gpu_proof.main, [])
    assert result.exit_code == 1
    assert "There is no NVIDIA GPU here" in result.stderr and "make gpu REHEARSE=1" in result.stderr


def test_the_guide_s_table_of_steps_is_the_one_that_runs() -> None:
    guide = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z-]+)` \| (\d+) s \|", guide, re.M)
    assert listed == [(step.name, f"{step.budget_s:.0f}") for step in steps.STEPS]


@pytest.mark.soak
def test_the_random_checkpoint_is_whole_or_not_there_and_torch_s_rows_read_it(tmp_path: Path) -> None:
    from export.model import Given, read_checkpoint

    full_size.make_random(
        tmp_path / "random", "--layout", "folder", "--dtype", "fp16", "--weak-branches", "--width", "0.01"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random", "random.prompt.safetensors"]
    assert read_checkpoint(tmp_path / "random", Given(recipe="fiffdepth")).notes


@pytest.mark.soak
def test_the_whole_rehearsal_passes_every_step_that_a_cpu_can_take(tmp_path: Path) -> None:
    code, text, said = rehearse("--minutes", "60", "--work", tmp_path / "work")
    assert code == 0, said
    states = dict(re.findall(r"^([a-z-]+): (passed|failed|skipped) in", said, re.M))
    assert states == {step.name: "passed" for step in steps.STEPS} | {"gpu-tests": "skipped"}
    assert len(re.findall(r"ours was timed +\| yes +\| (\d+) of \1 rows", text)) == 3, text
    assert "## Growth" in text and "channels-last, eager" in text

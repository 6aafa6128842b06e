"""Promises about benchmarks/report.py and commands.py: what is printed, what is kept, by which name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import commands, report
from benchmarks.report import Report, publish, slug, table
from fiffdepth_rt.errors import EngineDirError

PNG = b"\x89PNG"


def made(**changes: Any) -> Report:
    given: dict[str, Any] = {
        "benchmark": "accuracy",
        "title": "Accuracy",
        "command": "python -m benchmarks.accuracy frames",
        "card": {"CPU": "Intel(R) Xeon(R) Processor", "GPU": "NVIDIA L4, 550.54.15, 23034 MiB"},
        "text": table(["method", "n"], [["nano", 7]], align="lr"),
        "figures": {"rows": [{"method": "nano", "n": 7}]},
        "date": "2026-01-02",
    }
    return Report(**{**given, **changes})


def test_cells_of_a_table_stand_as_they_are_words_to_the_left_and_figures_to_the_right() -> None:
    lines = table(["", "ms"], [["ours", "1,234"], ["theirs, 1e3", "2.50"]], align="lr").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2:] == [["ours", "1,234"], ["theirs, 1e3", "2.50"]]
    left, right = cells[1]
    assert not left.endswith(":") and set(left) <= {":", "-"}
    assert right.endswith(":") and set(right[:-1]) == {"-"}


def test_a_table_without_rows_still_has_its_header() -> None:
    assert len(table(["a", "b"], [], align="lr").splitlines()) == 2


def test_every_column_is_aligned_by_name() -> None:
    with pytest.raises(ValueError, match="2 columns, and 'l' aligns 1"):
        table(["a", "b"], [], align="l")


def test_the_report_opens_with_what_was_typed_and_on_which_machine() -> None:
    text = made(facts={"model": "nano"}).to_markdown()
    assert text.startswith(
        "# Accuracy, 2026-01-02\n\n`python -m benchmarks.accuracy frames`\n\n- CPU: Intel(R) Xeon(R) Proc"
    )
    assert "\n- model: nano\n\n| method" in text


def test_machine_and_day_are_in_the_name_of_a_kept_report(tmp_path: Path) -> None:
    kept = made(subject="nano", draw=lambda: PNG).save(tmp_path)
    assert kept.name == "accuracy-nano-intel-xeon-2026-01-02.md"
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".json", ".png"}
    assert {path.stem for path in tmp_path.iterdir()} == {kept.stem}
    assert kept.with_suffix(".png").read_bytes() == PNG
    assert kept.read_text().endswith(f"\n\n![Accuracy]({kept.stem}.png)\n")


def test_a_report_of_a_gpu_has_the_gpu_in_its_name() -> None:
    assert made(on_gpu=True).stem == "accuracy-nvidia-l4-550-54-15-23034-mib-2026-01-02"


def test_what_is_kept_and_what_is_printed_last_are_the_same_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    publish(made(), save=True)
    last = capsys.readouterr().out.splitlines()[-1]
    (kept,) = (tmp_path / "results").glob("*.json")
    assert kept.read_text() == last + "\n"
    assert json.loads(last)["card"]["CPU"] == "Intel(R) Xeon(R) Processor"
    assert json.loads(last)["rows"] == [{"method": "nano", "n": 7}]


def test_nothing_is_kept_that_nobody_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    publish(made(), save=False)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_drawn_leaves_no_report_behind(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise RuntimeError("no fonts")

    with pytest.raises(RuntimeError):
        made(draw=fail).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_processor_s_name_is_fit_for_a_file() -> None:
    assert slug("Intel(R) Xeon(R) Platinum 8488C Processor") == "intel-xeon-platinum-8488c"
    assert slug("NVIDIA H200 (compute capability 9.0)") == "nvidia-h200-compute-capability-9-0"
    assert slug("…") == "unknown"


def test_a_command_is_told_without_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/home/me/frames/", "--engine=../engines/x", r"C:\engines\y", "--size", "512", "two words"]
    monkeypatch.setattr(sys, "argv", ["/home/me/clone/benchmarks/accuracy.py", *words])
    assert commands.typed("accuracy") == (
        "python -m benchmarks.accuracy frames --engine=x y --size 512 'two words'"
    )


def test_an_engine_directory_that_is_wrong_is_a_sentence_not_a_traceback() -> None:
    @commands.command("Fails.")
    def fails() -> None:
        raise EngineDirError("There is no manifest.")

    result = CliRunner().invoke(fails)
    assert (result.exit_code, result.stderr) == (1, "Error: There is no manifest.\n")


def test_help_breaks_its_lines_where_the_text_does() -> None:
    text = "First.\n\n    python -m x     # as it stands\n    python -m x -y  # too\n\nLast\nlines."

    @commands.command(text)
    def shown() -> None: ...

    lines = [line.strip() for line in CliRunner().invoke(shown, ["--help"]).stdout.splitlines()]
    assert [line for line in lines if line and line not in ("Options:",)][1:-1] == [
        line.strip() for line in text.splitlines() if line
    ]

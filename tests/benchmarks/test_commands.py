"""Promises of every command in benchmarks/: it starts as a file, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import accuracy
from tests.support.paths import ROOT

COMMANDS = sorted(
    path for path in (ROOT / "benchmarks").glob("*.py") if 'if __name__ == "__main__":' in path.read_text()
)
SLOW_TO_START = ("ablation", "light_vae")  # torch and diffusers: ten seconds before a word of help
SEARCHED_FIRST = ["import sys", "from pathlib import Path"]


def start_as_a_file(path: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python <path> <words>` in `folder`, as someone starts it who has set nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(path), *words], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.soak] if path.stem in SLOW_TO_START else [], id=path.stem)
        for path in COMMANDS
    ],
)
def test_every_command_starts_as_a_file_from_any_folder(path: Path, tmp_path: Path) -> None:
    ended = start_as_a_file(path, "--help", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"python -m benchmarks.{path.stem}" in ended.stdout


@pytest.mark.parametrize(
    "words",
    [["--datasets", f"scenes:2,folder:a/{'n' * 256}"], ["--datasets", "scenes:2", "--model", "n" * 256]],
)
def test_a_name_longer_than_a_file_s_may_be_is_refused_as_it_is_read(words: list[str]) -> None:
    ended = CliRunner().invoke(accuracy.main, words)
    assert ended.exit_code == 2
    assert "is longer than a name may be, 255 bytes" in ended.output


def test_only_sys_and_pathlib_are_searched_for_where_ours_could_hide_a_library() -> None:
    """Whatever stands behind the two lines is no longer searched for in benchmarks/ itself."""
    for path in COMMANDS:
        head = path.read_text().partition("\nif not __package__:")[0]
        imported = [line for line in head.splitlines() if line.startswith(("import ", "from "))]
        assert imported == ["from __future__ import annotations", *SEARCHED_FIRST], path.name


def test_every_report_is_made_and_kept_by_report_py() -> None:
    """One way to report: whoever writes a table, or into results/, by hand makes a second one."""
    for path in (ROOT / "benchmarks").rglob("*.py"):
        if path.name not in ("report.py", "__init__.py"):
            text = path.read_text()
            assert "|---" not in text and '"results"' not in text and "tabulate" not in text, path.name

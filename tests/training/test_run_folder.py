"""Promises of a run's folder: one run at a time, whoever asks, and a killed run locks nobody out."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from training.errors import TrainingError
from training.run_folder import only_run_in

HOLD = """
import sys, time
from pathlib import Path
from training.run_folder import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        with pytest.raises(TrainingError, match="run: wait for it"), only_run_in(tmp_path / "run"):
            pass
    finally:
        first.kill()
        first.communicate()
    with only_run_in(tmp_path / "run"):
        pass


def test_a_second_run_of_the_same_process_is_refused_and_the_folder_is_free_afterwards(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        with only_run_in(tmp_path):
            refused = pytest.raises(TrainingError, match="Another run is using")
            with refused, only_run_in(tmp_path):
                pass


def test_an_error_inside_a_run_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_run_in(tmp_path):
        raise ZeroDivisionError
    with only_run_in(tmp_path):
        pass


def test_no_module_needs_what_only_unix_has_to_be_imported() -> None:
    """So that training can be imported on Windows. Inside of a function such an import may stand."""
    found = []
    for path in (ROOT / "training").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(path.name, name) for name in names if name in UNIX_ONLY]
    assert not found


UNIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}

"""Promises about who imports whom: the contracts of pyproject.toml hold, and each of them can be broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FOLDERS = ("fiffdepth_rt", "training", "export", "benchmarks", "tests")


def _lint(repository: Path) -> tuple[int, str]:
    """Exit status and output of import-linter, started in `repository`."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_hold() -> None:
    status, said = _lint(ROOT)
    assert status == 0, said


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        ("training/objective.py", "import benchmarks.latency", "benchmarks > export > training"),
        ("fiffdepth_rt/image.py", "import fiffdepth_rt.stream", "inside the runtime"),
        ("fiffdepth_rt/errors.py", "import fiffdepth_rt.machine", "inside the runtime"),
        (
            "fiffdepth_rt/backends/openvino/cache.py",
            "import fiffdepth_rt.backends.onnxruntime.cpu",
            "backends know nothing",
        ),
        ("fiffdepth_rt/gpu/arrays.py", "def late():\n    import torch", "the runtime needs no torch"),
        ("tests/support/toy.py", "import training.objective", "the runtime's tests need no torch"),
        ("training/objective.py", "import training.train", "no circles"),
    ],
)
def test_an_import_against_the_rules_is_found(tmp_path: Path, file: str, planted: str, contract: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            copy = tmp_path / module.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, copy)
    with (tmp_path / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{planted}\n")
    status, said = _lint(tmp_path)
    broken = [line for line in said.splitlines() if " BROKEN" in line]
    assert status == 1 and any(line.startswith(contract) for line in broken), said


def test_no_folder_has_more_than_twenty_modules() -> None:
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    count = Counter(str(path.parent.relative_to(ROOT)) for path in modules if path.name != "__init__.py")
    assert {folder: n for folder, n in count.items() if n > 20} == {}

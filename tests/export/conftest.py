"""One export, by the command as a newcomer types it, for all tests that look at its directory."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from tests.support.paths import ROOT
from tests.support.tiny_models import FEW_RESNETS, exact_in_half, tiny_checkpoint, tiny_vae
from training.weights.ours import Checkpoint, save_checkpoint


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One file that wants the plain export comes before everything else, so that no process waits for it."""
    items.sort(key=lambda item: item.path.name != "test_export.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainExport:
    """folder: outside the repository, with the checkpoint and, after the command, engines/ in it.

    stdout, stderr: what the command said.
    """

    made: Checkpoint
    folder: Path
    checkpoint: Path
    target: Path
    stdout: str
    stderr: str


def typed(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m export.build_engines WORDS` in a process of its own, with `folder` as the current one."""
    return subprocess.run(
        [sys.executable, "-m", "export.build_engines", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """-> a folder that `make` has filled, in this process or in another one of the same run; to be read only.

    `make` gets the folder empty. What it raises comes out, and the next process that asks tries again.
    """
    own = factory.getbasetemp()  # with pytest-xdist: a folder of this process, in that of the run
    run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, finished = run / "made-once" / name, run / "made-once" / f"{name}.finished"
    folder.parent.mkdir(exist_ok=True)
    with filelock.FileLock(run / "made-once" / f"{name}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def plain_export(tmp_path_factory: pytest.TempPathFactory) -> PlainExport:
    """`python -m export.build_engines ckpt.v1.safetensors`: no option, a process and a folder of its own."""
    made = exact_in_half(dataclasses.replace(tiny_checkpoint(), vae=tiny_vae(**FEW_RESNETS)))

    def make(folder: Path) -> None:
        desk = folder / "desk"
        desk.mkdir()
        save_checkpoint(desk / "ckpt.v1.safetensors", made)
        run = typed("ckpt.v1.safetensors", folder=desk)
        assert run.returncode == 0, run.stderr
        (folder / "said.json").write_text(json.dumps({"stdout": run.stdout, "stderr": run.stderr}))

    folder = made_once(tmp_path_factory, "plain_export", make)
    said = json.loads((folder / "said.json").read_text())
    return PlainExport(
        made=made,
        folder=folder / "desk",
        checkpoint=folder / "desk" / "ckpt.v1.safetensors",
        target=folder / "desk" / "engines" / "ckpt.v1",
        stdout=said["stdout"],
        stderr=said["stderr"],
    )

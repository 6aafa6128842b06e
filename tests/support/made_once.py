"""What takes long to make is made once in a run of tests, also where pytest-xdist runs several processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest


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

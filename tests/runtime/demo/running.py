"""`fiffdepth demo` in a process of its own, as people start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Running(NamedTuple):
    """address: of the page. temporary: the folder in which the program may make temporary ones."""

    address: str
    temporary: Path
    process: subprocess.Popen[str]


@contextlib.contextmanager
def run_demo(
    engine_dir: Path, temporary: Path, *, ended_by: signal.Signals = signal.SIGINT
) -> Iterator[Running]:
    """From start to Ctrl-C or another signal, which leaves nothing behind."""
    command = [sys.executable, "-m", "fiffdepth_rt", "demo", str(engine_dir), "--port", "0", "--no-browser"]
    said = temporary / "stderr.txt"
    with (
        said.open("w") as errors,
        subprocess.Popen(
            [*command, "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"The page is at (http://127\.0\.0\.1:\d+/)\. Ctrl-C ends it\.\n", line)
        if found is None:
            process.kill()
            raise AssertionError(f"{line!r}, {said.read_text()!r}")
        try:
            yield Running(found[1], temporary, process)
        finally:
            process.send_signal(ended_by)
            status = process.wait(timeout=30)
    assert status == 0
    assert [path.name for path in temporary.iterdir()] == ["stderr.txt"]

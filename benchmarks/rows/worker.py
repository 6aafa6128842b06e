"""Spec -> Row, in a process of its own: `python -m <spec.module> SPEC.json ROW.json`.

A process per row keeps peaks of memory apart, and makes of a crash, or of memory that ran out, a line in the
table.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.rows.row import Row, Spec

ROOT = Path(__file__).parents[2]
POLL_S = 0.2


def measure_apart(spec: Spec, *, limit_s: float) -> Row:
    """Spec -> Row, in a process of its own. Never raises for what goes wrong in it: that is Row.error.

    limit_s: the process is ended after so long.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "spec.json", Path(folder) / "row.json"
        asked.write_text(json.dumps(dataclasses.asdict(spec)))
        command = [sys.executable, "-m", spec.module, str(asked), str(answered)]
        log = Path(folder) / "log"
        peak = machine.DevicePeak()
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            try:
                code = _wait(process, limit_s, peak if spec.device != "cpu" else None)
            finally:
                process.kill()  # does nothing to one that has ended
                process.wait()
        if code == 0:
            row = Row.from_json(json.loads(answered.read_text()))
            return dataclasses.replace(row, peak_device_mib=peak.mib)
        error = why_ended(code, log.read_text(errors="replace"), limit_s)
        return Row(name=spec.name, kind=spec.kind, size_hw=spec.size_hw, error=error)


def _wait(process: subprocess.Popen[bytes], limit_s: float, peak: machine.DevicePeak | None) -> int | None:
    """The exit code; None after limit_s. peak: looks at the process meanwhile."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            return process.wait(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            if peak is not None:
                peak.look(process.pid)
    return None


def why_ended(code: int | None, log: str, limit_s: float) -> str:
    """How a process failed -> one line, without places. code: None where it was ended after limit_s."""
    if code is None:
        return f"ended after {limit_s:g} s without a result"
    if code == -9:
        return "ended by the system, most likely because memory ran out (signal 9)"
    if code < 0:
        return f"crashed (signal {-code})"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return without_places(lines[-1])[:300] if lines else f"exit code {code} without a word"


def without_places(text: str) -> str:
    """Absolute paths -> their last part."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)

"""A step of the GPU proof that ends as it is told, in a process of its own: `flavour` says how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_proof.process import Findings, Step, Task, answer

CHILD_PID = "child.pid"


def step(ends: str, *, budget_s: float = 60.0) -> Step:
    return Step(name=ends, title=ends, module=__name__, budget_s=budget_s, flavour=ends)


def prove(task: Task) -> Iterator[Findings]:
    findings = Findings().and_check("the first half", True, "done")
    yield findings
    if task.flavour == "raises":
        raise RuntimeError("the engine is on fire")
    if task.flavour == "hangs":
        while True:
            time.sleep(60)
    if task.flavour == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.flavour == "leaves a child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(task.work, CHILD_PID).write_text(str(child.pid))
    yield findings.and_check("the second half", {"passes": True, "disagrees": False}.get(task.flavour))


if __name__ == "__main__":
    answer(prove)

"""A step in a process of its own: Task -> Findings -> Outcome.

A step is a module whose `prove(task)` yields what it has found so far, again and again; what it yielded last
counts. So a step that dies, hangs or runs out of its time takes no other step with it, and loses nothing that
it had found before.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.rows.row import Row
from benchmarks.rows.worker import ROOT, why_ended, without_places
from fiffdepth_rt.atomic import replacing

LAST_LINES = 15
STACK_BEFORE_END_S = 2.0  # the child says where it is, so long before its time is over


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a step is asked.

    work: a folder that all steps share. rehearse: without a GPU, with small models. device: of the latency
    table. flavour: the library whose plans the step is about, where it is about one.
    engines: engine directories to use in place of those of a random checkpoint. checkpoint: the same, to be
    exported; recipe: how it is asked, where it does not say so itself. end: of `time.time()`, when the step
    is ended.
    """

    work: str
    rehearse: bool
    device: str
    flavour: str = ""
    engines: tuple[str, ...] = ()
    checkpoint: str | None = None
    recipe: str | None = None
    end: float = 0.0

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def left_s(self) -> float:
        """Seconds until the step is ended."""
        return self.end - time.time()


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was to be proved. passed: None where it could not be tried; words say why."""

    name: str
    passed: bool | None
    words: str = ""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a step has found so far. text: Markdown. ceiling, rows, growth: of the latency table."""

    checks: tuple[Check, ...] = ()
    text: str = ""
    ceiling: Row | None = None
    rows: tuple[Row, ...] = ()
    growth: tuple[Row, ...] = ()

    def and_check(self, name: str, passed: bool | None, words: str = "") -> Findings:
        check = Check(name=name, passed=passed, words=words)
        return msgspec.structs.replace(self, checks=(*self.checks, check))


Prove = Callable[[Task], Iterator[Findings]]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. module: where its `prove` is. budget_s: of the 8 minutes. flavour: as in Task."""

    name: str
    title: str
    module: str
    budget_s: float
    flavour: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step.

    state: "passed"; "failed"; "skipped", where nothing could be tried. why: of the last two.
    seconds: that it took, of budget_s that it had. last_words: the end of what it printed, where it failed.
    """

    name: str
    title: str
    state: str
    why: str
    seconds: float
    budget_s: float
    findings: Findings
    last_words: str = ""


def run_step(step: Step, task: Task, *, budget_s: float) -> Outcome:
    """Never raises for what goes wrong in the step. Its log is kept in task.folder / "logs"."""
    folder = task.folder / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    asked, answered, log = (folder / f"{step.name}.{end}" for end in ("task.json", "json", "log"))
    answered.unlink(missing_ok=True)
    start = time.time()
    asked.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(task, flavour=step.flavour, end=start + budget_s))
    )
    command = [sys.executable, "-m", step.module, str(asked), str(answered)]
    # A cache of its own: first frames are first ones, and nothing is left behind.
    environment = {**os.environ, "FIFFDEPTH_CACHE": str(task.folder / "cache")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=budget_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_with_children(process)
    said = log.read_text(errors="replace")
    findings = _read(answered)
    state, why = _state(code, said, findings, budget_s)
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    return Outcome(
        name=step.name,
        title=step.title,
        state=state,
        why=why,
        seconds=time.time() - start,
        budget_s=budget_s,
        findings=findings,
        last_words=without_places("\n".join(lines[-LAST_LINES:])) if state == "failed" else "",
    )


def _state(code: int | None, said: str, findings: Findings, budget_s: float) -> tuple[str, str]:
    """(state, why)."""
    if code != 0:
        return "failed", why_ended(code, said, round(budget_s, 1))
    failed = [check for check in findings.checks if check.passed is False]
    if failed:
        whys = (f"{check.name}: {check.words}" if check.words else check.name for check in failed)
        return "failed", "; ".join(whys)
    if not any(check.passed for check in findings.checks):
        return "skipped", "; ".join(dict.fromkeys(check.words for check in findings.checks))
    return "passed", ""


def _read(answered: Path) -> Findings:
    """What the step wrote last; nothing where it wrote nothing."""
    try:
        return msgspec.json.decode(answered.read_bytes(), type=Findings)
    except (OSError, msgspec.MsgspecError):
        return Findings()


def _end_with_children(process: subprocess.Popen[bytes]) -> None:
    """The step leads a process group: rows of the latency table and builders of plans end with it."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # does nothing to one that has ended
    process.wait()


# --- the child ---


def answer(prove: Prove) -> None:
    """The whole of a process that `run_step` started: reads TASK.json, proves, writes FINDINGS.json."""
    asked, answered = (Path(word) for word in sys.argv[1:])
    task = msgspec.json.decode(asked.read_bytes(), type=Task)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(0.1, task.left_s - STACK_BEFORE_END_S))
    machine.volunteer_for_oom()
    for findings in prove(task):
        with replacing(answered) as file:
            file.write(msgspec.json.encode(findings))
    faulthandler.cancel_dump_traceback_later()

"""Hostile input by the thousand: each case ends in what is right, in one of our errors, or is a finding.

    python -m tests.fuzz.trial graphs 0 200        # kind, first seed, number of cases; prints the table

A case is made from its seed alone. `run_here` runs cases in this process; `run_in_children` in processes of
their own, where a case may crash or hang: the parent takes the seed down and goes on behind it.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import ctypes
import dataclasses
import importlib
import os
import random
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from fiffdepth_rt.errors import FiffDepthError
from tests.support.paths import ROOT

RIGHT, TYPED = "right", "typed error"
TRACEBACK, LONG, CRASH, HANG, OUTSIDE = "traceback", "long message", "crash", "hang", "read outside"
OUTCOMES = (RIGHT, TYPED, TRACEBACK, LONG, CRASH, HANG, OUTSIDE)
KINDS = ("manifests", "graphs", "images", "checkpoints", "golden_files", "bags")
MESSAGE_AT_MOST = 2500
MEMORY_BYTES = 16 * 2**30
"""Of a child: so that a tensor of terabytes is an error, and not the machine's end."""
_CHILD_GETS_READY_S = 600.0
_WAITING = 10  # times as long a case may wait as compute: a busy machine is no finding


class Kind(abc.ABC):
    """One kind of input. seconds: of the processor, beyond which a case hangs.

    folder: for its files. `folder.parent / "outside"` is where nothing may be read.
    """

    seconds = 20.0

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None: ...

    @abc.abstractmethod
    def attempt(self, chance: random.Random) -> None:
        """Make one case and give it to the program. Returns where it is taken; raises as the program does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What is neither right nor one of our errors. `attempt` with this seed shows it again."""

    seed: int
    outcome: str
    detail: str


@dataclasses.dataclass
class Tally:
    """How often each outcome was, and what was found."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def note(self, seed: int, outcome: str, detail: str = "") -> None:
        self.counts[outcome] += 1
        if outcome not in (RIGHT, TYPED):
            self.findings.append(Finding(seed=seed, outcome=outcome, detail=detail))

    def table(self, kind: str) -> str:
        """One row of what was counted, and each finding's last line."""
        row = "  ".join(f"{outcome}: {self.counts[outcome]}" for outcome in OUTCOMES)
        found = [f"\n  seed {f.seed}: {f.outcome}: {f.detail.strip()[-300:]}" for f in self.findings[:20]]
        return f"{kind}: {self.counts.total()} cases  {row}" + "".join(found)


def run_here(name: str, seeds: range, folder: Path) -> Tally:
    """Cases of a kind in this process."""
    tally = Tally()
    for seed, outcome, detail in _outcomes(name, seeds, folder):
        tally.note(seed, outcome, detail)
    return tally


def run_in_children(name: str, seeds: range, folder: Path) -> Tally:
    """Cases of a kind in processes of their own; a new one after each crash and each hang."""
    tally, left = Tally(), seeds
    while left:
        done, outcome, detail = _child(name, left, folder, tally)
        left = left[done:]
        if outcome is not None:
            tally.note(left[0], outcome, detail)
            left = left[1:]
    return tally


def _child(name: str, seeds: range, folder: Path, tally: Tally) -> tuple[int, str | None, str]:
    """Seeds -> how many were done, and how the next one ended the process: None where all were done."""
    words = [sys.executable, "-m", "tests.fuzz.trial", name, str(seeds.start), str(len(seeds)), str(folder)]
    ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "FIFFDEPTH_CACHE": str(folder / "cache")}
    environment = {**os.environ, **ours}
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=said) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        done, limit, answers = 0, _CHILD_GETS_READY_S, b""
        while done < len(seeds):
            if b"\n" not in answers:
                if not selector.select(limit):
                    process.kill()
                    return done, HANG, f"no answer within {limit:g} s"
                if not (more := os.read(process.stdout.fileno(), 65_536)):
                    process.wait()
                    said.seek(0)
                    return done, CRASH, f"exit status {process.returncode}: {said.read()[-500:]!r}"
                answers += more
                continue
            line, _, answers = answers.partition(b"\n")
            what, *rest = line.decode(errors="replace").split("\t")
            if what == "ready":
                limit = float(rest[0])
            elif what == "case":
                tally.note(int(rest[0]), rest[1], rest[2])
                done += 1
        return done, None, ""


def _outcomes(name: str, seeds: Sequence[int], folder: Path) -> Iterator[tuple[int, str, str]]:
    """Seed, outcome and detail of every case, one after another."""
    kind, outside = _kind(name, folder)
    for seed in seeds:
        outcome, detail = _outcome(kind, random.Random(f"{name} {seed}"))
        if outside.was_read():
            outcome, detail = OUTSIDE, detail
        yield seed, outcome, detail


def _kind(name: str, folder: Path) -> tuple[Kind, Outside]:
    assert name in (*KINDS, "faults")
    outside = Outside(folder.parent / "outside")
    inside = folder / name
    shutil.rmtree(inside, ignore_errors=True)  # of a child that crashed
    inside.mkdir(parents=True)
    made: Kind = importlib.import_module(f"tests.fuzz.{name}").Fuzzed(inside)
    return made, outside


def _outcome(kind: Kind, chance: random.Random) -> tuple[str, str]:
    try:
        with _time_limit(kind.seconds):
            kind.attempt(chance)
    except FiffDepthError as error:
        text = str(error)
        return (TYPED, type(error).__name__) if len(text) <= MESSAGE_AT_MOST else (LONG, text[:200])
    except _OutOfTimeError:
        return HANG, "".join(traceback.format_exc())[-600:]
    except Exception:
        return TRACEBACK, "".join(traceback.format_exc())[-600:]
    return RIGHT, ""


class _OutOfTimeError(BaseException):
    """Not an Exception, so that no handler in the program takes it."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Python code that takes longer is left: so many seconds of the processor, or ten times as many in all.

    Native code is not left: that is for the parent of a child.
    """

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise _OutOfTimeError

    clocks = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, seconds * _WAITING),
    )
    before = [signal.signal(number, leave) for number, _, _ in clocks]
    for _, clock, limit in clocks:
        signal.setitimer(clock, limit)
    try:
        yield
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


class Outside:
    """A folder with a secret, watched by the kernel (inotify): native code that opens it is seen too."""

    SECRET = "secret.bin"
    _IN_OPEN, _IN_NONBLOCK = 0x20, 0o4000

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.SECRET).write_bytes(bytes(range(256)) * 4096)
        self._inotify = -1
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._inotify = libc.inotify_init1(self._IN_NONBLOCK)
            watched = libc.inotify_add_watch(self._inotify, os.fsencode(folder), self._IN_OPEN)
            assert self._inotify >= 0 and watched >= 0

    def was_read(self) -> bool:
        """Whether anything in the folder was opened since the last call."""
        if self._inotify < 0:
            return False
        try:
            return bool(os.read(self._inotify, 65_536))
        except BlockingIOError:
            return False


def _main() -> None:
    name, first, count, *folder = sys.argv[1:]
    seeds = range(int(first), int(first) + int(count))
    if not folder:
        with tempfile.TemporaryDirectory() as made:
            print(run_in_children(name, seeds, Path(made) / "cases").table(name))
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    print(
        "ready",
        importlib.import_module(f"tests.fuzz.{name}").Fuzzed.seconds * _WAITING * 1.5,
        sep="\t",
        file=answers,
        flush=True,
    )
    for seed, outcome, detail in _outcomes(name, seeds, Path(folder[0])):
        said = detail.replace("\t", " ").replace("\n", " | ")
        print("case", seed, outcome, said, sep="\t", file=answers, flush=True)


if __name__ == "__main__":
    _main()

"""ONNX graph -> plan, in a process of its own: a graph that the builder dislikes can kill the process.

The child gets its order as one line of JSON on stdin, and answers with lines of JSON: what the library says,
how far it is, and how it ended. Stdin stays open while the parent lives; when it closes, the child ends too,
so that no builder outlives whoever asked for its plan. Ctrl-C reaches the parent alone, which ends the child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from fiffdepth_rt.backends.tensorrt.builder import build_plan
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob
from fiffdepth_rt.backends.tensorrt.log import LINES_KEPT
from fiffdepth_rt.backends.tensorrt.log import log as library_log
from fiffdepth_rt.backends.tensorrt.parity import Runner
from fiffdepth_rt.backends.tensorrt.progress import BuildProgress, OnProgress
from fiffdepth_rt.backends.tensorrt.versions import release_of
from fiffdepth_rt.engine_dir.manifest import PlanMemory, PlanRecord, Stage
from fiffdepth_rt.errors import BuildError, OutputError

# The parent's own sys.path, and no folder that Python would put before it.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fiffdepth_rt.backends.tensorrt.build_process import main; main()"
)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the child shall build. level: of logging, below which the library's lines are not wanted."""

    record: PlanRecord
    graph: str
    stage: Stage
    into: str
    timing_cache: str
    level: int


class Said(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A line of the library's log."""

    level: int
    text: str


class Reached(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far the build is: a BuildProgress."""

    phase: str
    fraction: float


class Built(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The plan is written."""

    memory: PlanMemory | None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An error, in its own words. writing: it is an OutputError, else a BuildError."""

    message: str
    writing: bool
    log: tuple[str, ...] = ()


Event = Said | Reached | Built | Failed


class ProcessBuilder:
    """A `build.Builder` that builds each plan in a child process.

    runner: the GPU here that runs the plans, to check them; None where there is none.
    """

    def __init__(self, target: Target, *, runner: Runner | None, versions: Mapping[str, str]) -> None:
        self.target = target
        self.runner = runner
        self.versions = versions

    def build(
        self, job: PlanJob, into: Path, *, timing_cache: Path, on_progress: OnProgress | None
    ) -> PlanMemory | None:
        """ONNX graph -> plan, written to `into`; and its predicted memory, where the library says it.

        Raises BuildError with the library's log, also where the child died; OutputError; and what
        `on_progress` raises, after the child was ended.
        """
        order = Order(
            record=job.record,
            graph=str(job.graph.resolve()),
            stage=job.stage,
            into=str(into.resolve()),
            timing_cache=str(timing_cache.resolve()),
            level=min(library_log.getEffectiveLevel(), logging.INFO),
        )
        with tempfile.TemporaryFile() as last_words:
            child = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, json.dumps([part for part in sys.path if part])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=last_words,
            )
            try:
                return _follow(child, order, job, on_progress, last_words)
            finally:
                child.kill()
                for pipe in (child.stdin, child.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):  # what a dead child was still to be told
                            pipe.close()
                child.wait()


def _follow(
    child: subprocess.Popen[bytes],
    order: Order,
    job: PlanJob,
    on_progress: OnProgress | None,
    last_words: IO[bytes],
) -> PlanMemory | None:
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once; how, is said below
        child.stdin.write(msgspec.json.encode(order) + b"\n")
        child.stdin.flush()
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
    for line in child.stdout:
        event = decoder.decode(line)
        if isinstance(event, Said):
            library_log.log(event.level, "%s", event.text)
            lines.append(f"{logging.getLevelName(event.level)}: {event.text}")
        elif isinstance(event, Reached):
            if on_progress is not None:
                on_progress(BuildProgress(stage=job.record.stage, phase=event.phase, fraction=event.fraction))
        elif isinstance(event, Built):
            return event.memory
        elif event.writing:
            raise OutputError(event.message)
        else:
            raise BuildError(event.message, event.log)
    last_words.seek(0)
    words = last_words.read().decode(errors="replace").strip().splitlines()
    said = " | ".join([*list(lines)[-3:], *words[:3]]) or "it said nothing"
    raise BuildError(
        f"The process in which {release_of(job.record)} built {job.graph} died ({_how(child.wait())}): "
        f"{said}. Nothing was changed. Out of memory, close other programs or build fewer grids; else it is "
        "a fault of the library, with this graph: report it, with these words.",
        (*lines, *words),
    )


def _how(returncode: int) -> str:
    """-11 -> "SIGSEGV"; 3 -> "exit status 3"."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


# --- the child ---


def main() -> None:
    """One order from stdin -> a plan, and events on what was stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    faulthandler.enable()
    # Whatever a library prints must not come between the events.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            channel.write(msgspec.json.encode(event) + b"\n")
            channel.flush()

    library_log.setLevel(order.level)
    library_log.propagate = False
    library_log.addHandler(_Sender(send))
    job = PlanJob(record=order.record, graph=Path(order.graph), stage=order.stage)

    def on_progress(progress: BuildProgress) -> None:
        send(Reached(phase=progress.phase, fraction=progress.fraction))

    try:
        memory = build_plan(
            job, Path(order.into), timing_cache=Path(order.timing_cache), on_progress=on_progress
        )
    except BuildError as error:
        send(Failed(message=str(error), writing=False, log=error.log))
    except (OutputError, OSError) as error:
        send(Failed(message=str(error), writing=True))
    else:
        send(Built(memory=memory))
    _exit(0)


class _Sender(logging.Handler):
    """What the library says, on its way to the parent."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Said(level=record.levelno, text=record.getMessage()))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    _exit(1)


def _exit(status: int) -> NoReturn:
    """End at once: a library's own clearing up is for processes that go on, and may hang or crash."""
    os._exit(status)

"""What TensorRT says: handed on to `logging`, kept for the error of a failed call, and read for memory."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from fiffdepth_rt.backends.tensorrt.flavour import Flavour, load

LINES_KEPT = 2000  # from INFO up; a build of the full UNet says some hundreds

log = logging.getLogger("fiffdepth_rt.tensorrt")


@functools.cache
def logger(flavour: Flavour) -> Any:
    """The one trt.ILogger of a flavour in this process, which goes on using the first that it is given."""
    trt = load(flavour)
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.CRITICAL,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        """Called from TensorRT's threads."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: list[deque[str]] = []  # one for each `kept_lines` that is under way

        def log(self, severity: Any, text: str) -> None:
            level = levels.get(severity, logging.INFO)
            log.log(level, "%s", text)
            if level >= logging.INFO:
                for lines in self.kept:
                    lines.append(f"{logging.getLevelName(level)}: {text}")

    return Logger()


@contextlib.contextmanager
def kept_lines(flavour: Flavour) -> Iterator[deque[str]]:
    """The lines that TensorRT says until the block ends, from INFO up, with their level."""
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    kept = logger(flavour).kept
    kept.append(lines)
    try:
        yield lines
    finally:
        kept[:] = [other for other in kept if other is not lines]


def reason(lines: deque[str]) -> str:
    """The last errors among the lines, as one text; the last line of all where there are none."""
    errors = [line for line in lines if line.startswith(("ERROR", "CRITICAL"))]
    return " | ".join((errors or list(lines))[-3:]) or "TensorRT gave no reason"


def says_no_memory(lines: Iterable[str]) -> bool:
    """Whether these lines of TensorRT's log say that GPU memory ran out."""
    return any(_NO_MEMORY.search(line) for line in lines)


def requested_bytes(lines: Iterable[str]) -> int | None:
    """The largest number of bytes that these lines say was requested; None where they name none."""
    found = [int(match[1]) for line in lines for match in _REQUESTED.finditer(line)]
    return max(found, default=None)


_NO_MEMORY = re.compile(r"out ?of ?memory|MemoryAllocation|bad_alloc|could not be allocated", re.I)
_REQUESTED = re.compile(r"requested [^.\n]*?(\d+) bytes", re.I)

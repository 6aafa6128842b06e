"""What TensorRT says: kept for the error of a failed build, and handed on to `logging`."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

LINES_KEPT = 2000  # from INFO up; a build of the full UNet says some hundreds

log = logging.getLogger("fiffdepth_rt.tensorrt")


@functools.cache
def logger() -> Any:
    """The one trt.ILogger of this process: TensorRT keeps the first that it is given."""
    import tensorrt as trt

    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.CRITICAL,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Called from TensorRT's threads."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.keepers: list[deque[str]] = []

        def log(self, severity: Any, text: str) -> None:
            level = levels.get(severity, logging.INFO)
            log.log(level, "%s", text)
            if level >= logging.INFO:
                for keeper in self.keepers:
                    keeper.append(f"{logging.getLevelName(level)}: {text}")

    return Logger()


@contextlib.contextmanager
def kept_lines() -> Iterator[deque[str]]:
    """The lines that TensorRT says until the block ends, from INFO up, with their level."""
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    keepers = logger().keepers
    keepers.append(lines)
    try:
        yield lines
    finally:
        keepers[:] = [keeper for keeper in keepers if keeper is not lines]


def reason(lines: deque[str]) -> str:
    """The last errors among the lines, as one text; the last line of all where there are none."""
    errors = [line for line in lines if line.startswith(("ERROR", "CRITICAL"))]
    return " | ".join((errors or list(lines))[-3:]) or "TensorRT gave no reason"

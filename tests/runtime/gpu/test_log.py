"""Promises of what TensorRT says: its log is read for memory that ran out, and the reason of a failure; its
phases for how far a build is.

The lines are TensorRT's own, as users reported them.
"""

from __future__ import annotations

from collections import deque

from fiffdepth_rt.backends.tensorrt.log import reason, requested_bytes, says_no_memory
from fiffdepth_rt.backends.tensorrt.progress import Phases

OUT_OF_MEMORY = [
    "ERROR: 1: [defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
    "WARNING: Requested amount of GPU memory (17920000000 bytes) could not be allocated. There may not be "
    "enough free memory for allocation to succeed.",
    "ERROR: 2: [executionContext.cpp::470] Error Code 2: OutOfMemory (no further information)",
]


def test_a_log_that_tells_of_memory_is_understood() -> None:
    assert all(says_no_memory([line]) for line in OUT_OF_MEMORY)
    assert requested_bytes(OUT_OF_MEMORY) == 17_920_000_000
    newer = ["ERROR: Error Code 2: OutOfMemory (Requested size was 734003200 bytes.)"]
    assert says_no_memory(newer) and requested_bytes(newer) == 734_003_200


def test_a_log_about_something_else_is_not_taken_for_memory() -> None:
    lines = ["ERROR: Serialization assertion magicTagRead == kMAGIC_TAG failed", "INFO: Loaded 12 MiB"]
    assert not says_no_memory(lines)
    assert requested_bytes(lines) is None


def test_the_reason_of_a_failure_is_its_last_errors_or_the_last_lines_where_there_are_none() -> None:
    lines = deque(["INFO: a", "ERROR: b", "CRITICAL: c", "WARNING: d", "ERROR: e", "ERROR: f"])
    assert reason(lines) == "CRITICAL: c | ERROR: e | ERROR: f"
    assert reason(deque(["INFO: a", "WARNING: b"])) == "INFO: a | WARNING: b"
    assert reason(deque()) == "TensorRT gave no reason"


def test_progress_never_falls_and_ends_at_one() -> None:
    phases, seen = Phases(), []
    phases.start("Building Engine", None, 2)
    phases.start("Tactics", "Building Engine", 4)
    seen += [phases.step("Tactics", step) for step in range(4)]
    phases.finish("Tactics")
    seen.append(phases.step("Building Engine", 0))
    phases.start("Weights", "Building Engine", 1)
    seen.append(phases.step("Weights", 0))
    phases.finish("Weights")
    seen.append(phases.step("Building Engine", 1))
    assert seen == [("Building Engine", x) for x in (0.125, 0.25, 0.375, 0.5, 0.5, 1.0, 1.0)]


def test_a_phase_that_nobody_started_is_no_error() -> None:
    assert Phases().step("unheard of", 3) == ("unheard of", 0.0)

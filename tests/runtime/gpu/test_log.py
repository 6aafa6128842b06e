"""Promises of what TensorRT's log is read for: memory that ran out, and the reason of a failure.

The lines are TensorRT's own, as users reported them.
"""

from __future__ import annotations

from collections import deque

from fiffdepth_rt.backends.tensorrt.log import reason, requested_bytes, says_no_memory

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

"""This machine: how many threads an engine on the CPU should use, which distributions are installed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path


def default_threads() -> int:
    """The physical cores that this process may use: within its affinity, and its container's quota.

    Two hyper-threads share one multiplier unit, so a thread on each only adds overhead to convolutions.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota_cpus()))


def _siblings(cpu: int) -> str:
    """The hyper-threads of one core, as Linux lists them; elsewhere each is taken for a core."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quota_cpus() -> int:
    """CPUs' worth of time that the container grants (cgroup v2), rounded up; a large number if unlimited."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # ValueError: the quota is the word "max"
        return 2**16


def installed(names: Iterable[str]) -> dict[str, str]:
    """Distribution names -> the versions of those that are installed with readable metadata. Never raises."""
    import importlib.metadata  # here, since it costs more to import than the rest of this package

    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except Exception:  # not installed, or its metadata is damaged
            continue
    return found

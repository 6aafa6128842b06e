"""A Ray cluster of two nodes on this machine, and the death of a worker in the middle of its work."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

pytest.importorskip("ray", reason="ray is not installed (pip install 'fiffdepth-rt[cluster]')")

from ray.cluster_utils import Cluster

WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
"""Ray Data warns about defaults of its own."""


@contextlib.contextmanager
def two_nodes(cpus: int) -> Iterator[str]:
    """The address of a cluster of two nodes, each a process with workers of its own, for `cpus` cores."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short, because of the sockets in it
    before = dict(os.environ)
    # At Ray's usual niceness of 15, workers never get a turn on a busy machine.
    os.environ.update(RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    node = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        yield str(cluster.address)
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def actors(name: str) -> list[psutil.Process]:
    """The processes that hold an actor of the class `name`."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"MapBatches({name})" in word for word in process.info["cmdline"] or ())
    ]


@contextlib.contextmanager
def killing(name: str, *, when: Callable[[], bool] = lambda: True, after_s: float = 0) -> Iterator[list[int]]:
    """SIGKILL for one actor of the class `name`, `after_s` seconds after it was seen and `when` said so;
    gives its process id."""
    killed: list[int] = []
    over = threading.Event()

    def kill_one() -> None:
        while not killed and not over.wait(0.05):
            if when() and (running := actors(name)):
                time.sleep(after_s)
                running[0].send_signal(signal.SIGKILL)
                killed.append(running[0].pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()

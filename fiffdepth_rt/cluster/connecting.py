"""A cluster's address -> a process that is connected to it, with our packages on the workers."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fiffdepth_rt.errors import ClusterError
from fiffdepth_rt.processes import environment
from fiffdepth_rt.telemetry import RAY_REPORTS

CLUSTER_EXTRA = "pip install 'fiffdepth-rt[cluster]'"
LOCAL = "local"


@contextlib.contextmanager
def connected(address: str, *, packages: Sequence[ModuleType], bundled: bool = False) -> Iterator[None]:
    """Connect to a Ray cluster, with `packages` on its workers; disconnect at the end.

    address: "auto" or "host:6379" on one of its machines, "ray://host:10001" from outside, or "local" for one
    that is started here, on all cores, and gone at the end. bundled: whether the bundled model goes along.
    Raises ClusterError where nothing answers, or Ray is not installed.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(_nothing_at(address, error)) from error
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"Clusters want Ray, which is not installed: {CLUSTER_EXTRA}") from error
    with contextlib.ExitStack() as undo:
        # A copy as working_dir, not py_modules: those come behind the driver's own folders in sys.path, so
        # that a worker which starts later would import what was edited meanwhile.
        copy = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ship-")))
        ignored = shutil.ignore_patterns("__pycache__", *(() if bundled else ("nano",)))
        for package in packages:
            shutil.copytree(package.__path__[0], copy / package.__name__, ignore=ignored)
        # fatal: Ray Data makes Ray say, as an error, that its own actors may fail to restart.
        said = {"RAY_BACKEND_LOG_LEVEL": "fatal", RAY_REPORTS: os.environ.get(RAY_REPORTS, "0")}
        undo.enter_context(environment(**said))
        local: dict[str, Any] = {}
        if address == LOCAL:
            # Short, because the sockets in it have names of limited length.
            folder = tempfile.mkdtemp(prefix="ray-")
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            local = {"include_dashboard": False, "_temp_dir": folder}
        try:
            ray.init(
                address,
                runtime_env={"working_dir": str(copy)},
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ClusterError(
                f"{_nothing_at(address, error)} Where a cluster wants a token, set RAY_AUTH_MODE=token, and "
                "have the head's ~/.ray/auth_token here."
            ) from error
        except OSError as error:
            raise ClusterError(
                f"A Ray cluster cannot start in {tempfile.gettempdir()} ({error}): set TMPDIR to a folder "
                "with room and a short name, since sockets lie in it."
            ) from error
        undo.callback(ray.shutdown)
        yield


def _nothing_at(address: str, error: Exception) -> str:
    return (
        f"No Ray cluster at {address} ({str(error).rstrip('.')}): start one with `ray start --head` and name "
        "its address, or say --ray local."
    )

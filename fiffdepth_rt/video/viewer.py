"""Rerun's viewer, started on this machine for this machine.

`rerun.spawn` would open its port to the whole network, and let it report.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.telemetry import rerun_viewer_environment

PORT = 9876
"""At which Rerun's viewers listen, unless they are told otherwise."""
MEMORY = "25%"
"""Of the machine's; then the viewer forgets what is oldest."""
PATIENCE_S = 30.0
"""How long the viewer may take to listen."""


class Viewer:
    """Rerun's viewer as a process of its own, which outlives this one: people go on looking.

    process: that process.
    """

    def __init__(self, command: list[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process, and nobody closes it
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**rerun_viewer_environment(), "RERUN_APP_ONLY": "true", "NO_COLOR": "1"},
            start_new_session=True,  # Ctrl-C is for us
        )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def close(self) -> None:
        """Nothing more is wanted to be known of it; it goes on."""
        self._log.close()

    def last_words(self) -> str:
        """The end of what it wrote, on one line."""
        self._log.seek(0)
        said = " ".join(self._log.read().decode(errors="replace").split())
        return said[-300:] or "it said nothing"


def start_viewer(*, port: int, options: Sequence[str] = ()) -> Viewer | None:
    """Rerun's viewer, listening on 127.0.0.1; None where a viewer listens there already, which is taken.

    options: more words for its command line. Raises OutputError: it does not start.
    """
    if listens(port):
        return None
    beside_python = Path(sysconfig.get_path("scripts"), "rerun.exe" if sys.platform == "win32" else "rerun")
    program = str(beside_python) if beside_python.exists() else "rerun"
    words = ["--bind", "127.0.0.1", "--port", str(port), "--memory-limit", MEMORY]
    try:
        viewer = Viewer([program, *words, "--hide-welcome-screen", "--expect-data-soon", *options])
    except OSError as error:
        raise _no_viewer(error.strerror or str(error)) from error
    give_up = time.monotonic() + PATIENCE_S
    while not listens(port):
        if viewer.ended or time.monotonic() > give_up:
            why = viewer.last_words()
            viewer.close()
            raise _no_viewer(why)
        time.sleep(0.05)
    return viewer


def listens(port: int) -> bool:
    """Whether anything does, at this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _no_viewer(why: str) -> OutputError:
    return OutputError(
        f"Rerun's viewer does not start ({why}): try the command `rerun` by itself, or record instead, such "
        "as by --view walk.rrd."
    )

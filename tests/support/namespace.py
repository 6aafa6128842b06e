"""A command in a network of its own, with no way out, and in a new home: what it sought, what it left."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

# Linux counts what a process wants to send to where no route leads, whoever asks: Python, C, a child.
_COUNTED = """
import json, pathlib, subprocess, sys
def no_routes():
    ip = pathlib.Path("/proc/self/net/snmp").read_text().splitlines()
    header, values = ip[0].split(), ip[1].split()
    six = dict(line.split() for line in pathlib.Path("/proc/self/net/snmp6").read_text().splitlines())
    return int(values[header.index("OutNoRoutes")]) + int(six["Ip6OutNoRoutes"])
before = no_routes()
ended = subprocess.run(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text(json.dumps([ended.returncode, no_routes() - before]))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """status: the exit status. sought: how often anything wanted to reach the network.

    left: new files, by their path in the home, but for our own cache. output: standard output and error.
    """

    status: int
    sought: int
    left: frozenset[str]
    output: str


@functools.cache
def why_not() -> str:
    """Why this machine cannot make such a network; "" where it can."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "needs Linux and the command unshare"
    tried = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True)
    return f"unshare -rn: {tried.stderr.strip()}" if tried.returncode else ""


def watch(words: Sequence[str], home: Path, variables: Mapping[str, str] | None = None) -> Seen:
    """Runs a command there. home: a folder to be made; a file of the consent to OpenVINO may be in it.

    The environment is what a new user has, without CI=true, which silences libraries by itself.
    """
    home.mkdir(exist_ok=True)
    environment = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        **(variables or {}),
    }
    before, result = _files(home), home.parent / f"{home.name}.json"
    ended = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", _COUNTED, str(result), *words],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    status, sought = json.loads(result.read_text())
    return Seen(status=status, sought=sought, left=frozenset(_files(home) - before), output=ended.stdout)


def _files(home: Path) -> set[str]:
    files = {str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()}
    return {file for file in files if not file.startswith(".cache/fiffdepth_rt/")}

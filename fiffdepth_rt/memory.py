"""How much memory does an engine take? A process of its own opens it and computes -> records of the manifest.

    fiffdepth verify engines/fiffdepth --memory

Resident memory is what the system counts, so it includes whatever the engine does behind our back: copies of
weights while it opens, arenas, buffers of threads. `Depth` refuses what does not fit by these records
(backends/room.py), and `fiffdepth info` shows them. Measured on Linux; elsewhere there is nothing to read.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from fiffdepth_rt.backends.grids import GridHW, families
from fiffdepth_rt.backends.select import choose_engine, open_backend
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import Manifest, MemoryRecord, read_manifest, write_manifest
from fiffdepth_rt.errors import BackendError
from fiffdepth_rt.machine import gpu_memory_of

# The parent's own sys.path, and no folder that Python would put before it.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from fiffdepth_rt.memory import main; main()"
)
_STATUS = Path("/proc/self/status")
_FRAMES = 2  # engines lay memory out anew by what the first one took
_RESET_PEAK = Path("/proc/self/clear_refs")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a process shall open. grids: what it computes on; none for the default ones.

    backend: an engine by its name. "auto" would load the libraries of other engines and count them.
    """

    directory: str
    backend: str
    device: str | None
    precision: str
    threads: int | None
    grids: tuple[GridHW, ...]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a process measured. left: grids of other graph sets, by set; a process of its own opens each."""

    records: tuple[MemoryRecord, ...]
    left: dict[str, tuple[GridHW, ...]]


def measure_memory(
    directory: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    grids: Sequence[GridHW] = (),
) -> tuple[MemoryRecord, ...]:
    """Engine directory -> what its engine takes, by grid, smallest first; empty where Linux is not here.

    The engine is chosen as `Depth` does, in this process: what that loads of other engines is not counted.
    grids: (height, width) in px; by default the square of the model's default size and that of half of it, or
    the fixed grids of the graphs.
    Raises what reading the directory and choosing raise; what opening raises in its own words, as a
    BackendError, also where the process died.
    """
    if not _RESET_PEAK.exists():
        return ()
    engine, chosen = choose_engine(
        open_engine_dir(directory), backend=backend, device=device, precision=precision
    )
    order = Order(
        directory=str(Path(directory).resolve()),
        backend=engine.name,
        device=device,
        precision=chosen,
        threads=threads,
        grids=tuple(grids),
    )
    found = _in_a_process(order)
    records = [*found.records]
    for graph_set, its_grids in found.left.items():
        records += _in_a_process(msgspec.structs.replace(order, precision=graph_set, grids=its_grids)).records
    return tuple(sorted(records, key=lambda record: record.grid[0] * record.grid[1]))


def _in_a_process(order: Order) -> Found:
    words = [sys.executable, "-I", "-c", _START, json.dumps([part for part in sys.path if part])]
    child = subprocess.run([*words, msgspec.json.encode(order).decode()], capture_output=True, check=False)
    if child.returncode != 0:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise BackendError(
            f"The process that opened {order.directory} to measure its memory ended with status "
            f"{child.returncode}: {last[0][:300]}. Where that is for want of memory, close other programs."
        )
    return msgspec.json.decode(child.stdout.splitlines()[-1], type=Found)


def record_memory(
    directory: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    grids: Sequence[GridHW] = (),
) -> tuple[MemoryRecord, ...]:
    """Engine directory -> the same, with the records in its manifest, in place of those of the same engine.

    Raises what measure_memory raises, OutputError.
    """
    found = measure_memory(
        directory, backend=backend, device=device, precision=precision, threads=threads, grids=grids
    )
    if found:
        manifest = read_manifest(directory)
        engines = {_engine(record) for record in found}
        kept = (record for record in manifest.memory if _engine(record) not in engines)
        write_manifest(directory, msgspec.structs.replace(manifest, memory=(*kept, *found)))
    return found


def _engine(record: MemoryRecord) -> tuple[str, str, str]:
    return record.graph_set, record.backend, record.device


# --- the process of its own ---


def main() -> None:
    """An Order as JSON in sys.argv[2] -> what was Found as JSON, the last line of stdout."""
    order = msgspec.json.decode(sys.argv[2], type=Order)
    print(msgspec.json.encode(_measured(order)).decode())


def _measured(order: Order) -> Found:
    engine_dir = open_engine_dir(order.directory)
    before = _resident()
    opened = open_backend(
        engine_dir,
        backend=order.backend,
        device=order.device,
        precision=order.precision,
        threads=order.threads,
        check_room=False,
    )
    resident = _resident() - before
    opening = max(_peak() - before, resident)  # the system counts the two at moments of its own
    keys = families(engine_dir.manifest)[opened.precision]
    first = next(iter(keys.values()))  # the others of a family open when a photo first needs them
    by_set: dict[str, list[GridHW]] = {first: []}
    for grid in order.grids or _own_grids(engine_dir.manifest, opened.precision):
        by_set.setdefault(keys.get(grid) or keys.get(None) or first, []).append(grid)
    records = []
    for grid in sorted(by_set.pop(first), key=lambda grid: grid[0] * grid[1]):
        _RESET_PEAK.write_text("5")  # the peak is from here on
        for _ in range(_FRAMES):
            opened.run(np.zeros((1, *grid, 3), dtype=np.uint8))
        records.append(
            MemoryRecord(
                graph_set=first,
                grid=grid,
                backend=opened.name,
                device=opened.device,
                opening_bytes=max(0, opening),
                opened_bytes=max(0, resident),
                computing_bytes=max(0, _peak() - before - resident),
                gpu_bytes=None if opened.device == "cpu" else gpu_memory_of(os.getpid()),
                measured={
                    "engine": {
                        key: value
                        for key, value in opened.describe().items()
                        if isinstance(value, str | int) and key != "cache"  # a place on this machine
                    },
                    "date": datetime.date.today().isoformat(),
                },
            )
        )
    return Found(records=tuple(records), left={key: tuple(grids) for key, grids in by_set.items()})


def _own_grids(manifest: Manifest, precision: str) -> list[GridHW]:
    fixed = [grid for grid in families(manifest)[precision] if grid is not None]
    multiple = manifest.size.multiple
    sides = {-(-side // multiple) * multiple for side in (manifest.size.default // 2, manifest.size.default)}
    return fixed or [(side, side) for side in sides]


def _resident() -> int:
    return _kib("VmRSS") * 1024


def _peak() -> int:
    return _kib("VmHWM") * 1024


def _kib(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), flags=re.MULTILINE)
    return int(found[1]) if found else 0

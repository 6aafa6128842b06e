"""How ONNX Runtime waits and how many threads it takes on a CPU: which settings the runtime should have.

    python -m benchmarks.cpu_settings                 # the bundled model
    python -m benchmarks.cpu_settings --busy 1 --save # with one busy process beside it

Every setting runs once in each round, in a fresh order, so that they share the machine's weather. CPU time
is what the frame costs all cores together: threads that wait by spinning cost it too. "Fastest" is the run
that other programs disturbed least. The largest difference from the first setting's result stands beside.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
import numpy as np
import onnxruntime
from tqdm import tqdm

from benchmarks import commands
from benchmarks.report import Report, publish, table
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import BUNDLED, STAGE_TENSORS
from fiffdepth_rt.machine import default_threads, machine_card

_ALLOW_SPINNING = "session.intra_op.allow_spinning"
_STOP_SPINNING = "session.force_spinning_stop"
_DENORMALS = "session.set_denormal_as_zero"


def settings(threads: int) -> dict[str, dict[str, Any]]:
    """Name -> threads, config entries, attributes of SessionOptions. The first one is the runtime's."""
    rows: dict[str, dict[str, Any]] = {
        "no spinning": {"entries": {_ALLOW_SPINNING: "0"}},
        "spin inside a stage": {"entries": {_STOP_SPINNING: "1"}},
        "spin always (ONNX Runtime's default)": {},
        "no spinning, denormals are zero": {"entries": {_ALLOW_SPINNING: "0", _DENORMALS: "1"}},
        "no spinning, no arena": {
            "entries": {_ALLOW_SPINNING: "0"},
            "attributes": {"enable_cpu_mem_arena": False},
        },
        "no spinning, not deterministic": {
            "entries": {_ALLOW_SPINNING: "0"},
            "attributes": {"use_deterministic_compute": False},
        },
    }
    for other in sorted({1, threads, 2 * threads} - {threads}):
        rows[f"no spinning, {other} thread{'s' * (other > 1)}"] = {
            "entries": {_ALLOW_SPINNING: "0"},
            "threads": other,
        }
    return {name: {"threads": threads, "entries": {}, "attributes": {}, **row} for name, row in rows.items()}


def session_options(row: Mapping[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = row["threads"]
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    for name, value in row["attributes"].items():
        setattr(options, name, value)
    for name, value in row["entries"].items():
        options.add_session_config_entry(name, value)
    return options


def measure_settings(
    directory: Path, *, grid_hw: tuple[int, int], runs: int, threads: int, pause_s: float
) -> dict[str, Any]:
    """Name of the setting -> wall and CPU ms per frame, and the largest difference of its depth."""
    engine_dir = open_engine_dir(directory)
    rows = settings(threads)
    sessions = {
        name: {
            stage: onnxruntime.InferenceSession(
                str(engine_dir.graph("fp32", stage).path),
                session_options(row),
                providers=["CPUExecutionProvider"],
            )
            for stage in STAGE_TENSORS
        }
        for name, row in rows.items()
    }
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *grid_hw, 3), dtype=np.uint8)
    results = {name: _frame(of, image) for name, of in sessions.items()}
    wall: dict[str, list[float]] = {name: [] for name in rows}
    cpu: dict[str, list[float]] = {name: [] for name in rows}
    for _ in tqdm(range(runs), unit="round", disable=None):
        for name in rng.permutation(list(rows)):
            time.sleep(pause_s)  # a camera's frames do not follow each other at once
            start, start_cpu = time.perf_counter(), time.process_time()
            _frame(sessions[name], image)
            wall[name].append((time.perf_counter() - start) * 1e3)
            cpu[name].append((time.process_time() - start_cpu) * 1e3)
    first = results[next(iter(rows))]
    return {
        name: {
            "fastest_ms": min(wall[name]),
            "p50_ms": float(np.median(wall[name])),
            "p90_ms": float(np.quantile(wall[name], 0.9)),
            "cpu_p50_ms": float(np.median(cpu[name])),
            "max_difference": float(np.abs(results[name] - first).max()),
        }
        for name in rows
    }


def _frame(sessions: Mapping[str, Any], image: Any) -> Any:
    value = image
    for stage, (takes, gives) in STAGE_TENSORS.items():
        value = sessions[stage].run([gives[0]], {takes[0]: value})[0]
    return value


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`count` processes that compute all the time, as other programs of a robot do; ended with the block."""
    code = "import sys\nprint(flush=True)\nwhile True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def markdown(measured: Mapping[str, Any]) -> str:
    headers = ["setting", "fastest ms", "p50 ms", "p90 ms", "CPU ms", "max difference"]
    times = ("fastest_ms", "p50_ms", "p90_ms", "cpu_p50_ms")
    lines = [
        [name, *(f"{row[time]:.1f}" for time in times), f"{row['max_difference']:.0e}"]
        for name, row in measured.items()
    ]
    return table(headers, lines, align="lrrrrr")


@commands.command(__doc__)
@commands.engine
@click.option(
    "--grid",
    "grid_hw",
    metavar="HxW",
    callback=commands.parse_hw,
    default="192x256",
    show_default=True,
    help="What the model sees, in px.",
)
@click.option(
    "--runs", metavar="N", type=commands.COUNT, default=30, show_default=True, help="Of each setting."
)
@click.option("--threads", metavar="N", type=commands.COUNT, help="By default one for each physical core.")
@click.option("--pause", metavar="S", default=0.005, show_default=True, help="Between frames.")
@click.option("--busy", metavar="N", default=0, show_default=True, help="Busy processes beside it.")
@commands.save
def main(
    engine: Path | None,
    grid_hw: tuple[int, int],
    runs: int,
    threads: int | None,
    pause: float,
    busy: int,
    save: bool,
) -> None:
    directory, threads = engine or BUNDLED, threads or default_threads()
    with busy_processes(busy):
        measured = measure_settings(directory, grid_hw=grid_hw, runs=runs, threads=threads, pause_s=pause)
    name = open_engine_dir(directory, verify=False).manifest.name
    report = Report(
        benchmark="cpu_settings",
        subject=f"{name} busy{busy}",
        title="Settings of ONNX Runtime on a CPU",
        command=commands.typed("cpu_settings"),
        card=machine_card({"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}),
        facts={
            "model": f"{name}, fp32, {grid_hw[0]}×{grid_hw[1]}",
            "threads": f"{threads}",
            "runs": f"{runs} of each setting, {busy} busy process{'es' * (busy != 1)} beside them",
        },
        text=markdown(measured),
        figures={"rows": measured},
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

"""One row of the latency table: what is measured, how it is measured in a process of its own, what comes out.

A process per row keeps peaks of memory apart, and makes of a crash or of memory that ran out a line in the
table. `python -m benchmarks.rows.row SPEC.json ROW.json` is that process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from benchmarks import machine
from fiffdepth_rt.program.latency import Timing

ROOT = Path(__file__).parents[2]
POLL_S = 0.2
MIN_RUNS = 3
T = TypeVar("T")

Kind = Literal["ceiling", "ours", "torch", "peer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What one row measures; everything that its figures depend on, except the machine.

    size_hw: of the photo, in px. budget_s: for the timed runs; see `repeated`.
    options: what the kind of row takes: ours.measure, torch_rows.measure, peers.measure.
    """

    kind: Kind
    name: str
    size_hw: tuple[int, int]
    device: str
    threads: int
    runs: int
    warm_up: int
    budget_s: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """Equal for equal specs: by it a finished row is found again."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. None: not measured, or not to be had here.

    end_to_end: uint8 photo in host memory -> float32 depth map in host memory, wall clock, ms.
    jitter_ms: standard deviation of those times. runs: how many there were.
    stages_ms: medians by stage, taken inside the runs or beside them; what they leave is host work.
    host_overhead_ms: median over the runs of wall time minus time inside the engine, run by run.
    host_overhead_1080p_ms: the same for a photo of 1080×1920 px at the same processing size.
    fps: frames per second of a stream with 2 frames in flight.
    gflop: arithmetic of one depth map (2 per multiply-add). computes_in: the precision of its products.
    deviation: mean error before the clip against the fp32 reference, relative to its standard deviation.
    modelled: how the time was put together, where not every step was run. "" where all were.
    note: what else a reader has to know. error: why there are no figures.
    """

    name: str
    kind: str
    size_hw: tuple[int, int]
    computes_in: str = ""
    runs: int = 0
    end_to_end: Timing | None = None
    jitter_ms: float | None = None
    stages_ms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    host_overhead_ms: float | None = None
    host_overhead_1080p_ms: float | None = None
    fps: float | None = None
    gflop: float | None = None
    deviation: float | None = None
    load_ms: float | None = None
    first_frame_ms: float | None = None
    peak_host_mib: float | None = None
    peak_device_mib: float | None = None
    modelled: str = ""
    note: str = ""
    error: str = ""
    ceiling: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Row:
        timing = fields.get("end_to_end")
        return cls(
            **{
                **fields,
                "size_hw": tuple(fields["size_hw"]),
                "end_to_end": None if timing is None else Timing(**timing),
            }
        )


def timed(calls: Sequence[float]) -> dict[str, Any]:
    """Seconds of several runs -> the Row's fields about them."""
    return {
        "runs": len(calls),
        "end_to_end": Timing.of(calls),
        "jitter_ms": float(np.std(np.array(calls) * 1e3)),
    }


def median_ms(calls: Sequence[float]) -> float:
    return float(np.median(np.array(calls) * 1e3))


def repeated(call: Callable[[], T], times: int, *, budget_s: float, at_least: int = MIN_RUNS) -> list[T]:
    """What `call` gives, `times` times, or fewer (but `at_least` so many) once the budget is spent."""
    results: list[T] = []
    end = time.monotonic() + budget_s
    while len(results) < times and (len(results) < at_least or time.monotonic() < end):
        results.append(call())
    return results


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def noise_photo(size_hw: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 H×W×3; the same for every row."""
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def measure(spec: Spec) -> Row:
    """Spec -> Row, in this process. Raises whatever the libraries raise."""
    if spec.kind == "ceiling":
        reached = machine.measure_ceiling(spec.device, spec.threads, **spec.options)
        return Row(name=spec.name, kind=spec.kind, size_hw=spec.size_hw, ceiling=dataclasses.asdict(reached))
    if spec.kind == "ours":
        from benchmarks.rows import ours

        return ours.measure(spec)
    if spec.kind == "torch":
        from benchmarks.rows import in_torch as torch_rows

        return torch_rows.measure(spec)
    from benchmarks.rows import peers

    return peers.measure(spec)


def measure_apart(spec: Spec, *, limit_s: float) -> Row:
    """Spec -> Row, in a process of its own. Never raises for what goes wrong in it: that is Row.error.

    limit_s: the process is ended after so long.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "spec.json", Path(folder) / "row.json"
        asked.write_text(json.dumps(dataclasses.asdict(spec)))
        command = [sys.executable, "-m", "benchmarks.rows.row", str(asked), str(answered)]
        log = Path(folder) / "log"
        peak = machine.DevicePeak()
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            try:
                code = _wait(process, limit_s, lambda: spec.device != "cpu" and peak.look(process.pid))
            finally:
                process.kill()  # does nothing to one that has ended
                process.wait()
        if code == 0:
            row = Row.from_json(json.loads(answered.read_text()))
            return dataclasses.replace(row, peak_device_mib=peak.mib)
        error = _why(code, log.read_text(errors="replace"), limit_s)
        return Row(name=spec.name, kind=spec.kind, size_hw=spec.size_hw, error=error)


def _wait(process: subprocess.Popen[bytes], limit_s: float, look: Callable[[], Any]) -> int | None:
    """The exit code; None after limit_s."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            return process.wait(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            look()
    return None


def _why(code: int | None, log: str, limit_s: float) -> str:
    """Exit code and output of a process that gave no row -> one line, without names of places."""
    if code is None:
        return f"ended after {limit_s:g} s without a result"
    if code == -9:
        return "ended by the system, most likely because memory ran out (signal 9)"
    if code < 0:
        return f"crashed (signal {-code})"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return without_places(lines[-1])[:300] if lines else f"exit code {code} without a word"


def without_places(text: str) -> str:
    """Absolute paths -> their last part."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/:'\"]+[\\/])+", "", text)


def main() -> None:
    asked, answered = (Path(word) for word in sys.argv[1:])
    fields = json.loads(asked.read_text())
    spec = Spec(**{**fields, "size_hw": tuple(fields["size_hw"])})
    machine.volunteer_for_oom()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    row = measure(spec)
    answered.write_text(json.dumps(dataclasses.asdict(row)))


if __name__ == "__main__":
    main()

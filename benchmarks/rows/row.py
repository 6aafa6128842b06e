"""One row of the latency table: what is asked for, what comes out, and the stopwatches of all kinds of rows.

    latency.py -> worker.py -> row.py <- ceiling.py, ours.py, in_torch.py, peers.py

Each of those four measures one kind of row, and ends in `answer(measure)`: worker.py starts it as a process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import machine
from fiffdepth_rt.program.latency import Timing

WARM_UP, TIMED = 0.25, 0.75
"""Shares of a row's budget: when warming up ends, and when the timed runs do."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What one row measures; everything that its figures depend on, except the machine.

    module: what measures it, such as "benchmarks.rows.ours". kind: which rows it stands among in the table:
        "ceiling", "ours", "torch" or "peer".
    size_hw: of the photo, in px. budget_s: for all that a row measures once it is loaded; see `Budget`.
    options: what the module's `measure` takes.
    """

    module: str
    kind: str
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

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Spec:
        return cls(**{**fields, "size_hw": tuple(fields["size_hw"])})


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


class Budget:
    """Seconds for a whole row, from now on. What is measured once is measured again while there is time."""

    def __init__(self, seconds: float) -> None:
        self._start, self._seconds = time.monotonic(), seconds

    def spent(self, share: float = 1.0) -> bool:
        """Whether so much of it is gone."""
        return time.monotonic() - self._start >= share * self._seconds


def repeated(
    call: Callable[[], T], times: int, budget: Budget, *, share: float = 1.0, at_least: int = 1
) -> list[T]:
    """What `call` gives, `times` times, or fewer (but `at_least` so many) once a share of it is spent."""
    results: list[T] = []
    while len(results) < times and (len(results) < at_least or not budget.spent(share)):
        results.append(call())
    return results


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def noise_photo(size_hw: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 H×W×3; the same for every row."""
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def relative_deviation(found: Any, reference: Any) -> float:
    """Mean |found − reference| over the reference's standard deviation, both before the clip."""
    return float(np.abs(found.astype(np.float64) - reference).mean() / reference.std())


def answer(measure: Callable[[Spec], Row]) -> None:
    """The whole of a process that worker.py started: reads SPEC.json, measures, writes ROW.json.

    Raises whatever the libraries that are measured raise: worker.py makes a line in the table of it.
    """
    asked, answered = (Path(word) for word in sys.argv[1:])
    spec = Spec.from_json(json.loads(asked.read_text()))
    machine.volunteer_for_oom()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    answered.write_text(json.dumps(dataclasses.asdict(measure(spec))))

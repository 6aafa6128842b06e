"""How long a depth map takes, on which machine, beside what that machine can do at best.

Times are wall-clock, one photo at a time, from a uint8 array in host memory to a float32 array
in host memory.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array, Backend, CompilingBackend
from fiffdepth_rt.backends.grids import Size
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.engine_dir.manifest import STAGES
from fiffdepth_rt.image import Pixels, as_rgb, fit, to_grid
from fiffdepth_rt.machine import machine_card
from fiffdepth_rt.program.options import EngineChoice

FULL_HD_HW = (1080, 1920)

_FULL_HD_RUNS = 5  # at most: what a photo of a camera costs around the engine varies little
_CEILING_RUNS = 3
_MATMUL_SIDE = 1536
_COPY_BYTES = 2**27  # two arrays of this size are beyond the caches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Percentiles of the wall-clock time of several runs, in ms."""

    p50_ms: float
    p90_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        p50, p90, p99 = (float(ms) for ms in np.percentile(np.array(seconds) * 1e3, (50, 90, 99)))
        return cls(p50_ms=p50, p90_ms=p90, p99_ms=p99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """One measurement of `measure_latency`.

    photo_hw, grid_hw: px.
    load_ms: importing the engine, checking the engine directory with its hashes, opening it.
    first_frame_ms: the first depth map after that.
    start_ms: from opening to the first depth map, in a process that has opened the engine before: "compiled"
        with kernels compiled anew, "kept" with those of the time before. Empty for engines that keep none.
    end_to_end: photo -> depth map. in_engine: the engine's part of those same runs. stages: the journey
        again, stage by stage, on host arrays.
    host_overhead_ms: median of end to end minus in_engine, run by run: checks, fitting the photo to the grid,
        and the way back. full_hd_overhead_ms: the same for a photo of FULL_HD_HW, processed at the same size.
    peak_memory_mib: the largest resident set of the process so far; None where the system does not tell.
    ceiling: what NumPy reaches here. card: the machine, without names of hosts, users or paths.
    """

    model: str
    backend: str
    device: str
    precision: str
    engine: Mapping[str, Any]
    photo_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    runs: int
    warm_up: int
    load_ms: float
    first_frame_ms: float
    start_ms: Mapping[str, float]
    end_to_end: Timing
    in_engine: Timing
    stages: Mapping[str, Timing]
    host_overhead_ms: float
    full_hd_overhead_ms: float
    peak_memory_mib: float | None
    ceiling: Mapping[str, float]
    card: Mapping[str, str]
    date: str

    def to_json(self) -> str:
        """All fields on one line."""
        return json.dumps(dataclasses.asdict(self))

    def to_markdown(self) -> str:
        """Card of the machine, ceiling, table; no line break at the end."""
        photo, grid = (f"{height}×{width}" for height, width in (self.photo_hw, self.grid_hw))
        memory = "unknown" if self.peak_memory_mib is None else f"{self.peak_memory_mib:.0f} MiB"
        engine = ", ".join(f"{key} {value}" for key, value in self.engine.items())
        rows = [("end to end", self.end_to_end), *self.stages.items()]
        starts = " ".join(
            f"From opening to the first depth map, with kernels {kernels}: {ms:.0f} ms."
            for kernels, ms in self.start_ms.items()
        )
        return "\n".join(
            [
                f"# {self.model}, {self.precision}, {self.backend} on {self.device}: {photo}",
                "",
                *(f"- {key}: {value}" for key, value in self.card.items()),
                f"- engine: {engine}",
                f"- ceiling: {self.ceiling['matmul_gflops']:.0f} GFLOP/s in a float32 matrix product, "
                f"{self.ceiling['copy_gb_per_s']:.1f} GB/s read and written in a large copy (NumPy)",
                f"- {self.runs} runs after {self.warm_up} to warm up, {self.date}",
                "",
                f"| {photo} on grid {grid} | p50 ms | p90 ms | p99 ms |",
                "|---|---:|---:|---:|",
                *(f"| {name} | {t.p50_ms:.1f} | {t.p90_ms:.1f} | {t.p99_ms:.1f} |" for name, t in rows),
                f"| host overhead | {self.host_overhead_ms:.1f} | | |",
                f"| host overhead of a 1080×1920 photo | {self.full_hd_overhead_ms:.1f} | | |",
                "",
                f"Once: load {self.load_ms:.0f} ms, first frame {self.first_frame_ms:.0f} ms, "
                f"peak memory {memory}.",
                *([starts] if starts else []),
            ]
        )


def measure_latency(
    engine_dir: Path | None,
    choice: EngineChoice,
    *,
    photo_hw: tuple[int, int] | None = None,
    runs: int = 20,
    warm_up: int = 3,
) -> LatencyReport:
    """Engine directory (None: the bundled model), on the engine chosen -> LatencyReport.

    The photo is noise of photo_hw px, processed at its own longer side. None: a square at the default size.
    Raises what Depth and Depth.infer raise.
    """
    open_again = functools.partial(choice.open, engine_dir, size=None if photo_hw is None else max(photo_hw))
    opening = time.perf_counter()
    depth = open_again()
    load_s = time.perf_counter() - opening
    with depth:
        photo_hw = photo_hw or (depth.size, depth.size)
        photo = as_rgb(np.random.default_rng(0).integers(0, 256, (*photo_hw, 3), dtype=np.uint8))
        first_s = _seconds(lambda: depth.infer(photo))
        for _ in range(warm_up):
            depth.infer(photo)
        wall_s, engine_s = time_frames(depth, photo, runs=runs)
        grid_hw = depth.grid_for(photo_hw)
        stages = _time_stages(depth, to_grid(photo, fit(photo_hw, grid_hw))[None], runs=runs, warm_up=warm_up)
        full_hd = as_rgb(np.random.default_rng(1).integers(0, 256, (*FULL_HD_HW, 3), dtype=np.uint8))
        depth.infer(full_hd)
        full_hd_s = time_frames(depth, full_hd, runs=min(runs, _FULL_HD_RUNS))
        report = LatencyReport(
            model=depth.manifest.name,
            backend=depth.backend.name,
            device=depth.backend.device,
            precision=depth.backend.precision,
            engine=depth.backend.describe(),
            photo_hw=photo_hw,
            grid_hw=grid_hw,
            runs=runs,
            warm_up=warm_up,
            load_ms=load_s * 1e3,
            first_frame_ms=first_s * 1e3,
            start_ms={},
            end_to_end=Timing.of(wall_s),
            in_engine=Timing.of(engine_s),
            stages=stages,
            host_overhead_ms=_overhead_ms(wall_s, engine_s),
            full_hd_overhead_ms=_overhead_ms(*full_hd_s),
            peak_memory_mib=_peak_memory_mib(),  # before the ceiling, whose arrays are large
            ceiling=_ceiling(),
            card=machine_card(depth.describe()["versions"]),
            date=datetime.date.today().isoformat(),
        )
    # What was opened above is closed: two of an engine at once may be more than a GPU holds.
    return dataclasses.replace(report, start_ms=_time_starts(depth.backend, open_again, photo))


def _time_starts(backend: Backend, open_again: Callable[[], Depth], photo: Pixels) -> dict[str, float]:
    """ms from opening to the first depth map: kernels compiled anew, and those that are kept from then."""
    if not (isinstance(backend, CompilingBackend) and backend.forget_kernels()):
        return {}
    taken = {}
    for kernels in ("compiled", "kept"):
        start = time.perf_counter()
        with open_again() as depth:
            depth.infer(photo)
            taken[kernels] = (time.perf_counter() - start) * 1e3
    return taken


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_frames(depth: Depth, photo: Pixels, *, runs: int) -> tuple[list[float], list[float]]:
    """photo -> seconds of each run end to end, and seconds of the engine's part of the same run."""
    backend = TimedBackend(depth.backend)
    timed = depth.with_backend(backend)
    wall_s = [_seconds(lambda: timed.infer(photo)) for _ in range(runs)]
    return wall_s, backend.seconds


class TimedBackend:
    """A Backend that notes how long each `run` took; everything else is as in the backend it is made of.

    seconds: of each `run` so far. It is for runs that are timed end to end as well: an engine that is called
    again and again by itself finds its memory in the caches, and what is left over would look like host
    overhead.
    """

    def __init__(self, backend: Backend) -> None:
        self.seconds: list[float] = []
        self._backend = backend

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def device(self) -> str:
        return self._backend.device

    @property
    def precision(self) -> str:
        return self._backend.precision

    def grid_for(self, photo_hw: tuple[int, int], size: Size) -> tuple[int, int]:
        return self._backend.grid_for(photo_hw, size)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        start = time.perf_counter()
        try:
            return self._backend.run(image_BHW3)
        finally:
            self.seconds.append(time.perf_counter() - start)

    def run_stage(self, stage: str, value: Array) -> Array:
        return self._backend.run_stage(stage, value)

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return self._backend.run_unclipped(depth_latent)

    def describe(self) -> dict[str, Any]:
        return self._backend.describe()

    def close(self) -> None:
        self._backend.close()


def _overhead_ms(wall_s: Sequence[float], engine_s: Sequence[float]) -> float:
    return float(np.median(np.subtract(wall_s, engine_s)) * 1e3)


def _time_stages(depth: Depth, image: Any, *, runs: int, warm_up: int) -> dict[str, Timing]:
    """image -> each stage's times, on whole journeys: what one stage gives is what the next one takes."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _ in range(warm_up + runs):
        value = image
        for stage in STAGES:
            start = time.perf_counter()
            value = depth.backend.run_stage(stage, value)
            seconds[stage].append(time.perf_counter() - start)
    return {stage: Timing.of(taken[warm_up:]) for stage, taken in seconds.items()}


def _peak_memory_mib() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def _ceiling() -> dict[str, float]:
    """What NumPy reaches here: the best of a few runs, on as many threads as it takes by itself."""
    factor = np.random.default_rng(0).random((_MATMUL_SIDE, _MATMUL_SIDE), dtype=np.float32)
    product_s = min(_seconds(lambda: factor @ factor) for _ in range(_CEILING_RUNS))
    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)
    copy_s = min(_seconds(lambda: np.copyto(target, source)) for _ in range(_CEILING_RUNS))
    return {
        "matmul_gflops": 2 * _MATMUL_SIDE**3 / product_s / 1e9,
        "copy_gb_per_s": 2 * _COPY_BYTES / copy_s / 1e9,
    }

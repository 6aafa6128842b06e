"""A row of ours: an engine directory on one backend in one precision, as `Depth` runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.rows import flops
from benchmarks.rows.row import (
    TIMED,
    WARM_UP,
    Budget,
    Row,
    Spec,
    answer,
    median_ms,
    noise_photo,
    relative_deviation,
    repeated,
    seconds,
    timed,
)
from fiffdepth_rt import Depth
from fiffdepth_rt.backends.select import ENGINES
from fiffdepth_rt.engine_dir.checking import EngineDir, open_engine_dir
from fiffdepth_rt.engine_dir.golden import is_photo
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, STAGES
from fiffdepth_rt.image import as_rgb, fit, to_grid
from fiffdepth_rt.program.latency import FULL_HD_HW, TimedBackend

STREAM_FRAMES = 5  # at least; the first two fill the stream
_COMPUTES_IN = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def options_of(directory: Path, device: str) -> Iterator[dict[str, Any]]:
    """An engine directory -> the options of every row it gives here: usable backends × the sets they take.

    Raises an EngineDirError that says what is wrong with the directory.
    """
    opened = open_engine_dir(directory)
    digest = hash_file(directory / MANIFEST_NAME).sha256
    for engine in ENGINES:
        if not engine.usable().usable:
            continue
        sets = opened.manifest.graph_sets
        takes = tuple(name for name in sets if engine.takes(sets[name]))
        for name in takes if engine.ready is None else engine.ready(opened, device):
            yield {
                "directory": str(directory.resolve()),
                "manifest": digest,
                "backend": engine.name,
                "precision": name,
            }


def measure(spec: Spec) -> Row:
    """options: directory, backend, precision; manifest (a hash) tells a changed directory from the same.

    brief, if given and true: latency, stages and memory alone; no stream, no 1080p photo. So it is where
    the budget is spent by then.
    """
    options = spec.options
    opening = time.perf_counter()
    depth = Depth(
        options["directory"],
        backend=options["backend"],
        precision=options["precision"],
        device=spec.device,
        size=max(spec.size_hw),
        threads=spec.threads,
    )
    load_s = time.perf_counter() - opening
    with depth:
        photo = as_rgb(noise_photo(spec.size_hw))
        budget = Budget(spec.budget_s)
        first_s = seconds(lambda: depth.infer(photo))
        repeated(lambda: depth.infer(photo), spec.warm_up, budget, share=WARM_UP, at_least=0)
        wall, overhead = _frames(depth, photo, spec.runs, budget, share=TIMED)
        grid_hw = depth.grid_for(spec.size_hw)
        stages = _stages_ms(depth, to_grid(photo, fit(spec.size_hw, grid_hw))[None], spec.runs, budget)
        brief = options.get("brief", False) or budget.spent()
        fps = None if brief else _stream_fps(depth, photo, spec.runs, budget)
        peak = machine.peak_host_mib()
        overhead_1080p = (
            [] if brief else _frames(depth, as_rgb(noise_photo(FULL_HD_HW)), spec.runs, budget)[1]
        )
        engine_dir = open_engine_dir(options["directory"])
        return Row(
            name=spec.name,
            kind=spec.kind,
            size_hw=spec.size_hw,
            computes_in=_computes_in(depth),
            **timed(wall),
            stages_ms=stages,
            host_overhead_ms=median_ms(overhead),
            host_overhead_1080p_ms=None if brief else median_ms(overhead_1080p),
            fps=fps,
            gflop=flops.engine_dir_gflop(engine_dir, options["precision"], grid_hw),
            deviation=_deviation(depth, engine_dir),
            load_ms=load_s * 1e3,
            first_frame_ms=first_s * 1e3,
            peak_host_mib=peak,
            note=f"grid {grid_hw[0]}×{grid_hw[1]}" if grid_hw != spec.size_hw else "",
        )


def _frames(
    depth: Depth, photo: Any, runs: int, budget: Budget, *, share: float = 1.0
) -> tuple[list[float], list[float]]:
    """Seconds of each run, and what of them was outside the engine."""
    backend = TimedBackend(depth.backend)
    clocked = depth.with_backend(backend)
    wall = repeated(lambda: seconds(lambda: clocked.infer(photo)), runs, budget, share=share)
    return wall, [all_s - engine_s for all_s, engine_s in zip(wall, backend.seconds, strict=True)]


def _stream_fps(depth: Depth, photo: Any, runs: int, budget: Budget) -> float:
    """Frames per second with 2 in flight, from the second result to the last."""

    def frames() -> Iterator[Any]:
        for i in range(runs + STREAM_FRAMES):
            if i < STREAM_FRAMES or not budget.spent():
                yield photo

    moments = []
    with depth.stream(frames(), inflight=2) as stream:
        for _ in stream:
            moments.append(time.perf_counter())
    return (len(moments) - 2) / (moments[-1] - moments[1])


def _stages_ms(depth: Depth, image: Any, runs: int, budget: Budget) -> dict[str, float]:
    """image -> the median of each stage, on whole journeys over host arrays."""
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def journey() -> None:
        value = image
        for stage in STAGES:
            start = time.perf_counter()
            value = depth.backend.run_stage(stage, value)
            taken[stage].append(time.perf_counter() - start)

    repeated(journey, runs + 1, budget, at_least=2)  # the first one warms up
    return {stage: median_ms(calls[1:]) for stage, calls in taken.items()}


def _computes_in(depth: Depth) -> str:
    """What the engine multiplies in, as it says; on a CPU ONNX Runtime computes fp16 graphs in fp32."""
    backend = depth.backend
    said = _COMPUTES_IN.get(str(backend.describe().get("computes_in")))
    if said is not None:
        return said
    return "fp32" if backend.device == "cpu" else backend.precision.partition("-")[0]


def _deviation(depth: Depth, engine_dir: EngineDir) -> float | None:
    """Of the whole journey on the first golden photo; None where there is none on a grid of this engine."""
    name = engine_dir.manifest.golden
    if name is None:
        return None
    for image, values in read_golden(engine_dir.path / name).items():
        hw = values["encoder"].input.shape[1:3]
        if is_photo(image) and depth.backend.grid_for(hw, max(hw)) == hw:
            latent = depth.backend.run_stage("encoder", values["encoder"].input)
            found = depth.backend.run_unclipped(depth.backend.run_stage("unet", latent))
            return relative_deviation(found, values["decoder"].output)
    return None


if __name__ == "__main__":
    answer(measure)

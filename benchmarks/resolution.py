"""What larger grids cost and give: time, memory, accuracy, edges; and what tiles would do instead.

    python -m benchmarks.resolution DIR                        # the bundled model
    python -m benchmarks.resolution DIR --engine engines/fiffdepth --save

DIR holds pairs NAME_rgb.jpg and NAME_depth_mm.png. Every size runs in a process of its own, whose largest
resident memory is the row's. CPU time is that of all threads, and does not mind other programs. Accuracy is
that of benchmarks/accuracy.py. Steepness says how sharp edges are, not whether they are right: the 99th
percentile of the difference between neighbouring pixels of a map, in the photo's size, of its whole range;
"steepest" is the 99.9th.

Tiles: the four quadrants of a photo, each at `--tile` px on its own, put together. "As they are" takes their
values; "aligned" first fits each one's scale and shift to the whole photo at the same size.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import concurrent.futures
import dataclasses
import multiprocessing
import time
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import commands
from benchmarks.evaluation.frame_scores import score, write_strip
from benchmarks.machine import peak_host_mib
from benchmarks.report import publish, table
from benchmarks.sets import rgbd
from fiffdepth_rt import Depth, DepthMap
from training.alignment import align

SIZES = (192, 256, 384, 512, 768, 1024)
TILES = ("as they are", "aligned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeFigures:
    """One row of the table.

    grid_hw: of the folder's first photo. p50_ms, cpu_p50_ms: per photo.
    peak_mib: of the process; None where the system does not tell.

    abs_rel, delta1, steepness, steepest: 0 … 1. The last two: of the sharpest hundredth and thousandth.
    """

    what: str
    grid_hw: tuple[int, int]
    p50_ms: float
    cpu_p50_ms: float
    peak_mib: float | None
    abs_rel: float
    delta1: float
    steepness: float
    steepest: float


class _Tiled:
    """A Depth that infers quadrants. Only what the benchmarks ask of a Depth."""

    def __init__(self, depth: Depth, *, aligned: bool) -> None:
        self._depth = depth
        self._aligned = aligned

    def infer(self, photo: NDArray[np.uint8], *, size: int) -> DepthMap:
        result = np.empty(photo.shape[:2], dtype=np.float32)
        whole = self._depth.infer(photo, size=size).values if self._aligned else None
        for place in quadrants((photo.shape[0], photo.shape[1])):
            tile = self._depth.infer(photo[place], size=size).values
            result[place] = tile if whole is None else fitted_to(tile, whole[place])
        return DepthMap(values=result, space=self._depth.output_space)


def quadrants(photo_hw: tuple[int, int]) -> list[tuple[slice, slice]]:
    """The four quarters of a photo, row by row."""
    rows, columns = (((0, side // 2), (side // 2, side)) for side in photo_hw)
    return [(slice(*row), slice(*column)) for row in rows for column in columns]


def fitted_to(tile: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale and shift of `tile` that are nearest to `whole`, in least squares, clipped to [0, 1]."""
    everywhere = np.ones(tile.shape, dtype=bool)
    fitted = align(tile, whole, everywhere, space="depth")
    return np.clip(fitted, 0, 1).astype(np.float32)


def steepness(map_: NDArray[np.float32]) -> tuple[float, float]:
    """The 99th and the 99.9th percentile of the step from a pixel to the one beside or below it.

    Both: an edge that gets sharper takes fewer pixels, leaves the hundredth and stays in the thousandth.
    """
    steps = [np.abs(np.diff(map_, axis=axis)).ravel() for axis in (0, 1)]
    hundredth, thousandth = np.quantile(np.concatenate(steps), [0.99, 0.999])
    return float(hundredth), float(thousandth)


def measure_size(
    folder: Path, engine: Path | None, size: int, *, tiles: str | None, runs: int, pictures: Path | None
) -> SizeFigures:
    """One size on every pair of `folder`. tiles: of TILES, or None for whole photos."""
    photos = [frame.photo for frame in rgbd.frames(folder)]
    with Depth(engine) as opened:
        depth: Any = opened if tiles is None else _Tiled(opened, aligned=tiles == "aligned")
        depth.infer(photos[0], size=size)
        wall_s, cpu_s, steps = [], [], []
        for i in range(runs):
            start, start_cpu = time.perf_counter(), time.process_time()
            depth_map = depth.infer(photos[i % len(photos)], size=size)
            wall_s.append(time.perf_counter() - start)
            cpu_s.append(time.process_time() - start_cpu)
            steps.append(steepness(depth_map.values))
        peak_mib = peak_host_mib()
        scores = []
        for frame in rgbd.frames(folder):
            depth_map = depth.infer(frame.photo, size=size)
            scores.append(score(depth_map.values, frame, space=depth_map.space))
            if pictures is not None:
                write_strip(pictures / f"{frame.name}.png", frame, depth_map)
        abs_rel, delta1, _ = np.mean(scores, axis=0).tolist()
        return SizeFigures(
            what="whole" if tiles is None else f"2×2 tiles, {tiles}",
            grid_hw=opened.grid_for((photos[0].shape[0], photos[0].shape[1]), size),
            p50_ms=float(np.median(wall_s) * 1e3),
            cpu_p50_ms=float(np.median(cpu_s) * 1e3),
            peak_mib=peak_mib,
            abs_rel=abs_rel,
            delta1=delta1,
            steepness=float(np.mean(steps, axis=0)[0]),
            steepest=float(np.mean(steps, axis=0)[1]),
        )


def measure_size_apart(*args: Any, **options: Any) -> SizeFigures:
    """`measure_size` in a fresh process, whose peak memory is its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_size, *args, **options).result()


def markdown(rows: list[SizeFigures]) -> str:
    scores = ["AbsRel % ↓", "δ1 % ↑", "steepness %", "steepest %"]
    lines = [
        [
            r.what,
            f"{r.grid_hw[0]}×{r.grid_hw[1]}",
            *("" if x is None else f"{x:.0f}" for x in (r.p50_ms, r.cpu_p50_ms, r.peak_mib)),
            *(f"{100 * x:.1f}" for x in (r.abs_rel, r.delta1, r.steepness, r.steepest)),
        ]
        for r in rows
    ]
    return table(["photo", "grid", "ms", "CPU ms", "peak MiB", *scores], lines, align="llrrrrrrr")


@commands.command(__doc__)
@click.argument("folder", metavar="DIR", type=commands.FOLDER)
@commands.engine
@click.option(
    "--size",
    "sizes",
    metavar="N",
    type=commands.COUNT,
    multiple=True,
    default=SIZES,
    show_default=True,
    help="Longer side, in px, at which the model sees a photo; several times for several.",
)
@click.option(
    "--tile",
    metavar="N",
    type=commands.COUNT,
    default=256,
    show_default=True,
    help="The same, of a quadrant.",
)
@click.option(
    "--runs", metavar="N", type=commands.COUNT, default=9, show_default=True, help="Timed runs per row."
)
@commands.pictures
@commands.save
def main(
    folder: Path,
    engine: Path | None,
    sizes: tuple[int, ...],
    tile: int,
    runs: int,
    pictures: Path | None,
    save: bool,
) -> None:
    wanted = [(size, None) for size in sizes] + [(tile, tiles) for tiles in TILES]
    rows = []
    for size, tiles in tqdm(wanted, unit="row", disable=None):
        name = f"{size}" if tiles is None else f"{size}-tiles-{tiles.replace(' ', '-')}"
        place = None if pictures is None else pictures / name
        rows.append(measure_size_apart(folder, engine, size, tiles=tiles, runs=runs, pictures=place))
    with Depth(engine) as depth:
        said = depth.describe()
    report = commands.model_report(
        said,
        benchmark="resolution",
        title="Resolution",
        text=markdown(rows),
        figures={
            "model": said["name"],
            "sha256": said["sha256"],
            "rows": [dataclasses.asdict(row) for row in rows],
        },
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

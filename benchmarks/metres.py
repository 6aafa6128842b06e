"""Metres from a few known distances: how good they are, and what wrong ones do to them.

    python -m benchmarks.metres DIR                          # the bundled model
    python -m benchmarks.metres DIR --engine engines/fiffdepth --save

DIR holds pairs NAME_rgb.jpg and NAME_depth_mm.png. Of each frame's truth a few pixels are known; which ones,
fixed seeds say. The aligned depth, clipped to 1 mm … 10 m, is scored on the other valid pixels of 1 mm …
10 m, and errors are means over seeds and then over frames.

    all pixels           least squares over every valid pixel: as good as a scale and a shift can be
    200 points           as of a lidar (DepthMap.align). "20 wrong": drawn from 0.3 … 10 m
    2 distances          as by a tape measure (`fiffdepth calibrate`): one thing from the nearest third, one
                         from the farthest, neither where depth jumps
    1 distance           one from the nearest third; the shift is taken for 0
    another frame        200 points of the first frame of a group (NAME before its last "_") calibrate its
                         other frames

"refused" is the share of draws with which the fit says that near is far, and no metres are given; such a
draw has no errors, and of a tape's distances others are drawn.

The picture: AbsRel against the share of wrong points.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Sequence

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import commands
from benchmarks.report import publish, table
from benchmarks.sets import rgbd
from fiffdepth_rt import Depth, DepthMap, Space
from fiffdepth_rt.errors import AlignmentError
from fiffdepth_rt.geometry.alignment import Method
from fiffdepth_rt.geometry.calibration import Calibration
from fiffdepth_rt.geometry.tape_measure import Distance, measure
from training.data.rgbd import FARTHEST_M
from training.data.samples import MetricPair
from training.metrics import NEAREST_M, Errors, Sums, mean_image

POINTS, WRONG = 200, 20
WRONG_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SEEDS = 10
_DRAWS = 100  # of a pair of distances, until one is taken

Metres = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One way to come to metres, over all frames. refused: share of draws; None where none can be.
    found: of the wrong points, the share that the fit left out; None where there are none, or it does not."""

    way: str
    frames: int
    abs_rel: float
    delta1: float
    rmse: float
    refused: float | None = None
    found: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A frame, and what the model sees in it."""

    pair: MetricPair
    depth_map: DepthMap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Sparse truth, H×W: NaN where not known. wrong: H×W, where it was made wrong."""

    sparse_m: Metres
    wrong: NDArray[np.bool_]


def draw_points(pair: MetricPair, seed: int, *, points: int = POINTS, wrong: int = 0) -> Drawn:
    """`points` of the frame's valid pixels, of which `wrong` get a distance from 0.3 … FARTHEST_M."""
    random = np.random.default_rng(seed)
    at = random.choice(np.flatnonzero(pair.valid), points, replace=False)
    sparse_m = np.full(pair.depth_m.size, np.nan, np.float32)
    sparse_m[at] = pair.depth_m.ravel()[at]
    sparse_m[at[:wrong]] = random.uniform(0.3, FARTHEST_M, wrong)
    made_wrong = np.zeros(pair.depth_m.size, dtype=bool)
    made_wrong[at[:wrong]] = True
    shape = pair.depth_m.shape
    return Drawn(sparse_m=sparse_m.reshape(shape), wrong=made_wrong.reshape(shape))


def draw_distance(seen: Seen, random: np.random.Generator, *, third: int) -> Distance:
    """A place in the nearest (0) or farthest (2) third of the truth, with its true distance."""
    low, high = np.quantile(seen.pair.depth_m[seen.pair.valid], [third / 3, (third + 1) / 3])
    inside = seen.pair.valid & (seen.pair.depth_m >= low) & (seen.pair.depth_m <= high)
    y, x = divmod(int(random.choice(np.flatnonzero(inside))), inside.shape[1])
    return Distance(x=x, y=y, metres=float(seen.pair.depth_m[y, x]))


def errors_of(depth_m: Metres, pair: MetricPair, known: NDArray[np.bool_], space: Space) -> Errors:
    """Over the valid pixels that are not known. NaN is a depth of 0 or less, or an infinite one."""
    scored = pair.valid & ~known
    beyond = NEAREST_M if space is Space.DEPTH else FARTHEST_M
    clipped = np.clip(np.nan_to_num(depth_m[scored], nan=beyond), NEAREST_M, FARTHEST_M)
    return Sums.of(clipped, pair.depth_m[scored]).errors()


def by_points(frames: Sequence[Seen], way: str, *, wrong: int, method: Method, seeds: int) -> Row:
    """200 points of each frame -> metres of that frame."""
    means, found, refused = [], [], 0
    for seen in frames:
        errors = []
        for seed in range(seeds):
            drawn = draw_points(seen.pair, seed, wrong=wrong)
            try:
                alignment = seen.depth_map.align(drawn.sparse_m, method=method)
            except AlignmentError:
                refused += 1
                continue
            known = np.isfinite(drawn.sparse_m)
            errors.append(errors_of(alignment.depth_m, seen.pair, known, seen.depth_map.space))
            found.append(float(np.mean(~alignment.inliers[drawn.wrong])) if wrong else 0.0)
        if errors:
            means.append(mean_image(errors))
    tells = wrong > 0 and method == "ransac"
    return _row(
        way,
        means,
        refused=refused / (seeds * len(frames)),
        found=float(np.mean(found)) if tells else None,
    )


def by_all_pixels(frames: Sequence[Seen]) -> Row:
    """The best scale and shift that there are, in the model's own space."""
    means = []
    for seen in frames:
        everything = np.where(seen.pair.valid, seen.pair.depth_m, np.nan)
        depth_m = seen.depth_map.align(everything, method="lstsq").depth_m
        means.append(errors_of(depth_m, seen.pair, np.zeros_like(seen.pair.valid), seen.depth_map.space))
    return _row("all pixels, least squares", means)


def by_tape(frames: Sequence[Seen], way: str, *, thirds: Sequence[int], seeds: int) -> Row:
    """Distances of a thing in each of the `thirds` -> metres of that frame."""
    means, drawn, refused = [], 0, 0
    for number, seen in enumerate(frames):
        errors = []
        random = np.random.default_rng(number)
        for _ in range(_DRAWS):
            distances = [draw_distance(seen, random, third=third) for third in thirds]
            try:
                measured = measure(seen.depth_map, distances)
            except AlignmentError:
                drawn, refused = drawn + 1, refused + 1
                continue
            if any(measured.on_an_edge):  # which people are told
                continue
            drawn += 1
            depth_m = measured.calibration.apply(seen.depth_map)
            none = np.zeros_like(seen.pair.valid)
            errors.append(errors_of(depth_m, seen.pair, none, seen.depth_map.space))
            if len(errors) == seeds:
                break
        if errors:
            means.append(mean_image(errors))
    return _row(way, means, refused=refused / drawn if drawn else None)


def by_another_frame(frames: Sequence[Seen], *, seeds: int) -> Row | None:
    """The first frame of each group calibrates the others. None where no group has two frames."""
    firsts: dict[str, list[Calibration]] = {}
    means = []
    for seen in frames:
        if seen.pair.group not in firsts:
            firsts[seen.pair.group] = _calibrations(seen, seeds=seeds)
            continue
        none = np.zeros_like(seen.pair.valid)
        each = [calibration.apply(seen.depth_map) for calibration in firsts[seen.pair.group]]
        if each:
            means.append(mean_image([errors_of(m, seen.pair, none, seen.depth_map.space) for m in each]))
    return _row("another frame's 200 points", means) if len(firsts) < len(frames) else None


def _calibrations(seen: Seen, *, seeds: int) -> list[Calibration]:
    """By 200 points of the frame, for each seed that is not refused."""
    found = []
    for seed in range(seeds):
        with contextlib.suppress(AlignmentError):
            found.append(seen.depth_map.align(draw_points(seen.pair, seed).sparse_m).calibration)
    return found


def ways(frames: Sequence[Seen], *, seeds: int) -> Iterator[Row]:
    """The rows of the table."""
    yield by_all_pixels(frames)
    for name, method in (("RANSAC", "ransac"), ("least squares", "lstsq")):
        for wrong in (0, WRONG):
            way = f"{POINTS} points, {wrong or 'none'} wrong, {name}"
            yield by_points(frames, way, wrong=wrong, method=method, seeds=seeds)  # type: ignore[arg-type]
    yield by_tape(frames, "2 distances, near and far", thirds=(0, 2), seeds=seeds)
    yield by_tape(frames, "1 distance, near", thirds=(0,), seeds=seeds)
    transferred = by_another_frame(frames, seeds=seeds)
    if transferred is not None:
        yield transferred


def against_wrong_points(frames: Sequence[Seen], *, seeds: int) -> dict[str, list[float]]:
    """AbsRel at each of WRONG_SHARES, by method."""
    return {
        method: [
            by_points(frames, "", wrong=round(share * POINTS), method=method, seeds=seeds).abs_rel
            for share in WRONG_SHARES
        ]
        for method in ("ransac", "lstsq")
    }


def _row(way: str, means: Sequence[Errors], **others: float | None) -> Row:
    """frames: those with metres at all; of none, errors are NaN."""
    if not means:
        return Row(way=way, frames=0, abs_rel=math.nan, delta1=math.nan, rmse=math.nan, **others)
    mean = mean_image(means)
    return Row(way=way, frames=len(means), abs_rel=mean.abs_rel, delta1=mean.delta1, rmse=mean.rmse, **others)


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        [
            row.way,
            str(row.frames),
            f"{100 * row.abs_rel:.1f}",
            f"{100 * row.delta1:.1f}",
            f"{row.rmse:.2f}",
            "" if row.found is None else f"{100 * row.found:.0f}",
            "" if row.refused is None else f"{100 * row.refused:.0f}",
        ]
        for row in rows
    ]
    headers = ["metres by", "frames", "AbsRel % ↓", "δ1 % ↑", "RMSE m ↓", "wrong found %", "refused %"]
    return table(headers, lines, align="lrrrrrr")


def picture(curves: dict[str, list[float]], best: float) -> bytes:
    """-> PNG: AbsRel against the share of wrong points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, name, color in (("ransac", "RANSAC", "C0"), ("lstsq", "least squares", "C1")):
        axes.plot(
            [100 * x for x in WRONG_SHARES], [100 * y for y in curves[method]], "o-", color=color, label=name
        )
    axes.axhline(100 * best, color="grey", linestyle=":", label="all pixels, none wrong")
    axes.set_xlabel(f"wrong ones among {POINTS} points, %")
    axes.set_ylabel("AbsRel, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


@commands.command(__doc__)
@click.argument("folder", metavar="DIR", type=commands.FOLDER)
@commands.engine
@commands.size
@click.option(
    "--seeds",
    metavar="N",
    type=commands.COUNT,
    default=SEEDS,
    show_default=True,
    help="Draws of known pixels for each frame.",
)
@commands.save
def main(folder: Path, engine: Path | None, size: int | None, seeds: int, save: bool) -> None:
    with Depth(engine, size=size) as depth:
        frames = [Seen(pair=pair, depth_map=depth.infer(pair.photo)) for pair in rgbd.frames(folder)]
        said = depth.describe()
    rows = list(ways(frames, seeds=seeds))
    curves = against_wrong_points(frames, seeds=seeds)
    draw: Callable[[], bytes] = lambda: picture(curves, rows[0].abs_rel)  # noqa: E731
    report = commands.model_report(
        said,
        benchmark="metres",
        title="Metres from a few known distances",
        text=markdown(rows),
        facts={"frames": f"{len(frames)}; {seeds} draws each"},
        figures={
            "model": said["name"],
            "sha256": said["sha256"],
            "rows": [dataclasses.asdict(row) for row in rows],
            "abs_rel_by_wrong_share": {"shares": list(WRONG_SHARES), **curves},
        },
        draw=draw,
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

"""Streams for a long time: every frame once, in order, the right bits, and memory that does not grow.

    python -m benchmarks.streams            # 10,000 frames of the bundled model at 64 px
    python -m benchmarks.streams --save     # and a report with its picture in benchmarks/results/

Source and consumer wait at random. Each depth map is compared with what `infer` gives for its frame, bit by
bit. The resident memory is read after every hundredth of the frames. A second stream drops frames
(drop="oldest"): order and bits hold there too. Then two Depths and eight threads at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import io
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import click
import numpy as np
import psutil
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import commands
from benchmarks.report import publish, table
from fiffdepth_rt import Depth

PICTURES = 64  # different ones, in turns
PHOTO_HW = (48, 64)
SAMPLES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """One stream.

    rss_mib: the process's resident memory after `at` frames; growth_mib: from the first fifth on.
    given: depth maps handed over; wrong: those that are not, bit by bit, what `infer` gives for their frame;
    out_of_order: those whose number is not above the last one's; skipped: numbers left out.
    threads_left: of the stream, once it is over.
    """

    frames: int
    given: int
    wrong: int
    out_of_order: int
    skipped: int
    seconds: float
    at: tuple[int, ...]
    rss_mib: tuple[float, ...]
    threads_left: int

    @property
    def growth_mib(self) -> float:
        later = self.rss_mib[len(self.rss_mib) // 5 :]
        return max(later) - later[0] if later else 0.0


def watch(
    depth: Depth,
    *,
    frames: int,
    size: int = 64,
    longest_wait_s: float = 0.005,
    drop: str = "never",
    seed: int = 0,
) -> Watched:
    """A stream of `frames` frames, with a wait of up to longest_wait_s at a fifth of them on either side."""
    rng = np.random.default_rng(seed)
    waits = rng.uniform(0, longest_wait_s, (2, frames)) * (rng.random((2, frames)) < 0.2)
    pictures = [rng.integers(0, 256, (*PHOTO_HW, 3), dtype=np.uint8) for _ in range(PICTURES)]
    expected = [depth.infer(picture, size=size).values.tobytes() for picture in pictures]

    def source() -> Iterator[NDArray[np.uint8]]:
        for index in range(frames):
            time.sleep(waits[0, index])
            yield pictures[index % PICTURES]

    given = wrong = out_of_order = skipped = 0
    last, at, rss_mib = -1, [], []
    start = time.monotonic()
    with depth.stream(source(), size=size, inflight=3, drop=drop) as stream:  # type: ignore[arg-type]
        for item in tqdm(stream, total=frames, unit="frame", mininterval=5, disable=None):
            given += 1
            wrong += item.depth_map.values.tobytes() != expected[item.index % PICTURES]
            out_of_order += item.index <= last
            skipped += max(0, item.index - last - 1)
            time.sleep(waits[1, item.index])
            if (last + 1) * SAMPLES // frames != (item.index + 1) * SAMPLES // frames:
                at.append(item.index + 1)
                rss_mib.append(resident_mib())
            last = item.index
    return Watched(
        frames=frames,
        given=given,
        wrong=wrong,
        out_of_order=out_of_order,
        skipped=skipped,
        seconds=time.monotonic() - start,
        at=tuple(at),
        rss_mib=tuple(rss_mib),
        threads_left=sum(thread.name.startswith("fiffdepth-") for thread in threading.enumerate()),
    )


def differing_threads(first: Depth, second: Depth, *, frames: int = 50, size: int = 64) -> int:
    """Eight threads with a stream each, four on either Depth -> those that give other bits than one alone."""
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (*PHOTO_HW, 3), dtype=np.uint8) for _ in range(frames)]

    def bits(depth: Depth) -> list[bytes]:
        return [item.depth_map.values.tobytes() for item in depth.stream(pictures, size=size)]

    expected = bits(first)
    with ThreadPoolExecutor(8) as pool:
        return sum(result != expected for result in pool.map(bits, (first, second) * 4))


def resident_mib() -> float:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 2**20


def draw(watched: Mapping[str, Watched]) -> bytes:
    """Resident memory over frames -> PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, one in watched.items():
        axes.plot(one.at, one.rss_mib, label=f'drop="{name}"')
    axes.set_xlabel("frame")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(0, 1.15 * max(max(one.rss_mib) for one in watched.values()))
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def markdown(watched: Mapping[str, Watched], differing: int) -> str:
    headers = ["drop", "frames", "depth maps", "wrong bits", "out of order", "skipped", "growth MiB"]
    lines = [
        [
            *(name, w.frames, w.given, w.wrong, w.out_of_order, w.skipped, f"{w.growth_mib:.1f}"),
            *(w.threads_left, f"{w.given / w.seconds:.0f}"),
        ]
        for name, w in watched.items()
    ]
    return "\n".join(
        [
            table([*headers, "threads left", "fps"], lines, align="lrrrrrrrr"),
            "",
            f"Two Depths and eight threads at once: {differing} of 8 gave other bits than one alone.",
        ]
    )


@commands.command(__doc__)
@commands.engine
@click.option("--backend", metavar="NAME", default="auto", show_default=True, help="Inference engine.")
@click.option(
    "--frames", metavar="N", type=commands.COUNT, default=10_000, show_default=True, help="Of each stream."
)
@click.option(
    "--size",
    metavar="N",
    type=commands.COUNT,
    default=64,
    show_default=True,
    help="Longer side, in px, at which the model sees a frame.",
)
@commands.save
def main(engine: Path | None, backend: str, frames: int, size: int, save: bool) -> None:
    with Depth(engine, backend=backend) as depth, Depth(engine, backend=backend) as other:
        watched = {drop: watch(depth, frames=frames, size=size, drop=drop) for drop in ("never", "oldest")}
        differing = differing_threads(depth, other, size=size)
        said = depth.describe()
    report = commands.model_report(
        said,
        benchmark="streams",
        title="Streams",
        text=markdown(watched, differing),
        figures={
            "model": said["name"],
            "backend": said["backend"],
            "differing_threads": differing,
            **{drop: dataclasses.asdict(w) for drop, w in watched.items()},
        },
        draw=lambda: draw(watched),
    )
    publish(report, save=save)


if __name__ == "__main__":
    main()

"""`fiffdepth bench`: how long a depth map takes here."""

from __future__ import annotations

from pathlib import Path

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.options import EngineChoice
from fiffdepth_rt.program.terminal import tell


@click.command("bench")
@options.directory
@options.engine_choice
@click.option(
    "--photo",
    "photo_hw",
    metavar="HxW",
    callback=options.parse_hw,
    help="Height x width of the photo, in px. By default a square of the size that the model was made for.",
)
@click.option(
    "--runs", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Timed runs."
)
@click.option(
    "--warm-up",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs before those.",
)
@options.verbose
def command(
    directory: Path | None,
    choice: EngineChoice,
    photo_hw: tuple[int, int] | None,
    runs: int,
    warm_up: int,
) -> None:
    """Measure how long a depth map takes here.

    DIR is an engine directory; by default the bundled model. Times go from a uint8 photo in memory to a
    float32 depth map in memory, and stage by stage. The last line is JSON.

    \b
    Examples:
      fiffdepth bench
      fiffdepth bench --photo 192x256 --runs 50
      fiffdepth bench engines/fiffdepth --backend onnxruntime --threads 1
    """
    from fiffdepth_rt.program.latency import measure_latency

    report = measure_latency(directory, choice, photo_hw=photo_hw, runs=runs, warm_up=warm_up)
    tell(report.to_markdown())
    tell(report.to_json())

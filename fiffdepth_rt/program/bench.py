"""`fiffdepth bench`: how long a depth map takes here."""

from __future__ import annotations

from pathlib import Path

import click

from fiffdepth_rt.program import options


@click.command("bench")
@options.directory
@options.backend
@options.device
@click.option(
    "--size",
    metavar="HxW",
    callback=options.parse_hw,
    help="Photo, height x width in px. By default a square of the size that the model was made for.",
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
    backend: str,
    device: str | None,
    size: tuple[int, int] | None,
    runs: int,
    warm_up: int,
) -> None:
    """Measure how long a depth map takes here.

    DIR is an engine directory; by default the bundled model. Times go from a uint8 photo in memory to a
    float32 depth map in memory, and stage by stage. The last line is JSON.

    \b
    Examples:
      fiffdepth bench
      fiffdepth bench --size 192x256 --runs 50
      fiffdepth bench engines/fiffdepth --backend onnxruntime --device cpu
    """
    from fiffdepth_rt.program.latency import measure

    report = measure(directory, backend=backend, device=device, photo_hw=size, runs=runs, warm_up=warm_up)
    click.echo(report.to_markdown())
    click.echo(report.to_json())

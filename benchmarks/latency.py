"""What `fiffdepth bench` measures, and what importing the runtime costs: `python -m benchmarks.latency`."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
from pathlib import Path

import click

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.bench import Report, measure
from fiffdepth_rt.cli import bench_options

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

_IMPORT = """
import time, numpy, cv2
start = time.perf_counter()
import fiffdepth_rt
fiffdepth_rt.Depth  # loaded when asked for
print((time.perf_counter() - start) * 1e3)
"""
_IMPORT_RUNS = 7


def import_ms() -> float:
    """Median over fresh interpreters: importing Depth once NumPy and OpenCV are there."""
    command = [sys.executable, "-c", _IMPORT]
    return statistics.median(
        float(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for _ in range(_IMPORT_RUNS)
    )


def save(report: Report, folder: Path) -> Path:
    """Report -> a Markdown and a JSON file in `folder`, in place of older ones. Returns the former."""
    (height, width), device = report.photo_hw, report.device.replace(":", "")
    stem = f"latency-{report.model}-{report.precision}-{report.backend}-{device}-{height}x{width}"
    options = f"--size {height}x{width} --runs {report.runs} --warm-up {report.warm_up}"
    command = f"`python -m benchmarks.latency {options}` on the engine directory of {report.model}"
    text = f"{report.to_markdown()}\n\nMeasured by {command}.\n"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".json", report.to_json() + "\n"), (".md", text)):
        with replacing(folder / (stem + suffix)) as file:
            file.write(content.encode())
    return folder / (stem + ".md")


@click.command()
@bench_options
@click.option("--save", "keep", is_flag=True, help="Keep the report in benchmarks/results/.")
def main(
    directory: Path | None,
    backend: str,
    device: str | None,
    size: tuple[int, int] | None,
    runs: int,
    warm_up: int,
    keep: bool,
) -> None:
    """Measure how long a depth map takes here, and what importing the runtime costs.

    DIR is an engine directory; by default the bundled model. The last line is JSON.

    \b
    Examples:
      python -m benchmarks.latency
      python -m benchmarks.latency engines/fiffdepth --size 512x512 --save
    """
    report = measure(directory, backend=backend, device=device, photo_hw=size, runs=runs, warm_up=warm_up)
    report = dataclasses.replace(report, import_ms=import_ms())
    click.echo(report.to_markdown())
    if keep:
        click.echo(f"\nKept in {save(report, RESULTS)}")
    click.echo(report.to_json())


if __name__ == "__main__":
    main()

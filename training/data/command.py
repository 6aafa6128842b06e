"""python -m training.data: prepare raw datasets, and check what is there."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.program.options import PATH_OR_PATTERN, NamedPath
from fiffdepth_rt.program.terminal import printable, stderr_handler, tell
from fiffdepth_rt.space import Space
from training.data import hypersim_raw, sets
from training.data.check import Report, check
from training.data.samples import DataError

SHOWN = 20
"""Bad files on the screen; --report has all."""
_workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="all cores",
    help="Processes.",
)


class _Refused(click.ClickException):
    exit_code = 2


class _Program(click.Group):
    """Turns what goes wrong into one sentence and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (DataError, OutputError) as error:
            raise _Refused(printable(str(error))) from error


@click.group(cls=_Program)
def program() -> None:
    """Datasets for training: make them ready, and look whether they are whole."""
    logging.basicConfig(level=logging.WARNING, handlers=[stderr_handler("%(message)s")])


@program.command()
@click.argument("kind", type=click.Choice(["hypersim"]))
@click.argument("raw", type=NamedPath(exists=True, file_okay=False))
@click.argument("out", type=NamedPath(file_okay=False))
@click.option(
    "--split-csv",
    type=NamedPath(exists=True, dir_okay=False),
    help=f"The table of frames, if it is not RAW/{hypersim_raw.SPLIT_CSV}.",
)
@click.option(
    "--camera-parameters",
    type=NamedPath(exists=True, dir_okay=False),
    help="metadata_camera_parameters.csv: each scene's own camera, instead of one focal length for all.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["train", "val", "test"]),
    default=("train", "val", "test"),
    show_default="all three",
    help="Only this split; may be repeated.",
)
@_workers
def prepare(
    kind: str,
    raw: Path,
    out: Path,
    split_csv: Path | None,
    camera_parameters: Path | None,
    splits: tuple[str, ...],
    workers: int,
) -> None:
    """Turn a dataset's raw files in RAW into what training reads, in OUT.

    Scenes that are not downloaded (yet) are left out. The same command goes on where it was stopped, and
    takes in what was downloaded since. Ends with 1 if raw files are damaged, with 2 if nothing can be done.

    \b
    python -m training.data prepare hypersim raw/hypersim data/hypersim
    """
    done = hypersim_raw.prepare(
        raw, out, split_csv=split_csv, camera_parameters=camera_parameters, splits=splits, workers=workers
    )
    tell(f"{done.used} frames to train on or to test with, in {out}")
    for reason, count in sorted(done.excluded.items()):
        tell(f"{count} not: {reason}")
    _list_bad(done.damaged, None)
    sys.exit(1 if done.damaged else 0)


@program.command(name="check")
@click.argument("kind", type=click.Choice(sets.names()))
@click.argument("place", type=PATH_OR_PATTERN)
@click.option(
    "--split",
    type=click.Choice(sets.SPLITS),
    default="train",
    show_default=True,
    help="One that the dataset has: `python -m training.data sets` lists them.",
)
@click.option(
    "--space",
    type=click.Choice([str(space) for space in Space]),
    default="depth",
    show_default=True,
    help="What the pictures show.",
)
@click.option("--report", type=NamedPath(dir_okay=False), help="Write all of it to a JSON file too.")
@_workers
def check_command(kind: str, place: str, split: str, space: Space, report: Path | None, workers: int) -> None:
    """Read every file of the dataset in PLACE: a folder, or a pattern such as 'laion/{00000..00799}.tar'.

    Ends with 0 if all can be used, with 1 if some cannot (training would skip them), with 2 if none can.

    \b
    python -m training.data check hypersim data/hypersim --split val
    python -m training.data check shards 'laion/*.tar' --report laion.json
    """
    found = sets.open_set(kind, place, space=space, split=split)
    reports = [check(dataset, workers=workers) for dataset in found]
    if report is not None:
        with replacing(report) as file:
            file.write(json.dumps([dataclasses.asdict(one) for one in reports], indent=2).encode())
    for one in reports:
        _show(one, report)
    bad, samples = sum(len(one.bad) for one in reports), sum(one.samples for one in reports)
    sys.exit(0 if not bad else 1 if bad < samples else 2)


@program.command(name="sets")
def sets_command() -> None:
    """List the datasets that are known: what they hold, their splits, valid depths and licences."""
    for row in sets.SETS:
        valid = "" if row.valid_m is None else f" from {row.valid_m[0]:g} to {row.valid_m[1]:g}"
        licence = row.licence or "each folder's own"
        tell(f"{row.name}: {row.holds}{valid}; splits {', '.join(row.splits)}; licence {licence}")


def _show(one: Report, report: Path | None) -> None:
    title = f"{one.name}: {one.samples} samples, {len(one.bad)} bad; licence: {one.licence}"
    tell(title)
    for shape, count in list(one.shapes.items())[:SHOWN]:
        tell(f"  {count} of {shape}")
    if len(one.shapes) > SHOWN:
        tell(f"  and {len(one.shapes) - SHOWN} other shapes")
    for quantity, (least, mean, greatest) in one.values.items():
        tell(f"  {quantity}: {least:.4g} to {greatest:.4g}, mean {mean:.4g}")
    _list_bad(one.bad, report)


def _list_bad(bad: tuple[str, ...], report: Path | None) -> None:
    for line in bad[:SHOWN]:
        tell(f"  bad: {line}")
    if len(bad) > SHOWN:
        where = f"{report} has all" if report else "--report FILE lists all"
        tell(f"  and {len(bad) - SHOWN} more; {where}")

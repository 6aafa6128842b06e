"""Depth accuracy on datasets with depth in metres, exact to a protocol: Table 1.

    python -m benchmarks.accuracy --data DATA --datasets nyuv2,kitti,eth3d,scannet,diode
    python -m benchmarks.accuracy --data DATA --datasets nyuv2 --engine engines/fiffdepth --protocol ppd
    python -m benchmarks.accuracy --data DATA --datasets diode --predictions maps --space disparity
    python -m benchmarks.accuracy --datasets folder:frames
    python -m benchmarks.accuracy --datasets scenes:60 --scale 2

What to download, and how the protocols differ: docs/evaluate.md. Without --engine, --model and --predictions
the bundled model is scored beside the ramp, which is "the lower, the nearer" and needs no model.
Predictions are kept, so that the same command goes on where it was interrupted, and another protocol needs
no model.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import functools
from collections.abc import Sequence

import click

from benchmarks import commands
from benchmarks.evaluation import options
from benchmarks.evaluation import results as tables
from benchmarks.evaluation.methods import OddSize
from benchmarks.evaluation.options import How, scoring, write_out
from benchmarks.evaluation.pictures import panels, png
from benchmarks.evaluation.protocol import MARIGOLD, MEDIAN, PROTOCOLS
from benchmarks.evaluation.published import DEPTH_ROWS
from benchmarks.evaluation.results import SetResult
from benchmarks.evaluation.spread import run
from benchmarks.evaluation.task import AccuracyWork, Scored, Scorer, Skipped, photo_of
from benchmarks.report import Report, publish
from benchmarks.sets.choice import SetChoice
from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.machine import installed, machine_card
from training.alignment import AlignmentSpace
from training.data.samples import DataError, SampleError


def _processing_hw(frames: SetChoice) -> tuple[int, int] | None:
    """At which size a set's photos are processed: that of the first that can be read; None: the model's
    own."""
    opened = frames.open()
    if opened.rules.processing_px is None:
        return None
    reason = ""
    for index in range(len(opened)):
        try:
            pixels = photo_of(opened.frame(index), opened.rules).pixels
        except SampleError as error:
            reason = reason or str(error)
            continue
        return pixels.shape[0], pixels.shape[1]
    raise DataError(f"Not one image of {frames.title} can be read. The first: {reason}.")


def evaluate(work: AccuracyWork, how: How) -> SetResult:
    """One method on one set. Raises DataError where no image could be scored."""
    frames, protocol = work.frames, work.protocol
    opened, method = frames.open(), work.choice.open()
    method.close()
    label = f"{frames.title}, {method.name}, {protocol.name}"
    outcomes: list[Scored | Skipped] = run(
        work, len(opened), label=label, processes=how.processes, ray=how.ray
    )
    scored = [one for one in outcomes if isinstance(one, Scored)]
    skipped = [one for one in outcomes if isinstance(one, Skipped)]
    if not scored:
        raise DataError(
            f"Not one of the {len(opened)} images of {frames.title} could be scored with {method.name}. "
            f"The first: {skipped[0]}."
        )
    return SetResult(
        protocol=protocol.name,
        set=frames.key,
        title=frames.title,
        method=method.name,
        expected=opened.expected,
        scored=scored,
        skipped=skipped,
        choices={
            **protocol.choices(opened.rules),
            **method.choices,
            "aligned_in": str(protocol.space_of_fit(method.space, work.align_in)),
            "subset": frames.subset,
            "by_group": opened.rules.processing_px is None,
        },
    )


def save_worst(folder: Path, work: AccuracyWork, result: SetResult, count: int) -> None:
    """The `count` images with the largest AbsRel as PNGs, worst first: NN_<method>_<image>.png."""
    worst = sorted(result.scored, key=lambda one: -one.errors.abs_rel)[:count]
    scorer = Scorer(work)
    places = {scorer.frames.name(index): index for index in range(len(scorer.frames))}
    folder.mkdir(parents=True, exist_ok=True)
    for rank, one in enumerate(worst, 1):
        frame, _, compared = scorer.detail(places[one.name])
        name = "_".join([f"{rank:02d}", result.method, *Path(one.name).with_suffix("").parts])
        with replacing(folder / f"{name.replace(' ', '-').replace(',', '')}.png") as file:
            file.write(png(panels(frame, compared)))
    scorer.close()


def markdown(results: Sequence[SetResult]) -> str:
    """For each protocol: the table beside published rows, all errors, what was skipped."""
    parts = []
    for name in dict.fromkeys(result.protocol for result in results):
        own = [result for result in results if result.protocol == name]
        parts += [f"## Protocol {name}", tables.comparison(own, DEPTH_ROWS[name]), tables.details(own)]
    skipped = tables.skips(results)
    return "\n\n".join([*parts, *([skipped] if skipped else [])])


@commands.command(__doc__)
@options.data
@click.option(
    "--datasets",
    metavar="SETS",
    required=True,
    callback=options.words,
    help="Of nyuv2, kitti, eth3d, scannet, diode, folder:DIR, scenes:N; several with commas between.",
)
@click.option("--splits", metavar="DIR", type=commands.FOLDER, help="Marigold's data_split/; else ROOT's.")
@click.option("--subset", is_flag=True, help="Take lists of another length, and say so in the result.")
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice([protocol.name for protocol in PROTOCOLS]),
    multiple=True,
    default=(MARIGOLD.name,),
    show_default=True,
    help="Several times for several.",
)
@click.option(
    "--odd-size",
    type=click.Choice(["floor", "ceil"]),
    default="floor",
    show_default=True,
    help="Of ETH3D's 756 px on an exact grid: 752 as Marigold's repository, or 760 as diffusers.",
)
@click.option(
    "--align-in",
    type=click.Choice([str(space) for space in AlignmentSpace]),
    help="Fit scale and shift there, instead of where the protocol does.",
)
@click.option("--all-columns", is_flag=True, help="Fit to all of ETH3D's columns, not to 1024 of them.")
@options.scale
@click.option(
    "--save-errors", metavar="N", type=commands.COUNT, help="In --out: the N worst images of a row."
)
@scoring
@commands.save
def main(
    data: Path | None,
    datasets: tuple[str, ...],
    splits: Path | None,
    subset: bool,
    protocols: tuple[str, ...],
    odd_size: OddSize,
    align_in: str | None,
    all_columns: bool,
    scale: int,
    save_errors: int | None,
    how: How,
    save: bool,
) -> None:
    if save_errors is not None and how.out is None:
        raise click.UsageError("--save-errors needs --out DIR for the pictures.")
    if align_in is not None and MEDIAN.name in protocols:
        raise click.UsageError("The protocol median scales depths: --align-in has no meaning there.")
    how = dataclasses.replace(how, odd_size=odd_size)
    results = []
    for word in datasets:
        frames = SetChoice(word=word, data=data, splits=splits, subset=subset, scale=scale)
        for choice in how.choices(functools.partial(_processing_hw, frames)):
            for protocol in (one for name in protocols for one in PROTOCOLS if one.name == name):
                fewer = protocol.fewer_columns and not all_columns
                work = AccuracyWork(
                    choice=choice,
                    frames=frames,
                    protocol=dataclasses.replace(protocol, fewer_columns=fewer),
                    align_in=None if align_in is None else AlignmentSpace(align_in),
                    keep=how.keep,
                )
                results.append(evaluate(work, how))
                if how.out is not None and save_errors is not None:
                    folder = how.out / "worst" / protocol.name / frames.key.replace(":", "-")
                    save_worst(folder, work, results[-1], save_errors)
    report = report_of(results)
    if how.out is not None:
        write_out(how.out, report, {"per_image.csv": tables.per_image_csv(results)})
    publish(report, save=save)


def report_of(results: Sequence[SetResult]) -> Report:
    methods = list(dict.fromkeys(result.method for result in results))
    return Report(
        benchmark="accuracy",
        subject=" ".join([methods[0], *dict.fromkeys(result.set for result in results)]),
        title="Accuracy",
        command=commands.typed("accuracy"),
        card=machine_card(installed(options.LIBRARIES)),
        facts={"models": options.models(result.choices for result in results)},
        text=markdown(results),
        figures={"scores": tables.by_protocol(results)},
    )


if __name__ == "__main__":
    main()

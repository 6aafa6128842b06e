"""Are the edges where they belong? Depth Pro's boundary metrics and the soft edge error: Table 2.

    python -m benchmarks.boundaries --data DATA --datasets sintel,spring,ibims,am2k,p3m10k,dis5k
    python -m benchmarks.boundaries --data DATA --datasets am2k --engine engines/fiffdepth --far-over-near 10
    python -m benchmarks.boundaries --data DATA --datasets ibims --predictions maps --space disparity
    python -m benchmarks.boundaries --datasets folder:frames
    python -m benchmarks.boundaries --datasets mattes:photos

Sets with depth (sintel, spring, ibims, folder:DIR, scenes:N): predictions are aligned by least squares in the
model's own space, on truth within the set's range; F1 and the soft edge error are of all known truth. Sets
with mattes (am2k, p3m10k, dis5k, mattes:DIR) have no depth to align to: a map in [0, 1] is stretched over
the depths 1 to far/near, and the recall of the matte's outline depends on that ratio; --sweep gives it for
several. What to download: docs/evaluate.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from benchmarks import commands
from benchmarks.evaluation import options
from benchmarks.evaluation.boundary_metrics import SEE_KERNELS
from benchmarks.evaluation.boundary_task import BoundaryChoice, BoundaryWork, Edges
from benchmarks.evaluation.options import How, scoring, write_out
from benchmarks.evaluation.published import BOUNDARY_ROWS
from benchmarks.evaluation.results import skipped_sentence
from benchmarks.evaluation.spread import run
from benchmarks.evaluation.task import Skipped
from benchmarks.report import Report, publish, table
from benchmarks.sets.mattes import MatteFrames
from fiffdepth_rt.machine import installed, machine_card
from training.data.samples import DataError

SWEEP = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Ratios far/near of --sweep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundaryResult:
    """One method on one set. ratios: of each image's recalls. The rest as in results.SetResult."""

    set: str
    title: str
    method: str
    expected: int
    ratios: tuple[float, ...]
    scored: Sequence[Edges]
    skipped: Sequence[Skipped]
    choices: dict[str, Any]

    @property
    def images(self) -> str:
        n = len(self.scored)
        return str(n) if n == self.expected else f"{n} of {self.expected}"

    @property
    def f1(self) -> float | None:
        found = [one.f1 for one in self.scored if one.f1 is not None]
        return float(np.mean(found)) if found else None

    @property
    def see(self) -> list[float | None]:
        """By kernel; the mean over the images that have an edge."""
        columns = zip(*(one.see for one in self.scored), strict=True)
        kinds = [[x for x in column if x is not None] for column in columns]
        return [float(np.mean(kind)) if kind else None for kind in kinds]

    @property
    def recall(self) -> list[float]:
        return [float(x) for x in np.mean([one.recall for one in self.scored], axis=0)] if self.ratios else []

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"method": self.method, "images": len(self.scored), "expected": self.expected}
        if self.f1 is not None:
            found |= {"boundary_f1": self.f1}
            found |= {f"see_{k}_m": x for k, x in zip(SEE_KERNELS, self.see, strict=True)}
        else:
            found |= {"recall_by_far_over_near": dict(zip(map(str, self.ratios), self.recall, strict=True))}
        skipped = [dataclasses.asdict(one) for one in self.skipped]
        return found | {"skipped": skipped, "choices": self.choices}


def evaluate(work: BoundaryWork, how: How) -> BoundaryResult:
    """Raises DataError where no image could be scored."""
    opened, method = work.frames.open(), work.choice.open()
    method.close()
    on_mattes = isinstance(opened, MatteFrames)
    outcomes: list[Edges | Skipped] = run(
        work, len(opened), label=f"{work.frames.title}, {method.name}", processes=how.processes, ray=how.ray
    )
    scored = [one for one in outcomes if isinstance(one, Edges)]
    skipped = [one for one in outcomes if isinstance(one, Skipped)]
    if not scored:
        raise DataError(
            f"Not one of the {len(opened)} images of {work.frames.title} could be scored with {method.name}. "
            f"The first: {skipped[0]}."
        )
    means = "depth 1 to far/near" if on_mattes else f"least squares in {method.space}"
    return BoundaryResult(
        set=work.frames.key,
        title=work.frames.title,
        method=method.name,
        expected=opened.expected,
        ratios=work.ratios if on_mattes else (),
        scored=scored,
        skipped=skipped,
        choices={
            **method.choices,
            "depth_by": means if work.aligned else "the prediction as it is",
            "thresholds": "1.05 to 1.25, 10, weighted by themselves",
            "see_kernels": None if on_mattes else list(SEE_KERNELS),
            "subset": work.frames.subset,
        },
    )


def markdown(results: Sequence[BoundaryResult]) -> str:
    """Table 2 with published rows; soft edge errors; recall by ratio where there are several."""
    sets = list(dict.fromkeys(result.set for result in results))
    titles = {result.set: result.title for result in results}
    depth = {result.set for result in results if result.f1 is not None}
    headers = ["method", *(f"{titles[name]} {'F1' if name in depth else 'R'} ↑" for name in sets), "from"]
    rows: list[list[str]] = []
    for row in BOUNDARY_ROWS:
        if any(name in row.figures for name in sets):
            cells = [f"{row.figures[name][0]:.3f}" if name in row.figures else "" for name in sets]
            rows.append([row.method, *cells, f"published: {row.source}"])
    for method in dict.fromkeys(result.method for result in results):
        own = {result.set: result for result in results if result.method == method}
        cells = [f"{_headline(own[name]):.3f}" if name in own else "" for name in sets]
        images = ", ".join(own[name].images for name in sets if name in own)
        rows.append([method, *cells, f"measured here, n = {images}"])
    parts = [table(headers, rows, align="l" + "r" * len(sets) + "l")]
    if depth:
        lines = [
            [r.title, r.method, *("" if x is None else f"{x:.3f}" for x in r.see)]
            for r in results
            if r.f1 is not None
        ]
        parts.append(table(["set", "method", *(f"SEE {k}, m ↓" for k in SEE_KERNELS)], lines, align="llrrr"))
    swept = [result for result in results if len(result.ratios) > 1]
    if swept:
        ratios = swept[0].ratios
        lines = [[r.title, r.method, *(f"{x:.3f}" for x in r.recall)] for r in swept]
        parts.append(
            table(
                ["set", "recall at far/near", *(f"{x:g}" for x in ratios)],
                lines,
                align="ll" + "r" * len(ratios),
            )
        )
    gone = [skipped_sentence(r.title, r.method, r.skipped) for r in results if r.skipped]
    return "\n\n".join([*parts, *gone])


def _headline(result: BoundaryResult) -> float:
    """F1, or the recall at the first ratio: that of --far-over-near."""
    return result.recall[0] if result.f1 is None else result.f1


def per_image_csv(results: Sequence[BoundaryResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    see = [f"see_{k}_m" for k in SEE_KERNELS]
    writer.writerow(["set", "method", "image", "f1", *see, "far_over_near", "recall", "skipped"])
    for result in results:
        for one in result.scored:
            key = [result.set, result.method, one.name]
            if one.f1 is not None:
                values = ["" if x is None else repr(x) for x in one.see]
                writer.writerow([*key, repr(one.f1), *values, "", "", ""])
            for ratio, recall in zip(result.ratios, one.recall, strict=True):
                writer.writerow([*key, "", *([""] * len(see)), ratio, repr(recall), ""])
        for gone in result.skipped:
            empty = [""] * (len(see) + 3)
            writer.writerow([result.set, result.method, gone.name, *empty, gone.reason])
    return text.getvalue()


@commands.command(__doc__)
@options.data
@click.option(
    "--datasets",
    metavar="SETS",
    required=True,
    callback=options.words,
    help="Of sintel, spring, ibims, am2k, p3m10k, dis5k, folder:DIR, scenes:N, mattes:DIR.",
)
@click.option("--splits", metavar="DIR", type=commands.FOLDER, help="Where dis5k_sample_list.txt is.")
@click.option("--subset", is_flag=True, help="Take sets of another size, and say so in the result.")
@click.option(
    "--far-over-near", metavar="X", default=10.0, show_default=True, help="Depth range of a map, for mattes."
)
@click.option("--sweep", is_flag=True, help="For mattes: also the far/near of 2, 5, 10, 20, 50 and 100.")
@click.option("--unaligned", is_flag=True, help="Predictions are depth up to scale: take them as they are.")
@options.scale
@scoring
@commands.save
def main(
    data: Path | None,
    datasets: tuple[str, ...],
    splits: Path | None,
    subset: bool,
    far_over_near: float,
    sweep: bool,
    unaligned: bool,
    scale: int,
    how: How,
    save: bool,
) -> None:
    if not far_over_near > 1:
        raise click.UsageError(
            f"--far-over-near {far_over_near:g}: the far end is beyond the near one, so > 1."
        )
    ratios = tuple(dict.fromkeys((far_over_near, *(SWEEP if sweep else ()))))
    results = []
    for word in datasets:
        frames = BoundaryChoice(word=word, data=data, splits=splits, subset=subset, scale=scale)
        for choice in how.choices():
            work = BoundaryWork(
                choice=choice, frames=frames, ratios=ratios, aligned=not unaligned, keep=how.keep
            )
            results.append(evaluate(work, how))
    keyed: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        keyed.setdefault(result.set, []).append(result.to_json())
    report = Report(
        benchmark="boundaries",
        subject=" ".join([results[0].method, *dict.fromkeys(result.set for result in results)]),
        title="Boundaries",
        command=commands.typed("boundaries"),
        card=machine_card(installed(options.LIBRARIES)),
        facts={
            "models": options.models(result.choices for result in results),
            "far over near": f"{far_over_near:g}",
        },
        text=markdown(results),
        figures={"scores": keyed},
    )
    if how.out is not None:
        write_out(how.out, report, {"per_image.csv": per_image_csv(results)})
    publish(report, save=save)


if __name__ == "__main__":
    main()

"""Which of two points is nearer? Pair accuracy on DA-2K, overall and by scenario: the last column of Table 1.

    python -m benchmarks.da2k DATA/da2k                            # the bundled model, beside the ramp
    python -m benchmarks.da2k DATA/da2k --engine engines/fiffdepth
    python -m benchmarks.da2k DATA/da2k --predictions maps --space disparity

DATA/da2k holds annotations.json and images/ (docs/evaluate.md). A map is brought to the photo's size
bilinearly, and the two pixels are compared, each by itself; which value is nearer, its space says. Equal
values are wrong. There is no official script: the accuracy over all pairs and the mean of the scenarios are
both given, since the paper does not say which one it prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import click
import numpy as np

from benchmarks import commands
from benchmarks.evaluation import kept, options
from benchmarks.evaluation.methods import Choice, Photo
from benchmarks.evaluation.options import How, scoring, write_out
from benchmarks.evaluation.protocol import resized
from benchmarks.evaluation.published import DA2K_ROWS
from benchmarks.evaluation.results import skipped_sentence
from benchmarks.evaluation.spread import run
from benchmarks.evaluation.task import Skipped, finite_map
from benchmarks.report import Report, publish, table
from benchmarks.sets.da2k import OTHER, PAIRS, SCENARIOS, Da2k
from fiffdepth_rt.machine import installed, machine_card
from training.data.samples import DataError, SampleError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordered:
    """Of one image: how many of its pairs are in the right order, and how many of the wrong ones are ties."""

    name: str
    scenario: str
    pairs: int
    right: int
    ties: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairWork:
    """A value that can be sent to a process."""

    choice: Choice
    folder: Path
    subset: bool
    keep: Path | None

    def open(self) -> PairScorer:
        return PairScorer(self)


class PairScorer:
    """index of an image -> Ordered or Skipped."""

    def __init__(self, work: PairWork) -> None:
        self._keep = work.keep
        self._set, self._method = Da2k(work.folder, subset=work.subset), work.choice.open()

    def __call__(self, index: int) -> Ordered | Skipped:
        name = self._set.name(index)
        try:
            frame = self._set.frame(index)
            hw = (frame.photo.shape[0], frame.photo.shape[1])
            photo = Photo(set="da2k", name=name, pixels=frame.photo, full_hw=hw, prediction=Path(name).stem)
            values = resized(finite_map(kept.predict(self._method, photo, self._keep), name), hw)
        except SampleError as error:
            return Skipped(name=name, reason=error.reason)
        near, far = (np.array([values[pair[end]] for pair in frame.pairs]) for end in (0, 1))
        right = near < far if self._method.space.grows_with_distance else near > far
        return Ordered(
            name=name,
            scenario=frame.scenario,
            pairs=len(frame.pairs),
            right=int(np.count_nonzero(right)),
            ties=int(np.count_nonzero(near == far)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairResult:
    """One method. choices: all that decided its numbers."""

    method: str
    scored: Sequence[Ordered]
    skipped: Sequence[Skipped]
    choices: Mapping[str, Any]

    @property
    def pairs(self) -> int:
        return sum(one.pairs for one in self.scored)

    @property
    def accuracy(self) -> float:
        """Over all pairs, 0 … 1."""
        return sum(one.right for one in self.scored) / self.pairs

    @property
    def by_scenario(self) -> dict[str, float]:
        """0 … 1, of the scenarios that have pairs."""
        found = {}
        for scenario in (*SCENARIOS, OTHER):
            own = [one for one in self.scored if one.scenario == scenario]
            if own:
                found[scenario] = sum(one.right for one in own) / sum(one.pairs for one in own)
        return found

    @property
    def mean_of_scenarios(self) -> float:
        return float(np.mean(list(self.by_scenario.values())))

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "pairs": self.pairs,
            "expected_pairs": PAIRS,
            "accuracy": self.accuracy,
            "mean_of_scenarios": self.mean_of_scenarios,
            "by_scenario": self.by_scenario,
            "ties": sum(one.ties for one in self.scored),
            "images": len(self.scored),
            "skipped": [dataclasses.asdict(one) for one in self.skipped],
            "choices": dict(self.choices),
        }


def evaluate(work: PairWork, how: How) -> PairResult:
    """Raises DataError where no image could be scored."""
    count, method = len(Da2k(work.folder, subset=work.subset)), work.choice.open()
    method.close()
    outcomes: list[Ordered | Skipped] = run(
        work, count, label=f"DA-2K, {method.name}", processes=how.processes, ray=how.ray
    )
    scored = [one for one in outcomes if isinstance(one, Ordered)]
    skipped = [one for one in outcomes if isinstance(one, Skipped)]
    if not scored:
        first = skipped[0] if skipped else "there is none"
        raise DataError(f"Not one image of DA-2K could be scored with {method.name}. The first: {first}.")
    choices = {
        **method.choices,
        "nearer": "smaller values" if method.space.grows_with_distance else "larger values",
        "ties": "wrong",
        "read": "one pixel, after bilinear resizing to the photo's size",
        "subset": work.subset,
    }
    return PairResult(method=method.name, scored=scored, skipped=skipped, choices=choices)


def markdown(results: Sequence[PairResult]) -> str:
    """Accuracy in percent beside the published rows, by scenario, and what was skipped."""
    rows = [
        [row.method, f"{row.figures['da2k'][0]:.1f}", "", f"published: {row.source}"] for row in DA2K_ROWS
    ]
    for result in results:
        pairs = str(result.pairs) if result.pairs == PAIRS else f"{result.pairs} of {PAIRS}"
        mean = f"{100 * result.mean_of_scenarios:.1f}"
        rows.append([result.method, f"{100 * result.accuracy:.1f}", mean, f"measured here, {pairs} pairs"])
    parts = [table(["method", "pairs right, % ↑", "mean of scenarios ↑", "from"], rows, align="lrrl")]
    names = [name for name in (*SCENARIOS, OTHER) if any(name in r.by_scenario for r in results)]
    lines = [
        [r.method, *(f"{100 * r.by_scenario[name]:.1f}" if name in r.by_scenario else "" for name in names)]
        for r in results
    ]
    parts.append(table(["method", *names], lines, align="l" + "r" * len(names)))
    return "\n\n".join(
        [*parts, *(skipped_sentence("DA-2K", r.method, r.skipped) for r in results if r.skipped)]
    )


def per_image_csv(results: Sequence[PairResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "image", "scenario", "pairs", "right", "ties", "skipped"])
    for result in results:
        for one in result.scored:
            writer.writerow([result.method, one.name, one.scenario, one.pairs, one.right, one.ties, ""])
        for gone in result.skipped:
            writer.writerow([result.method, gone.name, "", "", "", "", gone.reason])
    return text.getvalue()


@commands.command(__doc__)
@click.argument("folder", metavar="DIR", type=commands.FOLDER)
@click.option("--subset", is_flag=True, help="Take another number of pairs, and say so in the result.")
@scoring
@commands.save
def main(folder: Path, subset: bool, how: How, save: bool) -> None:
    works = (PairWork(choice=choice, folder=folder, subset=subset, keep=how.keep) for choice in how.choices())
    results = [evaluate(work, how) for work in works]
    report = Report(
        benchmark="da2k",
        subject=results[0].method,
        title="Pairs of points: DA-2K",
        command=commands.typed("da2k"),
        card=machine_card(installed(options.LIBRARIES)),
        facts={"models": options.models(result.choices for result in results)},
        text=markdown(results),
        figures={"scores": [result.to_json() for result in results]},
    )
    if how.out is not None:
        write_out(how.out, report, {"per_image.csv": per_image_csv(results)})
    publish(report, save=save)


if __name__ == "__main__":
    main()

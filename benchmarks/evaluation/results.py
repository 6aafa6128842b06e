"""What came out of scoring one set by one method in one protocol: means, pooled, skipped; tables and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.evaluation.published import Published
from benchmarks.evaluation.task import Scored, Skipped
from benchmarks.report import table
from fiffdepth_rt.program.terminal import one_line
from training.metrics import Errors, mean_image, pooled

SHOWN_SKIPS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetResult:
    """protocol, set, method: the keys. title: the set's. expected: images of the whole set.

    scored, skipped: every image of this run, in the set's order. choices: all that decided the numbers.
    """

    protocol: str
    set: str
    title: str
    method: str
    expected: int
    scored: Sequence[Scored]
    skipped: Sequence[Skipped]
    choices: Mapping[str, Any]

    @property
    def images(self) -> str:
        """ "652", or "3 of 652" where it is not the whole set."""
        n = len(self.scored)
        return str(n) if n == self.expected else f"{n} of {self.expected}"

    @property
    def mean(self) -> Errors:
        return mean_image([one.errors for one in self.scored])

    @property
    def pooled(self) -> Errors:
        return pooled(one.sums for one in self.scored)

    def groups(self) -> dict[str, SetResult]:
        """By the frames' group, for sets that are groups of a few frames."""
        names = sorted({one.group for one in self.scored})
        return {
            name: dataclasses.replace(
                self,
                scored=[one for one in self.scored if one.group == name],
                skipped=[],
                expected=sum(one.group == name for one in self.scored),
            )
            for name in names
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "images": len(self.scored),
            "expected": self.expected,
            "skipped": [dataclasses.asdict(one) for one in self.skipped],
            "mean_over_images": dataclasses.asdict(self.mean),
            "pooled_over_pixels": dataclasses.asdict(self.pooled),
            "pixels": sum(one.sums.pixels for one in self.scored),
            "choices": dict(self.choices),
        }


def by_protocol(results: Iterable[SetResult]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Results -> JSON, keyed by protocol, then by set."""
    keyed: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for result in results:
        keyed.setdefault(result.protocol, {}).setdefault(result.set, []).append(result.to_json())
    return keyed


def comparison(results: Sequence[SetResult], published: Sequence[Published]) -> str:
    """One protocol's table: a row per method, AbsRel and δ1 of each set in percent, published rows first.

    A published row is there where it has a figure for one of the sets. Raises ValueError for results of
    several protocols: their numbers do not compare.
    """
    if len({result.protocol for result in results}) != 1:
        raise ValueError("Numbers of several protocols do not compare: make a table for each.")
    sets = list(dict.fromkeys(result.set for result in results))
    titles = {result.set: result.title for result in results}
    headers = [
        "method",
        *(f"{titles[name]} {what}" for name in sets for what in ("AbsRel ↓", "δ1 ↑")),
        "from",
    ]
    rows: list[list[str]] = []
    for row in published:
        if any(name in row.figures for name in sets):
            cells = [cell for name in sets for cell in _printed(row, name)]
            rows.append([row.method, *cells, f"published: {row.source}"])
    for method in dict.fromkeys(result.method for result in results):
        own = {result.set: result for result in results if result.method == method}
        cells = []
        for name in sets:
            if name in own:
                mean = own[name].mean
                cells += [f"{100 * mean.abs_rel:.1f}", f"{100 * mean.delta1:.1f}"]
            else:
                cells += ["", ""]
        images = ", ".join(f"{own[name].images}" for name in sets if name in own)
        rows.append([method, *cells, f"measured here, n = {images}"])
    return table(headers, rows, align="l" + "rr" * len(sets) + "l")


def _printed(row: Published, name: str) -> list[str]:
    return [f"{x:.1f}" for x in row.figures[name]] if name in row.figures else ["", ""]


def details(results: Sequence[SetResult]) -> str:
    """One protocol's nine errors: a row per set, method and way to average, and where it was aligned."""
    headers = ["set", "method", "n", "over", "AbsRel %", "SqRel m", "RMSE m", "RMSElog", "log10"]
    headers += ["δ1 %", "δ2 %", "δ3 %", "SILog", "aligned in"]
    rows = []
    for result in results:
        parts = {"images": result.mean, "pixels": result.pooled}
        for over, errors in parts.items():
            rows.append(_error_row(result.title, result, over, errors))
        groups = result.groups() if result.choices.get("by_group") else {}
        if len(groups) > 1:
            for name, part in groups.items():
                rows.append(_error_row(f"{result.title}: {name}", part, "images", part.mean))
    return table(headers, rows, align="llllrrrrrrrrrl")


def _error_row(title: str, result: SetResult, over: str, e: Errors) -> list[str]:
    percent = [f"{100 * x:.1f}" for x in (e.delta1, e.delta2, e.delta3)]
    plain = [f"{x:.3f}" for x in (e.sq_rel, e.rmse, e.rmse_log, e.log10)]
    numbers = [f"{100 * e.abs_rel:.1f}", *plain, *percent, f"{e.silog:.1f}"]
    return [title, result.method, result.images, over, *numbers, str(result.choices["aligned_in"])]


def skips(results: Iterable[SetResult]) -> str:
    """A sentence for each result with skipped images. "" where none was."""
    return "\n\n".join(skipped_sentence(r.title, r.method, r.skipped) for r in results if r.skipped)


def skipped_sentence(title: str, method: str, skipped: Sequence[Skipped]) -> str:
    """How many images were skipped, and the first few by name with the reason."""
    named = [one_line(f"{one.name} ({one.reason})") for one in skipped[:SHOWN_SKIPS]]
    more = len(skipped) - len(named)
    rest = f"; and {more} more, in the JSON" if more else ""
    return f"Skipped of {title}, {method}: {len(skipped)}. {'; '.join(named)}{rest}"


def per_image_csv(results: Iterable[SetResult]) -> str:
    """Every image of every result, a line each; skipped ones with their reason and no numbers."""
    names = [field.name for field in dataclasses.fields(Errors)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "set", "method", "image", *names, "pixels", "scale", "shift", "skipped"])
    for result in results:
        for one in result.scored:
            values = [repr(x) for x in dataclasses.astuple(one.errors)]
            line = [one.name, *values, one.sums.pixels, repr(one.scale), repr(one.shift), ""]
            writer.writerow([result.protocol, result.set, result.method, *line])
        for gone in result.skipped:
            empty = [""] * (len(names) + 3)
            writer.writerow([result.protocol, result.set, result.method, gone.name, *empty, gone.reason])
    return text.getvalue()

"""The one way to report a benchmark: Markdown on the terminal, its figures as JSON in the last line.

With --save the report is kept, a new one per benchmark, subject, machine and day:

    benchmarks/results/<benchmark>-<subject>-<processor>-<date>.md      command, card of the machine, tables
                                                               .json    every figure, on one line
                                                               .png     the picture, where there is one
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.program.terminal import printable, tell

RESULTS = Path(__file__).parent / "results"
_SIDES = {"l": "left", "r": "right"}


def today() -> str:
    return datetime.date.today().isoformat()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One run of a benchmark.

    benchmark: the name of its module. subject: what was measured, as far as it belongs in the files' names.
    title: of the Markdown. command: what was typed, without folders. date: ISO.
    card: the machine, subject -> words. facts: what else has to be known, in the same form.
    text: Markdown, the tables. figures: all of them, for JSON.
    on_gpu: whether the processor in the files' names is the card's GPU.
    draw: -> PNG, called when the report is kept; None: no picture.
    """

    benchmark: str
    title: str
    command: str
    card: Mapping[str, str]
    text: str
    figures: Mapping[str, Any]
    subject: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    on_gpu: bool = False
    draw: Callable[[], bytes] | None = None
    date: str = dataclasses.field(default_factory=today)

    @property
    def stem(self) -> str:
        """Of the files' names."""
        processor = self.card["GPU" if self.on_gpu else "CPU"]
        words = (self.benchmark, self.subject, processor)
        return "-".join([*(slug(word) for word in words if word), self.date])

    def to_markdown(self) -> str:
        """No line break at the end. Control characters are escaped: names come from strangers' files."""
        bullets = [f"- {subject}: {words}" for subject, words in {**self.card, **self.facts}.items()]
        heading = f"# {self.title}, {self.date}\n\n`{self.command}`"
        return printable("\n\n".join([heading, "\n".join(bullets), self.text]))

    def to_json(self) -> str:
        """On one line."""
        about = {"benchmark": self.benchmark, "date": self.date, "command": self.command}
        return json.dumps({**about, "card": dict(self.card), **self.figures})

    def save(self, folder: Path, *, stem: str | None = None) -> Path:
        """Write the files, each of them whole or not at all -> the one in Markdown. stem: None for `stem`."""
        stem = stem or self.stem
        text, files = self.to_markdown(), {".json": f"{self.to_json()}\n".encode()}
        if self.draw is not None:
            files[".png"] = self.draw()
            text += f"\n\n![{self.title}]({stem}.png)"
        files[".md"] = f"{text}\n".encode()
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in files.items():
            with replacing(folder / f"{stem}{suffix}") as file:
                file.write(content)
        return folder / f"{stem}.md"


def publish(report: Report, *, save: bool) -> None:
    """Print the report, JSON last; save: also keep it in benchmarks/results/."""
    tell(report.to_markdown())
    if save:
        tell(f"\nKept in {report.save(RESULTS)}")
    tell(report.to_json())


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, align: str) -> str:
    """Rows -> a table in GitHub's Markdown, cells as they are.

    align: "l" or "r" for each column, as in LaTeX. Raises ValueError where it is not as long as `headers`.
    """
    if len(align) != len(headers):
        raise ValueError(f"{len(headers)} columns, and {align!r} aligns {len(align)}.")
    # "pipe" is "github" with a row that aligns columns; numbers in cells have been formatted already.
    sides = [_SIDES[side] for side in align]
    return tabulate(list(rows), headers, tablefmt="pipe", disable_numparse=True, colalign=sides)


def slug(text: str) -> str:
    """Words as a part of a file's name; of a processor's name, what tells it from others."""
    words = re.sub(r"\((R|TM|C)\)|processor|cpu", " ", text, flags=re.IGNORECASE)
    return "-".join(re.findall(r"[a-z0-9]+", words.lower())) or "unknown"

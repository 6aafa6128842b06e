"""What a run made, what it found, and what it skipped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

SKIPPED = "skipped.json"
"""The report in a folder of results: what was skipped, and why. None where nothing was."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A photo without a result, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """made: results that this run made; there: results that it found."""

    made: int
    there: int
    skipped: list[Skipped]


def report(skipped: Sequence[Skipped]) -> bytes:
    """The content of SKIPPED: a JSON list of {"name", "reason"}, sorted."""
    rows = [dataclasses.asdict(one) for one in sorted(skipped, key=lambda one: (one.name, one.reason))]
    return json.dumps(rows, indent=2).encode()

"""A photo on its way between two processes: name and pixels, or name and the reason why there are none.

    row    {"name": bytes, "pixels": bytes, "height": int, "width": int, "reason": bytes}

Texts travel as bytes: the name of a file may be no text.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.image import Pixels

Row = dict[str, Any]
Rows = dict[str, npt.NDArray[Any]]
"""Columns of several rows."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """A photo that was read. pixels: uint8 H×W×3 RGB."""

    name: str
    pixels: Pixels


def to_row(one: Read | Skipped) -> Row:
    """One photo -> a row of a Ray dataset."""
    if isinstance(one, Skipped):
        name, pixels, (height, width), reason = one.name, b"", (0, 0), one.reason
    else:
        name, pixels, (height, width), reason = one.name, one.pixels.tobytes(), one.pixels.shape[:2], ""
    return {
        "name": os.fsencode(name),
        "pixels": pixels,
        "height": height,
        "width": width,
        "reason": os.fsencode(reason),
    }


def from_rows(rows: Rows) -> Iterator[Read | Skipped]:
    """What `to_row` made -> photos, whose pixels may not be written to."""
    columns = (rows[key] for key in ("name", "pixels", "height", "width", "reason"))
    for encoded, pixels, height, width, reason in zip(*columns, strict=True):
        name = os.fsdecode(encoded)
        if reason:
            yield Skipped(name=name, reason=os.fsdecode(reason))
        else:
            yield Read(name=name, pixels=np.frombuffer(pixels, np.uint8).reshape(height, width, 3))


def outcomes(rows: Rows, skipped: list[Skipped]) -> Rows:
    """Rows that an actor was given -> what it answers: name, and reason (empty where all is well)."""
    reasons = {os.fsencode(one.name): os.fsencode(one.reason) for one in skipped}
    found = [reasons.get(name, b"") for name in rows["name"]]
    return {"name": rows["name"], "reason": np.array(found, object)}


def outcome(row: Row) -> Skipped | None:
    """A row of `outcomes` -> None where all is well."""
    if not row["reason"]:
        return None
    return Skipped(name=os.fsdecode(row["name"]), reason=os.fsdecode(row["reason"]))

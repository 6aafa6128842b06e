"""An engine directory on one engine -> does it compute what the checkpoint does, as a check and a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_proof.process import Check
from benchmarks.report import table
from fiffdepth_rt.engine_dir.golden import ParityRow
from fiffdepth_rt.errors import ParityError
from fiffdepth_rt.verify import check_parity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """One comparison with the golden values. rows: none where it is beyond a gate; the check says which."""

    check: Check
    rows: tuple[ParityRow, ...] = ()


def check_engine(directory: Path, *, backend: str, device: str | None, precision: str) -> Parity:
    """Raises what opening the engine raises."""
    name = f"{backend} {precision}: every stage and the journey agree with the golden values"
    try:
        rows = check_parity(directory, backend=backend, device=device, precision=precision)
    except ParityError as error:
        return Parity(check=Check(name=name, passed=False, words=str(error)))
    return Parity(check=Check(name=name, passed=True, words=f"{len(rows)} comparisons"), rows=rows)


def parity_table(rows: Sequence[ParityRow]) -> str:
    """Rows -> Markdown; errors are before the clip."""
    cells = [
        [
            f"{row.backend} {row.graph_set}",
            row.stage,
            row.image,
            row.grid,
            f"{row.max_abs:.1e}",
            f"{row.p999 / row.reference_std:.1e}",
            f"{row.mean_abs / row.reference_std:.1e}",
            "yes" if row.gated else "no",
        ]
        for row in rows
    ]
    headers = ["", "stage", "image", "grid", "max", "p99.9 / deviation", "mean / deviation", "gated"]
    return table(headers, cells, align="llllrrrl") if cells else ""

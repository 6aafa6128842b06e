"""The latency table as a picture: a bar per row, the ceiling marked in it."""

from __future__ import annotations

import io
from typing import Any

from benchmarks.rows.row import Row
from benchmarks.rows.table import Table

COLOURS = {"ours": "#1b6ca8", "torch": "#8a8d91", "peer": "#c9812e"}
LABELS = {"ours": "ours", "torch": "the paper's own way", "peer": "peers"}


def bars(table: Table) -> bytes:
    """Table -> PNG, of `draw_bars` alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, bars_inches(table)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw_bars(figure.add_subplot(), table)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def bars_inches(table: Table) -> float:
    """The height that `draw_bars` wants."""
    return 1.6 + 0.3 * sum(row.end_to_end is not None for row in table.rows)


def draw_bars(axes: Any, table: Table) -> None:
    """Table -> p50 by row, shortest first, on a logarithmic axis; a mark at the ceiling's time."""
    from matplotlib.patches import Patch

    rows = sorted((row for row in table.rows if row.end_to_end is not None), key=_p50_ms)
    places = range(len(rows))
    axes.barh(places, [_p50_ms(row) for row in rows], color=[COLOURS[row.kind] for row in rows], height=0.72)
    marked = [(place, floor) for place in places if (floor := table.floor_ms(rows[place])) is not None]
    if marked:
        y, x = zip(*marked, strict=True)
        axes.scatter(x, y, marker="|", s=130, linewidths=2, color="black", zorder=3)
    for place, row in zip(places, rows, strict=True):
        label = f" {_seconds(_p50_ms(row))}{'*' if row.modelled else ''}"
        axes.text(_p50_ms(row), place, label, va="center", fontsize=8)
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    if rows:
        least = min([_p50_ms(rows[0]), *(floor for _, floor in marked)])
        axes.set_xlim(least / 2, _p50_ms(rows[-1]) * 10)
    axes.set_xlabel("median time of one depth map, ms (logarithmic)")
    machine = table.card["CPU"] if table.device == "cpu" else table.card["GPU"]
    axes.set_title(
        f"{table.size} px on {machine}, threads: {table.card['threads']}, {table.date}", fontsize=9
    )
    kinds = [kind for kind in COLOURS if any(row.kind == kind for row in rows)]
    handles = [Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in kinds]
    mark = axes.scatter(
        [], [], marker="|", s=130, linewidths=2, color="black", label="its arithmetic at the ceiling"
    )
    axes.legend(handles=[*handles, mark], fontsize=8, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    if any(row.modelled for row in rows):
        axes.annotate(
            "* modelled: steps measured alone, multiplied out",
            xy=(0, 0), xycoords="figure fraction", xytext=(6, 4), textcoords="offset points", fontsize=7,
        )  # fmt: skip


def _p50_ms(row: Row) -> float:
    assert row.end_to_end is not None
    return row.end_to_end.p50_ms


def _seconds(ms: float) -> str:
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

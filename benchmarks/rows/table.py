"""The rows of one run of benchmarks/latency.py -> their tables in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from benchmarks.report import table
from benchmarks.rows.row import Row

REFERENCE = "diffusers in torch, fp32, eager"
_TIMES = (
    "",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "jitter ms",
    "runs",
    "× diffusers fp32",
    "frames/s, 2 in flight",
    "GFLOP",
    "% of ceiling",
)
_DETAILS = (
    "",
    "stages ms",
    "host overhead ms",
    "1080×1920 in and out",
    "load s",
    "first frame ms",
    "peak host MiB",
    "peak device MiB",
    "deviation",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One run of benchmarks/latency.py. growth: rows of other sizes. card: the machine in words.

    import_ms: `import fiffdepth_rt` beyond NumPy and OpenCV.
    """

    rows: tuple[Row, ...]
    growth: tuple[Row, ...]
    ceiling: Row
    card: Mapping[str, str]
    device: str
    warm_up: int
    import_ms: float
    date: str

    @property
    def size(self) -> str:
        """Of the photo, in px: "512×512"; of several, where there are several."""
        return " ".join(f"{height}×{width}" for height, width in sorted({row.size_hw for row in self.rows}))

    @property
    def facts(self) -> dict[str, str]:
        """What has to be known beside the machine's card."""
        return {
            "ceiling": self._ceiling_words(),
            "`import fiffdepth_rt`": f"{self.import_ms:.0f} ms beyond NumPy and OpenCV",
            "every run": f"uint8 array in host memory to float32 array in host memory, after {self.warm_up} "
            "runs to warm up",
        }

    def ceiling_percent(self, row: Row) -> float | None:
        """Share of the measured matrix-product speed in the row's own precision, in %."""
        flops = (self.ceiling.ceiling or {}).get("flops", {}).get(row.computes_in)
        if row.end_to_end is None or row.gflop is None or flops is None:
            return None
        return 100 * row.gflop * 1e9 / (row.end_to_end.p50_ms / 1e3) / flops

    def floor_ms(self, row: Row) -> float | None:
        """What the row's arithmetic would take at the ceiling."""
        percent = self.ceiling_percent(row)
        return None if percent is None or row.end_to_end is None else row.end_to_end.p50_ms * percent / 100

    def reference(self) -> Row | None:
        """The paper's own way in fp32, eager: what the other rows are held against."""
        return next((row for row in self.rows if row.name == REFERENCE and not row.error), None)

    def speedup(self, row: Row) -> float | None:
        """How many times as fast as `reference`."""
        reference = self.reference()
        if reference is None or reference.end_to_end is None or row.end_to_end is None:
            return None
        return reference.end_to_end.p50_ms / row.end_to_end.p50_ms

    def ratios(self) -> list[str]:
        """A line per row of ours: how many times as fast as the reference, and as the best bf16 in torch."""
        bf16 = [r for r in self.rows if r.kind == "torch" and r.computes_in == "bf16" and r.end_to_end]
        best = min(bf16, key=lambda row: row.end_to_end.p50_ms if row.end_to_end else 0.0, default=None)
        lines = []
        for row in self.rows:
            if row.kind != "ours" or row.end_to_end is None or (speedup := self.speedup(row)) is None:
                continue
            line = f"- {row.name}: {speedup:.2f} × {REFERENCE}"
            if best is not None and best.end_to_end is not None:
                line += f"; {best.end_to_end.p50_ms / row.end_to_end.p50_ms:.2f} × {best.name}"
            lines.append(line)
        return lines

    def to_markdown(self) -> str:
        """Tables, growth, what failed; no line break at the end."""
        rows = [row for row in self.rows if not row.error]
        blocks = [
            table(_TIMES, map(self._times, rows), align="lrrrrrrrrr"),
            "",
            table(_DETAILS, map(_details, rows), align="llrrrrrrr"),
        ]
        if ratios := self.ratios():
            blocks += ["", "How many times as fast:", "", *ratios]
        notes = [f"- {r.name}: {'; '.join(n for n in (r.note, r.modelled) if n)}" for r in self.rows]
        notes = [note for note in notes if not note.endswith(": ")]
        if any(row.modelled for row in self.rows):
            notes.append("- *: modelled, each step measured alone and multiplied out")
        if notes:
            blocks += ["", *notes]
        if self.growth:
            blocks += ["", "## Growth", "", _growth(self.growth)]
        failed = [row for row in (*self.rows, *self.growth) if row.error]
        if failed:
            at = [f"- {r.name}, {r.size_hw[0]}×{r.size_hw[1]}: {r.error}" for r in failed]
            blocks += ["", "## What gave no figures", "", *at]
        return "\n".join(blocks)

    def _ceiling_words(self) -> str:
        if self.ceiling.ceiling is None:
            return f"not measured: {self.ceiling.error}"
        flops = self.ceiling.ceiling["flops"]
        products = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in flops.items())
        return (
            f"{products} GFLOP/s in a large matrix product{self._emulated_words()}, "
            f"{self.ceiling.ceiling['copy'] / 1e9:.1f} GB/s read and written in a large copy (torch)"
        )

    def _emulated_words(self) -> str:
        emulated = (self.ceiling.ceiling or {})["emulated"]
        return f" ({' and '.join(emulated)} only emulated by this CPU)" if emulated else ""

    def _times(self, row: Row) -> list[str]:
        assert row.end_to_end is not None
        t, star = row.end_to_end, "*" if row.modelled else ""
        return [
            row.name + star,
            *(_figure(ms) for ms in (t.p50_ms, t.p90_ms, t.p99_ms, row.jitter_ms)),
            str(row.runs),
            _figure(self.speedup(row)),
            _figure(row.fps),
            _figure(row.gflop),
            _figure(self.ceiling_percent(row)),
        ]


def _details(row: Row) -> list[str]:
    stages = ", ".join(f"{name} {_figure(ms)}" for name, ms in row.stages_ms.items())
    figures = (
        row.host_overhead_ms,
        row.host_overhead_1080p_ms,
        None if row.load_ms is None else row.load_ms / 1e3,
        row.first_frame_ms,
        row.peak_host_mib,
        row.peak_device_mib,
    )
    deviation = "" if row.deviation is None else f"{row.deviation:.1e}"
    return [row.name, stages, *map(_figure, figures), deviation]


def _growth(rows: Sequence[Row]) -> str:
    """Time and memory by size, a line per name."""
    sides = sorted({row.size_hw[0] for row in rows})
    by_name: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.size_hw[0]] = row
    lines = [[name, *(_grown(found.get(side)) for side in sides)] for name, found in by_name.items()]
    headers = ["p50 ms / peak host MiB", *(f"{side}²" for side in sides)]
    return table(headers, lines, align="l" + "r" * len(sides))


def _grown(row: Row | None) -> str:
    if row is None:
        return ""
    if row.end_to_end is None:
        return "failed"
    return f"{_figure(row.end_to_end.p50_ms)} / {_figure(row.peak_host_mib)}"


def _figure(value: float | None) -> str:
    """Three significant digits, or all of a larger number's whole part; nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"

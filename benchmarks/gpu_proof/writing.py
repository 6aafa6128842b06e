"""What the steps found -> the report, and its picture: a depth map, and the latency of every row."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import latency, machine
from benchmarks.gpu_proof.nano import SAMPLE_DEPTH
from benchmarks.gpu_proof.process import Check, Outcome, Task
from benchmarks.gpu_proof.speed import Measured
from benchmarks.report import Report, table, today
from benchmarks.rows import picture
from benchmarks.rows.row import Row
from benchmarks.rows.table import Table
from fiffdepth_rt.machine import default_threads

REHEARSAL = "REHEARSAL"
_WARNING = f"**{REHEARSAL}**: small models on a CPU and a stand-in of CUDA. No figure here is a GPU's."
_MARKS = {True: "yes", False: "**NO**", None: "not tried"}


def report(outcomes: Sequence[Outcome], task: Task, *, command: str) -> Report:
    """Outcomes of steps, in their order -> Report."""
    latency_table = table_of(outcomes, task)
    sections = [_summary(outcomes), *(_section(one) for one in outcomes)]
    if latency_table is not None:
        figures = [f"- {subject}: {words}" for subject, words in latency_table.facts.items()]
        sections.append("\n\n".join(["## All rows", "\n".join(figures), latency_table.to_markdown()]))
    if task.rehearse:
        sections = [_as_rehearsal(section) for section in sections]
    return Report(
        benchmark=f"gpu-proof-{REHEARSAL.lower()}" if task.rehearse else "gpu-proof",
        title=f"{REHEARSAL} of the GPU proof" if task.rehearse else "GPU proof",
        command=command,
        card=machine.card(task.device, default_threads()),
        text="\n\n".join(sections),
        figures={"outcomes": msgspec.to_builtins(outcomes)},
        on_gpu=not task.rehearse,
        draw=_drawing(task, latency_table),
    )


def table_of(outcomes: Sequence[Outcome], task: Task) -> Table | None:
    """The rows of all steps as one latency table; None where there are none."""
    found = [outcome.findings for outcome in outcomes]
    rows = tuple(row for findings in found for row in findings.rows)
    growth = tuple(row for findings in found for row in findings.growth)
    if not rows and not growth:
        return None
    ceilings = [findings.ceiling for findings in found if findings.ceiling is not None]
    nothing = Row(
        name="ceiling", kind="ceiling", size_hw=(0, 0), error="the step that measures it had no end"
    )
    return Table(
        rows=rows,
        growth=growth,
        ceiling=ceilings[0] if ceilings else nothing,
        card=machine.card(task.device, default_threads()),
        device=task.device,
        warm_up=Measured.of(task).warm_up,
        import_ms=latency.import_ms(),
        date=today(),
    )


def _summary(outcomes: Sequence[Outcome]) -> str:
    cells = [
        [one.name, _state(one), f"{one.seconds:.0f}", f"{one.budget_s:.0f}", _cell(one.why)]
        for one in outcomes
    ]
    return "## Steps\n\n" + table(["step", "", "s", "of at most", "why"], cells, align="llrrl")


def _section(outcome: Outcome) -> str:
    blocks = [f"## {outcome.title}: {_state(outcome)}"]
    if outcome.findings.checks:
        cells = [_check_cells(check) for check in outcome.findings.checks]
        blocks.append(table(["", "", ""], cells, align="lll"))
    if outcome.findings.text:
        blocks.append(outcome.findings.text)
    if outcome.state == "failed":
        blocks.append(f"Why: {outcome.why}")
    if outcome.last_words:
        blocks.append(f"What it printed last:\n\n```text\n{outcome.last_words}\n```")
    return "\n\n".join(blocks)


def _check_cells(check: Check) -> list[str]:
    return [_cell(check.name), _MARKS[check.passed], _cell(check.words)]


def _state(outcome: Outcome) -> str:
    return "**FAILED**" if outcome.state == "failed" else outcome.state


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def _as_rehearsal(section: str) -> str:
    heading, _, rest = section.partition("\n")
    return f"{heading.replace('## ', f'## {REHEARSAL}: ', 1)}\n\n{_WARNING}\n{rest}"


# --- the picture ---


def _drawing(task: Task, latency_table: Table | None) -> Any:
    """-> PNG; None where there is nothing to draw, or no matplotlib."""
    sample = task.folder / SAMPLE_DEPTH
    if importlib.util.find_spec("matplotlib") is None or not (sample.exists() or latency_table):
        return None
    png = draw(_read_sample(sample), latency_table, rehearse=task.rehearse)
    return lambda: png  # drawn now: the shared folder may be gone when the report is kept


def _read_sample(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        return {"photo": file["photo"], "depth": file["depth"], "by": str(file["by"])}


def draw(sample: Mapping[str, Any] | None, latency_table: Table | None, *, rehearse: bool) -> bytes:
    """sample: photo (uint8 H×W×3), depth (float32 H×W), by (words). -> PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    above = 0.0 if sample is None else 3.4
    below = 0.0 if latency_table is None else picture.bars_inches(latency_table)
    figure = Figure(figsize=(10, above + below), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    heights = [inches for inches in (above, below) if inches]
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if sample is not None:
        left, right = parts.pop(0).subplots(1, 2)
        left.imshow(sample["photo"])
        right.imshow(sample["depth"], cmap="inferno", vmin=0, vmax=1)
        left.set_title("photo", fontsize=9)
        right.set_title(sample["by"], fontsize=9)
        for axes in (left, right):
            axes.set_axis_off()
    if latency_table is not None:
        picture.draw_bars(parts.pop(0).subplots(), latency_table)
    if rehearse:
        figure.text(
            0.5, 0.5, REHEARSAL, fontsize=70, color="red", alpha=0.35, rotation=20, ha="center", va="center"
        )
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()

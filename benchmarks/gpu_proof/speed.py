"""Which rows of the latency table are measured here, best first; benchmarks/latency.py measures them.

One file of records serves all steps and later runs in the same folder: no row is measured twice.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks import latency
from benchmarks.gpu_proof.full_size import checkpoint, photo_px
from benchmarks.gpu_proof.process import Findings, Task
from benchmarks.latency import LatencySettings, Records
from benchmarks.rows.row import Row, Spec
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS
from fiffdepth_rt.machine import default_threads, installed

ROW_LIMIT_S = 90.0  # a compilation included; more where there is time: a quarter of what the step has left
NEEDS = {
    "ceiling": ("torch",),
    "torch": ("torch", "diffusers"),
    "peer": ("torch", "transformers", "diffusers"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured. dtypes: of rows in torch, best first. The others: as in LatencySettings."""

    dtypes: tuple[str, ...]
    growth: tuple[int, ...]
    runs: int
    warm_up: int
    budget_s: float
    peer_width: float

    @classmethod
    def of(cls, task: Task) -> Measured:
        if task.rehearse:
            width = latency.QUICK_WIDTH
            return cls(dtypes=("bf16",), growth=(64, 128), runs=3, warm_up=1, budget_s=3.0, peer_width=width)
        return cls(
            dtypes=("fp16", "bf16"), growth=latency.GROWTH, runs=50, warm_up=10, budget_s=6.0, peer_width=1.0
        )


def settings_for(task: Task, directories: Sequence[Path], *, torch: bool, growth: bool) -> LatencySettings:
    """torch: also rows in torch and the peer to beat. growth: also other sizes."""
    what = Measured.of(task)
    weights = checkpoint(task)
    side = photo_px(task)
    return LatencySettings(
        directories=tuple(directories),
        photo_hw=(side, side),
        device=task.device,
        threads=default_threads(),
        runs=what.runs,
        warm_up=what.warm_up,
        checkpoint=weights if torch and weights.exists() else None,
        prompt_embedding=None,
        peers=(latency.OPPONENT,) if torch else (),
        width=what.peer_width,
        growth=what.growth if growth else (),
        budget_s=what.budget_s,
        limit_s=ROW_LIMIT_S,
    )


def work_of(task: Task, settings: LatencySettings) -> list[tuple[str, Spec]]:
    """The rows that are worth their time, best first."""
    dtypes = Measured.of(task).dtypes
    wanted = [(part, spec) for part, spec in latency.specs(settings) if _is_wanted(spec, dtypes)]
    return sorted(wanted, key=lambda one: _rank(one[0], one[1], dtypes))


def _is_wanted(spec: Spec, dtypes: Sequence[str]) -> bool:
    options = spec.options
    if spec.kind == "ours":
        on_gpu = (*(flavour.name for flavour in FLAVOURS), *_onnxruntime_on_gpu())
        return spec.device == "cpu" or options["backend"] in on_gpu
    if spec.kind == "torch":
        return options["dtype"] in dtypes and options["channels_last"]
    if spec.kind == "peer":
        return "engine" in options or (options["dtype"] == dtypes[0] and options.get("compiled", False))
    return True


def _onnxruntime_on_gpu() -> tuple[str, ...]:
    return ("onnxruntime",) if installed(("onnxruntime-gpu",)) else ()


def _rank(part: str, spec: Spec, dtypes: Sequence[str]) -> tuple[int, ...]:
    options = spec.options
    if spec.kind in ("ceiling", "ours"):
        rank: tuple[int, ...] = (0,) if spec.kind == "ceiling" else (1,)
    elif spec.kind == "peer":
        rank = (4, 0) if "engine" in options else (2, 0)
    else:
        compiled = bool(options["compiled"])
        rank = (5 if compiled else 3, dtypes.index(options["dtype"]))
    return (part == "growth", *rank)


def measure(task: Task, work: Sequence[tuple[str, Spec]]) -> Iterator[Findings]:
    """The Findings grow by a row at a time. What a missing library leaves out is said."""
    findings = Findings()
    reasons = {spec.name: why_not(spec) for _, spec in work}
    possible = [(part, spec) for part, spec in work if not reasons[spec.name]]
    left_out = [f"- {name}: {why}" for name, why in reasons.items() if why]
    if left_out:
        findings = msgspec.structs.replace(findings, text="Left out:\n\n" + "\n".join(left_out))
    records = Records(task.folder / "rows.jsonl")
    end = time.monotonic() + task.left_s - 3  # the last row's figures are to be kept too
    limit_s = max(ROW_LIMIT_S, round(task.left_s / 4))
    for part, row in latency.measured(possible, records, limit_s=limit_s, end=end):
        if part == "ceiling":
            findings = msgspec.structs.replace(findings, ceiling=row)
        else:
            findings = msgspec.structs.replace(findings, **{part: (*getattr(findings, part), row)})
        yield findings
    yield with_check(findings)


def why_not(spec: Spec) -> str:
    """Why a row cannot be measured here, as far as that can be told beforehand; "" where it can."""
    needs = (*NEEDS.get(spec.kind, ()), *(("polygraphy",) if "engine" in spec.options else ()))
    absent = [name for name in needs if importlib.util.find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    for flavour in FLAVOURS:
        if spec.options.get("engine") == flavour.name and not (usability := here.usable(flavour)).usable:
            return f"{usability.why}. Run: {usability.fix}"
    return ""


def with_check(findings: Findings) -> Findings:
    """Whether a row of ours has figures: without one, nothing was proved."""
    of_ours = [row for row in (*findings.rows, *findings.growth) if row.kind == "ours"]
    timed = [row for row in of_ours if row.error == ""]
    if timed:
        return findings.and_check("ours was timed", True, f"{len(timed)} of {len(of_ours)} rows")
    words = _words_of(of_ours) or "no engine of ours runs here"
    return findings.and_check("ours was timed", False if of_ours else None, words)


def _words_of(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.name}: {row.error}" for row in rows)

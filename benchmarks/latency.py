"""START HERE for speed: one command, one table, everything measured in one run on one device.

    python -m benchmarks.latency        # the bundled model, on every engine here
    python -m benchmarks.latency engines/full engines/light --checkpoint CKPT --peers --growth --save

Rows: ours (rows/ours.py), the paper's own way in torch (rows/in_torch.py), peers (rows/peers.py). Each is
measured in a process of its own (rows/worker.py), beside what the machine reaches at best (rows/ceiling.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a file: see benchmarks/__init__.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import contextlib
import dataclasses
import json
import math
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click
from tqdm import tqdm

from benchmarks import commands, machine
from benchmarks.report import Report, publish, today
from benchmarks.rows import ours
from benchmarks.rows.row import Row, Spec
from benchmarks.rows.table import Table
from benchmarks.rows.worker import ROOT, measure_apart
from fiffdepth_rt.engine_dir import manifest as engine_dir
from fiffdepth_rt.engine_dir.manifest import read_manifest
from fiffdepth_rt.machine import default_threads

# By name: importing them would bring torch along, which a table of ours alone does not need in this process.
CEILING, IN_TORCH, PEERS, PEER_IN_ENGINE = (
    f"benchmarks.rows.{name}" for name in ("ceiling", "in_torch", "peers", "peer_in_engine")
)
GROWTH = (256, 512, 768, 1024)
TORCH_VARIANTS = (  # dtype, channels-last, compiled
    ("fp32", False, False),
    ("fp32", True, False),
    ("fp32", True, True),
    ("bf16", False, False),
    ("bf16", True, False),
    ("bf16", True, True),
    ("fp16", False, False),
    ("fp16", True, False),
    ("fp16", True, True),
)
QUICK_WIDTH = 0.1
PEER_NAMES = ("Depth Anything V2-L", "Depth Pro", "Marigold-LCM", "Marigold", "GeoWizard", "DepthFM")
PEER_DTYPES = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
OPPONENT = "Depth Anything V2-L"  # the peer to beat is also compiled, and run by the engines that run ours
OPPONENT_ENGINES = {
    "cpu": (("onnxruntime", "fp32"),),
    "cuda": (("tensorrt-rtx", "fp16"), ("tensorrt", "fp16")),
}
DEPLOYED = {
    "cpu": "bf16",
    "cuda": "fp16",
}  # what growth is measured in: full size in fp32 takes minutes a frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """One run of the command. directories: of engines; checkpoint: None for no rows in torch.

    photo_hw: px; None: a square of the first model's own size. width: of the peers, 1 for their true size.
    budget_s: of a Spec. limit_s: of a row's process.
    """

    directories: tuple[Path, ...]
    photo_hw: tuple[int, int] | None
    device: str
    threads: int
    runs: int
    warm_up: int
    checkpoint: Path | None
    prompt_embedding: Path | None
    peers: tuple[str, ...]
    width: float
    growth: tuple[int, ...]
    budget_s: float
    limit_s: float


def specs(settings: LatencySettings) -> Iterator[tuple[str, Spec]]:
    """Settings -> (part of the table, what to measure), in the order of the table."""
    sizes = [read_manifest(path).size for path in settings.directories]
    size_hw = settings.photo_hw or (sizes[0].default,) * 2
    family = settings.device.partition(":")[0]
    common: dict[str, Any] = {
        key: getattr(settings, key) for key in ("device", "threads", "runs", "warm_up", "budget_s")
    }
    yield "ceiling", Spec(module=CEILING, kind="ceiling", name="ceiling", size_hw=size_hw, **common)
    of_ours = list(_ours(settings))  # hashes every file of the directories
    of_torch = list(_torch(settings))
    for name, options in of_ours:
        yield "rows", _of_ours(name, options, size_hw=size_hw, **common)
    for name, options in of_torch:
        yield "rows", _of_torch(name, options, size_hw=size_hw, **common)
    for module, name, options in _peers(settings, family):
        yield "rows", Spec(module=module, kind="peer", name=name, size_hw=size_hw, options=options, **common)
    for side in settings.growth:
        fewer = common | {"size_hw": (side, side), "runs": min(settings.runs, 3), "warm_up": 1}
        for name, options in _deployed(of_ours, DEPLOYED[family]):
            if side <= read_manifest(options["directory"]).size.max:
                yield "growth", _of_ours(name, options | {"brief": True}, **fewer)
        for name, options in of_torch:
            if options["dtype"] == DEPLOYED[family] and options["channels_last"] and not options["compiled"]:
                yield "growth", _of_torch(name, options, **fewer)


def _of_ours(name: str, options: dict[str, Any], **common: Any) -> Spec:
    return Spec(module=ours.__name__, kind="ours", name=name, options=options, **common)


def _of_torch(name: str, options: dict[str, Any], **common: Any) -> Spec:
    return Spec(module=IN_TORCH, kind="torch", name=name, options=options, **common)


def _deployed(rows: list[tuple[str, dict[str, Any]]], dtype: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each directory the rows in `dtype`, or all where it has none."""
    for directory in dict.fromkeys(options["directory"] for _, options in rows):
        its = [(name, options) for name, options in rows if options["directory"] == directory]
        yield from [one for one in its if one[1]["precision"].startswith(dtype)] or its


def _ours(settings: LatencySettings) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [read_manifest(path).name for path in settings.directories]
    for directory, name in zip(settings.directories, names, strict=True):
        shown = name if names.count(name) == 1 else f"{name} ({directory.name})"
        for options in ours.options_of(directory, settings.device):
            yield f"ours: {shown}, {options['backend']} {options['precision']}", options


def _torch(settings: LatencySettings) -> Iterator[tuple[str, dict[str, Any]]]:
    if settings.checkpoint is None:
        return
    for dtype, channels_last, compiled in TORCH_VARIANTS:
        words = [
            "diffusers in torch",
            dtype,
            *(["channels-last"] if channels_last else []),
            "compiled" if compiled else "eager",
        ]
        yield (
            ", ".join(words),
            {
                "checkpoint": str(settings.checkpoint.resolve()),
                "prompt_embedding": settings.prompt_embedding and str(settings.prompt_embedding.resolve()),
                "dtype": dtype,
                "channels_last": channels_last,
                "compiled": compiled,
                "directory": str(settings.directories[0].resolve()),
            },
        )


def _peers(settings: LatencySettings, family: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(module, name, options) of each row."""
    for peer in settings.peers:
        options: dict[str, Any] = {"peer": peer, "width": settings.width, "budget_s": settings.budget_s}
        for dtype in PEER_DTYPES[family]:
            yield PEERS, f"{peer}, {dtype}", options | {"dtype": dtype}
            if peer == OPPONENT:
                yield PEERS, f"{peer}, {dtype}, compiled", options | {"dtype": dtype, "compiled": True}
        for engine, dtype in OPPONENT_ENGINES[family] if peer == OPPONENT else ():
            yield PEER_IN_ENGINE, f"{peer}, {engine} {dtype}", options | {"dtype": dtype, "engine": engine}


_IMPORT = """
import time, numpy, cv2
start = time.perf_counter()
import fiffdepth_rt
fiffdepth_rt.Depth  # loaded when asked for
print((time.perf_counter() - start) * 1e3)
"""
_IMPORT_RUNS = 5


def import_ms() -> float:
    """Median over fresh interpreters: importing Depth once NumPy and OpenCV are there."""
    command = [sys.executable, "-c", _IMPORT]
    return statistics.median(
        float(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for _ in range(_IMPORT_RUNS)
    )


class Records:
    """Finished rows by what they measured, one JSON line each. path: None keeps them in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        if path is not None and path.exists():
            text = path.read_text()
            for line in text.splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut off
                    record = json.loads(line)
                    self._rows[record["key"]] = Row.from_json(record["row"])
            if text and not text.endswith("\n"):
                path.write_text(text + "\n")

    def get(self, spec: Spec) -> Row | None:
        """A row that was measured; one that failed is tried again."""
        row = self._rows.get(spec.key)
        return None if row is None or row.error else row

    def add(self, spec: Spec, row: Row) -> None:
        self._rows[spec.key] = row
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps({"key": spec.key, "row": dataclasses.asdict(row)}) + "\n")


def measured(
    work: Sequence[tuple[str, Spec]], records: Records, *, limit_s: float, end: float = math.inf
) -> Iterator[tuple[str, Row]]:
    """(part, spec) -> (part, row), one after the other; what `records` holds is not measured again.

    end: of `time.monotonic`, after which no row is measured: it says so.
    """
    with tqdm(work, unit="row", disable=not sys.stderr.isatty()) as progress:
        for part, spec in progress:
            progress.set_postfix_str(spec.name)
            row = records.get(spec)
            if row is None and time.monotonic() >= end:
                late = "not measured: there was no time left"
                row = Row(name=spec.name, kind=spec.kind, size_hw=spec.size_hw, error=late)
            elif row is None:
                row = measure_apart(spec, limit_s=min(limit_s, round(end - time.monotonic(), 1)))
                records.add(spec, row)
            yield part, row


def run(settings: LatencySettings, records: Records) -> Table:
    """Measure what `records` does not hold yet -> Table."""
    parts: dict[str, list[Row]] = {"ceiling": [], "rows": [], "growth": []}
    for part, row in measured(list(specs(settings)), records, limit_s=settings.limit_s):
        parts[part].append(row)
    return Table(
        rows=tuple(parts["rows"]),
        growth=tuple(parts["growth"]),
        ceiling=parts["ceiling"][0],
        card=machine.card(settings.device, settings.threads),
        device=settings.device,
        warm_up=settings.warm_up,
        import_ms=import_ms(),
        date=today(),
    )


def report(table: Table, *, model: str, command: str) -> Report:
    """Table -> what is printed and kept of it. model: the first directory's."""
    from benchmarks.rows import picture

    figures = dataclasses.asdict(table)
    return Report(
        benchmark="latency",
        subject=model,
        title=f"Latency on {table.device}, photo of {table.size} px",
        command=command,
        card=figures.pop("card"),
        facts=table.facts,
        text=table.to_markdown(),
        date=figures.pop("date"),
        figures=figures,
        on_gpu=table.device != "cpu",
        draw=lambda: picture.bars(table),
    )


_COUNT, _PATH = commands.COUNT, commands.EXISTING


# fmt: off
@click.command(cls=commands.Benchmark)
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=commands.FOLDER)
@click.option("--photo", "photo_hw", metavar="HxW", callback=commands.parse_hw,
              help="Height x width of the photo, in px. By default a square of the first model's size.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1, for every row.")
@click.option("--threads", type=_COUNT, help="For every row on the CPU; by default the physical cores.")
@click.option("--runs", metavar="N", type=_COUNT, default=20, show_default=True, help="Timed runs of a row.")
@click.option("--warm-up", metavar="N", type=_COUNT, default=3, show_default=True, help="Runs before those.")
@click.option("--checkpoint", type=_PATH, help="Also diffusers' own modules in torch, with these weights.")
@click.option("--prompt-embedding", type=_PATH, help="For a checkpoint that holds none.")
@click.option("--peers", is_flag=True, help="Also the methods that others ship, with random weights.")
@click.option("--growth", is_flag=True, help="Also time and memory from 256² to 1024² px.")
@click.option("--quick", is_flag=True, help="Peers of a toy width: tries the machinery, no figure to quote.")
@click.option("--budget", metavar="S", default=120.0, show_default=True,
              help="Seconds for a row once it is loaded. A slow row gets fewer runs, one at least, and "
                   "fewer figures; a peer of many steps whose one depth map takes longer is modelled.")
@click.option("--limit", metavar="S", default=3600.0, show_default=True, help="For one row.")
@click.option("--records", type=commands.NEW,
              help="JSON lines of finished rows: kept there, and not measured again.")
@commands.save
def main(
    directories: tuple[Path, ...],
    photo_hw: tuple[int, int] | None,
    device: str,
    threads: int | None,
    runs: int,
    warm_up: int,
    checkpoint: Path | None,
    prompt_embedding: Path | None,
    peers: bool,
    growth: bool,
    quick: bool,
    budget: float,
    limit: float,
    records: Path | None,
    save: bool,
) -> None:
    """Measure ours beside the paper's own way and beside peers: one table, one run, one device.

    DIR are engine directories; by default the bundled model. Every backend and precision in them is a row.
    The last line is JSON.

    \b
    Examples:
      python -m benchmarks.latency engines/fiffdepth --photo 128x128 --save

    The whole proof takes several directories (full and light VAE) and adds --checkpoint CKPT --peers
    --growth --records FILE. A killed run goes on with the same command.
    """
    settings = LatencySettings(
        directories=directories or (engine_dir.BUNDLED,),
        photo_hw=photo_hw,
        device=device,
        threads=threads or default_threads(),
        runs=runs,
        warm_up=warm_up,
        checkpoint=checkpoint,
        prompt_embedding=prompt_embedding,
        peers=PEER_NAMES if peers else (),
        width=QUICK_WIDTH if quick else 1.0,
        growth=GROWTH if growth else (),
        budget_s=budget,
        limit_s=limit,
    )
    table = run(settings, Records(records))
    model = read_manifest(settings.directories[0]).name
    publish(report(table, model=model, command=commands.typed("latency")), save=save)


if __name__ == "__main__":
    main()

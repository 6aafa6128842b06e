"""`fiffdepth verify`: does an engine on this machine compute what the checkpoint does?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.options import EngineChoice
from fiffdepth_rt.program.terminal import shown, tell


@click.command("verify")
@options.directory
@options.engine_choice
@click.option("--memory", is_flag=True, help="Measure the memory that the engine takes, too (Linux).")
@options.verbose
def command(directory: Path | None, choice: EngineChoice, *, memory: bool) -> None:
    """Hold an engine on this machine against the golden values of the export.

    DIR is an engine directory; its manifest then says what was found. By default the bundled model, whose
    manifest stays as it is. Where an engine is beyond the limits, nothing is recorded, and the exit status
    is 1. Plans that were built where no GPU was are run here, and then count as checked. With --memory, a
    process of its own opens the engine and computes on two grids; what it took is what `fiffdepth info`
    shows, and what must be free before the directory is opened.

    \b
    Examples:
      fiffdepth verify
      fiffdepth verify engines/fiffdepth
      fiffdepth verify engines/fiffdepth --backend onnxruntime --precision fp32
      fiffdepth verify engines/fiffdepth --memory
    """
    from fiffdepth_rt.engine_dir.manifest import BUNDLED, MANIFEST_NAME
    from fiffdepth_rt.memory import measure_memory, record_memory
    from fiffdepth_rt.program.info import memory_text
    from fiffdepth_rt.verify import check_parity, record_parity

    check, measure = (check_parity, measure_memory) if directory is None else (record_parity, record_memory)
    rows = check(directory or BUNDLED, **dataclasses.asdict(choice))
    for row in rows:
        tell(
            f"{row.graph_set} {row.backend} {row.stage:7s} {row.image:12s} {row.grid:9s} "
            f"max {row.max_abs:.1e}  mean {row.mean_abs:.1e}  of std {row.reference_std:.2g}  "
            f"{'ok' if row.gated else 'not gated'}"
        )
    if memory:
        records = measure(directory or BUNDLED, **dataclasses.asdict(choice))
        for record in records:
            tell(f"Memory: {memory_text(record)}")
        if not records:
            tell("Memory: not measured, which is done on Linux alone.")
    if directory is not None:
        tell(f"Recorded in {shown(directory / MANIFEST_NAME)}.")

"""`fiffdepth triton`: an engine directory as a model repository for Triton."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import shown, tell

if TYPE_CHECKING:
    from fiffdepth_rt.backends.grids import Size
    from fiffdepth_rt.program.options import EngineChoice


def _parse_name(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", value):
        return value
    raise click.BadParameter(f"{value!r} is no name: letters, digits, _, - and . are.", ctx, option)


@click.command("triton")
@click.argument("engine_dir", metavar="ENGINE_DIR", type=options.NamedPath())
@click.argument("out", metavar="OUT", type=options.NamedPath())
@click.option(
    "--name",
    metavar="NAME",
    callback=_parse_name,
    help="What the model is called at Triton. By default what its manifest says.",
)
@click.option(
    "--kind",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Where its instances run; gpu: on each GPU that Triton sees.",
)
@click.option(
    "--instances",
    metavar="N",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Opened models: so many in all, or on each GPU.",
)
@options.size
@options.engine_choice
@options.verbose
def command(
    engine_dir: Path,
    out: Path,
    name: str | None,
    kind: Literal["cpu", "gpu"],
    instances: int,
    size: Size,
    choice: EngineChoice,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server.

    OUT/NAME holds a copy of ENGINE_DIR, and a model for Triton's Python backend that takes a photo (UINT8,
    height×width×3) and gives its depth map (FP32, height×width), by KServe's protocol. The Python of Triton
    must have fiffdepth-rt.

    \b
    Examples:
      fiffdepth triton engines/fiffdepth models
      tritonserver --model-repository models
    """
    if choice.device is not None:
        raise click.UsageError("Triton says which device an instance is on: say --kind cpu or --kind gpu.")
    from fiffdepth_rt.serving.triton import Instances, write_model_repository

    asked = {
        "backend": None if choice.backend == "auto" else choice.backend,
        "precision": choice.precision,
        "threads": choice.threads,
        "size": "x".join(map(str, size)) if isinstance(size, tuple) else size,
    }
    made = write_model_repository(
        engine_dir,
        out,
        name=name,
        instances=Instances(count=instances, kind=kind),
        parameters={key: str(value) for key, value in asked.items() if value is not None},
    )
    tell(f"{shown(made)} is whole. Start Triton with: tritonserver --model-repository {shown(out)}")

"""What the commands of benchmarks/ share: options, help, and how they say what was typed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import click

from benchmarks.report import Report
from fiffdepth_rt.errors import FiffDepthError
from fiffdepth_rt.machine import machine_card
from fiffdepth_rt.program import options
from fiffdepth_rt.program.terminal import printable
from training.provenance import command_without_folders

COUNT = click.IntRange(min=1)
WORD = options.WORD
FOLDER: Any = options.NamedPath(exists=True, file_okay=False)
FILE: Any = options.NamedPath(exists=True, dir_okay=False)
EXISTING: Any = options.NamedPath(exists=True)
NEW: Any = options.NamedPath()

engine = options.engine
parse_hw = options.parse_hw
size = options.size
pictures = click.option("--pictures", metavar="DIR", type=NEW, help="Also a strip of pictures per photo.")
save = click.option("--save", is_flag=True, help="Keep the report in benchmarks/results/.")


class Benchmark(click.Command):
    """A command whose known errors are one sentence each, as those of `fiffdepth` are."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FiffDepthError as error:
            raise click.ClickException(printable(str(error))) from error


def command(help_text: str | None) -> Callable[[Callable[..., None]], click.Command]:
    """A Benchmark with this help, whose lines are broken where the text breaks them."""
    unwrapped = "\b\n" + (help_text or "").replace("\n\n", "\n\n\b\n")
    return click.command(cls=Benchmark, help=unwrapped)


def typed(name: str) -> str:
    """The command as it was typed, as a module, without folders: they mean nothing on another machine."""
    return command_without_folders(f"benchmarks.{name}", sys.argv[1:])


def model_report(
    said: Mapping[str, Any],
    *,
    benchmark: str,
    title: str,
    text: str,
    figures: Mapping[str, Any],
    subject: str | None = None,
    facts: Mapping[str, str] = MappingProxyType({}),
    draw: Callable[[], bytes] | None = None,
) -> Report:
    """Figures of one model on one engine -> their Report, which names both.

    said: `Depth.describe()`. subject: None for the model's name. The others: as in `Report`.
    """
    model = f"{said['name']}, {said['precision']}, {said['backend']} on {said['device']}"
    return Report(
        benchmark=benchmark,
        subject=said["name"] if subject is None else subject,
        title=title,
        command=typed(benchmark),
        card=machine_card(said["versions"]),
        facts={"model": model, **facts},
        text=text,
        figures=figures,
        draw=draw,
    )

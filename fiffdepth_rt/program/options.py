"""Options and arguments that several commands share, and how their text becomes values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fiffdepth_rt.program.terminal import log_to_stderr

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_hw(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """ "192x256" -> (192, 256)"""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
    if match is None:
        reason = f"{value!r} is no size: say height x width in px, such as 192x256."
        raise click.BadParameter(reason, ctx, option)
    return int(match[1]), int(match[2])


verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    is_eager=True,
    expose_value=False,
    callback=log_to_stderr,
    help="Say what is being done. Twice, -v -v: in detail, and errors with their traceback.",
)
engine = click.option(
    "--engine",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Engine directory. By default the bundled model, nano.",
)
backend = click.option(
    "--backend",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Inference engine, such as onnxruntime; auto takes the best one that works here.",
)
device = click.option(
    "--device", metavar="D", help="cpu, cuda or cuda:1. By default what the engine prefers."
)
directory = click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path), default=None
)

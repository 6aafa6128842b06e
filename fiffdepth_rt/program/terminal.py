"""What is said on stderr besides errors: a line that moves, lines above it, logs and tracebacks."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

_VERBOSITY = "fiffdepth_rt.verbosity"  # a key of click's ctx.meta; how often -v was said


def moving_line(
    label: str, *, unit: str, total: float | None, layout: str | None = None, disable: bool = False
) -> tqdm[Any]:
    """A progress bar on stderr, gone when it is closed; none where stderr is no terminal.

    total: how many units there are to do; None where nobody knows. layout: tqdm's bar_format.
    """
    from tqdm import tqdm

    hidden = disable or not sys.stderr.isatty()
    return tqdm(
        desc=label,
        unit=unit,
        total=total,
        bar_format=layout,
        leave=False,
        dynamic_ncols=True,
        disable=hidden,
    )


def say(text: str, *, err: bool = True) -> None:
    """A line on stderr, or on stdout, above the moving line if there is one."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        click.echo(text, err=err)


def log_to_stderr(ctx: click.Context, _option: click.Parameter, verbosity: int) -> None:
    """What -v does: once, the package's logs from INFO on; twice, from DEBUG on, and tracebacks of errors."""
    ctx.meta[_VERBOSITY] = verbosity
    if not verbosity:
        return
    logger = logging.getLogger("fiffdepth_rt")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbosity >= 2 else logging.INFO)
    ctx.call_on_close(lambda: logger.removeHandler(handler))


def wants_details(ctx: click.Context) -> bool:
    """Whether -v -v was said."""
    return bool(ctx.meta.get(_VERBOSITY, 0) >= 2)


def show_traceback(ctx: click.Context, error: BaseException) -> None:
    """The traceback of an error that is reported as a sentence, if -v -v asks for it."""
    if wants_details(ctx):
        say("".join(traceback.format_exception(error)).rstrip())

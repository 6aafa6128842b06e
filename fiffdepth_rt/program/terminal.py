"""What is said: lines on stdout and stderr, a line that moves, logs and tracebacks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiffdepth_rt.errors import OutputError

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


@contextlib.contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP calls `stop`, which ends the work at a good place; a second one
    interrupts it."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    asked = False

    def handle(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        stop()

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(ended: threading.Event) -> None:
    """Until it is set, as by `on_signals(ended.set)`."""
    while not ended.wait(0.5):  # on Windows, signals end no wait without a limit
        pass


def say_who_reaches(host: str) -> None:
    """A warning where a server is not for this machine alone."""
    from fiffdepth_rt.serving.listening import LOCAL

    if host not in LOCAL:
        say(
            f"Everybody who reaches {host} over the network can use it, and nothing is encrypted: put a "
            "server in front of it that asks who they are."
        )


# C0 but for tab and line feed, DEL and C1, what turns the direction of writing round, and the bytes of a name
# that are no text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """text with its control characters as escapes, such as \\x1b: names and manifests come from strangers,
    and a terminal would obey them."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(text: str) -> str:
    """As `printable`, line feeds and tabs too: a name cannot pretend to be a line of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shown(path: Path) -> str:
    """A path as it is said: undecodable bytes replaced, on one line."""
    return click.format_filename(path).replace("\n", "\\n")


def say(text: str) -> None:
    """A line on stderr, above the moving line if there is one."""
    from tqdm import tqdm

    with (
        contextlib.suppress(OSError),
        tqdm.external_write_mode(file=sys.stderr),
    ):  # OSError: nobody can read it
        click.echo(printable(text), err=True)


def tell(text: str) -> None:
    """A line on stdout, above the moving line if there is one. Raises OutputError where stdout is full."""
    from tqdm import tqdm

    try:
        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(printable(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_lost(error) from error


def stdout_lost(error: OSError) -> OutputError:
    """What to raise where stdout is full. Python does not try again at its end, when it would fail again."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return OutputError(
        f"Standard output cannot be written ({error.strerror}). The files that were written are whole; "
        "only what would have been said about them is lost."
    )


def stderr_handler(layout: str) -> logging.Handler:
    """A log's way to stderr, through `printable`. layout: of a logging.Formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable(layout))
    return handler


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr(ctx: click.Context, _option: click.Parameter, verbosity: int) -> None:
    """What -v does: once, the package's logs from INFO on; twice, from DEBUG on, and tracebacks of errors."""
    ctx.meta[_VERBOSITY] = verbosity
    if not verbosity:
        return
    logger = logging.getLogger("fiffdepth_rt")
    handler = stderr_handler("%(name)s: %(message)s")
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

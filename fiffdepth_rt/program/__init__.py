"""The program `fiffdepth`: a file for each command; here the group, and what goes wrong as one sentence.

What a command needs is imported inside it: `fiffdepth doctor` has to run where NumPy or
OpenCV cannot be imported.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

import click

from fiffdepth_rt.atomic import NAME_MAX_BYTES, PATH_MAX_BYTES
from fiffdepth_rt.errors import FiffDepthError, shortened
from fiffdepth_rt.program import (
    bag,
    batch,
    bench,
    build,
    calibrate,
    demo,
    doctor,
    infer,
    info,
    serve,
    triton,
    verify,
    video,
)
from fiffdepth_rt.program.terminal import printable, show_traceback, stdout_lost
from fiffdepth_rt.version import __version__


class _Program(click.Group):
    """Turns what goes wrong into one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)  # click means it to be final
            raise
        except (click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except FiffDepthError as error:
            show_traceback(ctx, error)
            raise click.ClickException(printable(str(error))) from error
        except Exception as error:
            show_traceback(ctx, error)
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                raise click.ClickException(
                    printable(
                        f"{shortened(error.filename or error)} is too long: a file's name may have "
                        f"{NAME_MAX_BYTES} bytes, a whole path {PATH_MAX_BYTES:,}."
                    )
                ) from error
            raise click.ClickException(
                printable(
                    f"This is a bug of fiffdepth ({type(error).__name__}: {error}): "
                    "run the command again with -v -v, and report what it prints."
                )
            ) from error


@click.group(
    cls=_Program,
    commands=(
        infer.command,
        video.command,
        batch.command,
        bag.command,
        calibrate.command,
        demo.command,
        serve.command,
        triton.command,
        info.command,
        build.command,
        verify.command,
        bench.command,
        doctor.command,
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fiffdepth")
def program() -> None:
    """Turn photos into depth maps.

    A depth map says how near each pixel is compared with the others; it is not in metres.

    \b
    Start here:
      fiffdepth infer kitchen.jpg
      fiffdepth doctor

    The first writes kitchen_depth.png and kitchen_color.png beside the photo; the second says what works on
    this machine, and what fixes the rest.
    """


def main() -> None:
    """Entry point of the program `fiffdepth`."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what the terminal's encoding does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        program(prog_name="fiffdepth")
    except OSError as error:  # of --help and --version, which click prints by itself
        sys.exit(f"Error: {stdout_lost(error)}")

"""A photo that is no file (an address, a stream) -> a file for as long as it is read."""

from __future__ import annotations

import contextlib
import http.client
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fiffdepth_rt.errors import ImageError, OutputError, shortened
from fiffdepth_rt.version import __version__

MAX_BYTES = 500_000_000
SILENCE_S = 10.0
"""How long an address may say nothing."""
PATIENCE_S = 300.0
"""How long a photo may take to come from an address, in all."""

_CHUNK = 1 << 20


@contextlib.contextmanager
def as_file(address: str, *, ending: str) -> Iterator[Path]:
    """http(s)://…, "-" or /dev/fd/63 -> a copy, whose name has this ending; it goes when the block ends.

    Only what the user named is fetched, by HTTP or HTTPS, with redirections between these two. Raises
    ImageError: the address does not answer, or refuses; too large; too slow. OutputError: no room for it.
    """
    with contextlib.ExitStack() as undo:
        try:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="fiffdepth-"))
            copy = Path(folder) / f"photo{ending}"
            file = undo.enter_context(copy.open("wb"))
        except OSError as error:
            raise no_room(error) from error
        if address.lower().startswith("http"):
            _fetch(address, file)
        else:
            _drain(address, file)
        try:
            file.close()
        except OSError as error:  # what was still to be written
            raise no_room(error) from error
        yield copy


def no_room(error: OSError) -> OutputError:
    """What to raise where there is no room for temporary files."""
    return OutputError(
        f"There is no room for temporary files ({error.strerror}): make some, or set TMPDIR to another "
        "folder."
    )


def _drain(stream: str, file: BinaryIO) -> None:
    try:
        if stream == "-":
            _copy(sys.stdin.buffer, file, stream)
        else:
            with Path(stream).open("rb") as opened:
                _copy(opened, file, stream)
    except OutputError:
        raise
    except OSError as error:
        raise ImageError(f"{stream} cannot be read ({error.strerror}): name a photo file.") from error


def _fetch(address: str, file: BinaryIO) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": f"fiffdepth/{__version__}"})
    try:
        with _web().open(request, timeout=SILENCE_S) as answer:
            _copy(answer, file, address, until=time.monotonic() + PATIENCE_S)
            if answer.length:  # of what its header promises, where it does
                raise ImageError(f"{address} breaks off, {answer.length} bytes before its end: try again.")
    except urllib.error.HTTPError as error:
        with error:
            raise ImageError(f"{address} answers {error.code} {error.reason}: check the address.") from error
    except (ImageError, OutputError):  # which are a ValueError and an OSError, too
        raise
    # URLError and time-outs are OSErrors; ValueError: no address; HTTPException: no answer as HTTP has them.
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        said = shortened(" ".join(str(reason).split()) or type(reason).__name__, 120)
        raise ImageError(
            f"{address} cannot be fetched ({said}): check the address and the network."
        ) from error


def _web() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS, through the user's proxies. urllib's own opener follows a redirection to FTP, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _copy(source: BinaryIO, file: BinaryIO, name: str, *, until: float | None = None) -> None:
    size = 0
    while chunk := source.read1(_CHUNK) if hasattr(source, "read1") else source.read(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise ImageError(
                f"{name} gives more than {MAX_BYTES // 10**6} MB: save it as a file, and name that."
            )
        if until is not None and time.monotonic() > until:
            raise ImageError(f"{name} is too slow ({PATIENCE_S:g} s): download it, and name the file.")
        try:
            file.write(chunk)
        except OSError as error:
            raise no_room(error) from error

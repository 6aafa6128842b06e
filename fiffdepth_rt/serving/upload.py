"""A request's body -> the photo's bytes, before anything looks at them: lengths, forms, slow senders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.replies import Refusal, busy

if TYPE_CHECKING:
    from starlette.types import Message, Receive

MOST_PARTS = 16
"""Of a form: one is the photo."""


class LeftError(Exception):
    """The client is gone."""


class Held:
    """The bytes of all uploads and replies that are held at once.

    tell: is told how many they are. Raises Refusal (503) from `add` where there would be too many.
    """

    def __init__(self, most: int, tell: Callable[[int], None]) -> None:
        self._most, self._tell, self._held = most, tell, 0

    def add(self, count: int) -> None:
        if self._held + count > self._most:
            raise busy(
                "The service holds as many bytes as it may: send the photo again later.", retry_after_s=5
            )
        self._change(count)

    def give_back(self, count: int) -> None:
        self._change(-count)

    def _change(self, count: int) -> None:
        self._held += count
        self._tell(self._held)


class Pace:
    """How slow a client may be: `patience_s`, and the time that its bytes take at the least pace."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._start = limits, time.monotonic()

    def left_s(self, bytes_done: int) -> float:
        """How long the client still has for its next bytes; 0 or less where its time is over."""
        allowed = self._limits.patience_s + bytes_done / self._limits.slower_bytes_per_s
        return allowed - (time.monotonic() - self._start)


async def read_upload(headers: dict[bytes, bytes], receive: Receive, limits: Limits, held: Held) -> bytearray:
    """A body, raw or as a form with one file -> that file's bytes.

    They are counted in `held`, to which the caller gives them back. What the client calls the file or its
    type is not looked at: the bytes say what they are.

    Raises Refusal: 400 (a form that is damaged, or without a file), 408 (too slow), 413, 415 (compressed),
    503; LeftError. Nothing is held then.
    """
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise Refusal(415, "compressed", "Send the photo as it is, without a Content-Encoding.")
    too_long = Refusal(
        413,
        "too_many_bytes",
        f"At most {limits.upload_bytes / 2**20:g} MiB are taken: make the photo smaller.",
    )
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise Refusal(400, "damaged_request", "The Content-Length is no number.")
    if len(length) > 18 or int(length) > limits.upload_bytes:
        raise too_long
    form = _Form(headers[b"content-type"]) if _is_form(headers) else None
    found, arrived, pace = bytearray(), 0, Pace(limits)
    try:
        while True:
            message = await _next(receive, pace.left_s(arrived))
            chunk = message.get("body", b"")
            arrived += len(chunk)
            if arrived > limits.upload_bytes:
                raise too_long
            part = chunk if form is None else form.feed(chunk)
            held.add(len(part))
            found += part
            if not message.get("more_body"):
                break
        if form is not None:
            form.end()
        if not found:
            raise Refusal(400, "empty", "The request holds no photo: send the file as its body.")
    except BaseException:
        held.give_back(len(found))
        raise
    return found


async def _next(receive: Receive, left_s: float) -> Message:
    try:
        message = await asyncio.wait_for(receive(), max(left_s, 0))
    except asyncio.TimeoutError:
        raise Refusal(
            408, "too_slow", "The photo did not come in time: send it faster, or smaller."
        ) from None
    if message["type"] != "http.request":
        raise LeftError
    return message


def _is_form(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").lower().lstrip().startswith(b"multipart/")


class _Form:
    """multipart/form-data, as it comes -> the bytes of its one file, wherever that stands in the form."""

    def __init__(self, content_type: bytes) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:  # RFC 2046, 5.1.1
            raise _no_form("it is not multipart/form-data with a boundary")
        self._parse_options = parse_options_header
        self._parts = self._files = 0
        self._in_file = self._ended = False
        self._name, self._value = bytearray(), bytearray()
        self._found: list[bytes] = []
        callbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._data,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, chunk: bytes) -> bytes:
        """Raises Refusal (400)."""
        from python_multipart.exceptions import FormParserError

        self._found = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _no_form("it is damaged") from error
        return b"".join(self._found)

    def end(self) -> None:
        """Raises Refusal (400): cut off, or without a file."""
        if not self._ended:
            raise _no_form("it is cut off")
        if not self._files:
            raise _no_form("no part of it is a file")

    def _begin_part(self) -> None:
        self._parts += 1
        self._in_file = False
        if self._parts > MOST_PARTS:
            raise _no_form(f"it has more than {MOST_PARTS} parts")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if bytes(self._name).lower() == b"content-disposition":
            _, options = self._parse_options(bytes(self._value))
            if b"filename" in options:
                self._in_file = True
                self._files += 1
                if self._files > 1:
                    raise _no_form("it has more than one file")
        self._name, self._value = bytearray(), bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._found.append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _no_form(why: str) -> Refusal:
    return Refusal(400, "damaged_form", f"The form cannot be used ({why}): send one photo, as its one file.")

"""A client that says exactly what it is told to, and reads one reply."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
from typing import NamedTuple


class Heard(NamedTuple):
    """status: None where the server said nothing and closed."""

    status: int | None
    headers: dict[str, str]
    body: bytes


def post(body: bytes, *, path: str = "/depth", host: str = "127.0.0.1", **headers: str) -> bytes:
    """A request as a browser would make it; of its headers, accept_encoding is Accept-Encoding."""
    fields = {"host": host, "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def get(path: str, *, method: str = "GET", host: str = "127.0.0.1") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("latin-1")


def form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> bytes:
    """(what stands in Content-Disposition behind form-data, content) of each part -> a form's body."""
    said = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {what}\r\n\r\n".encode() + content + b"\r\n"
        for what, content in parts
    )
    return said + f"--{boundary}--\r\n".encode()


def connect(address: str, *, timeout: float = 60) -> socket.socket:
    where = urllib.parse.urlsplit(address)
    return socket.create_connection((where.hostname, where.port), timeout=timeout)


def ask(address: str, request: bytes, *, timeout: float = 60) -> Heard:
    """Send all of it, hear one reply."""
    with connect(address, timeout=timeout) as connection:
        with contextlib.suppress(ConnectionError):  # refused before all was sent
            connection.sendall(request)
        return hear(connection, head_only=request.startswith(b"HEAD"))


def hear(connection: socket.socket, *, head_only: bool = False) -> Heard:
    """One reply of a connection, to its end."""
    said = b""
    while b"\r\n\r\n" not in said:
        if not (more := _more(connection)):
            return Heard(None, {}, said)
        said += more
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if first.startswith("HTTP/1.1 100"):
        raise AssertionError("nobody asked for 100 Continue")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = 0 if head_only else int(headers.get("content-length", 0))
    while len(body) < length and (more := _more(connection)):
        body += more
    return Heard(int(first.split()[1]), headers, body[:length])


def _more(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""

"""A socket, and a server on it that no slow or silent client can hold."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fiffdepth_rt.errors import BackendUnavailableError, OutputError
from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.replies import Refusal, Reply, busy

if TYPE_CHECKING:
    from fiffdepth_rt.serving.app import Service

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Hosts under which nobody but this machine reaches a server."""

_NO_ADDRESS_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def listening(host: str, port: int, *, what: str = "The service") -> socket.socket:
    """A socket that waits for visitors. port: 0 takes a free one.

    Raises OutputError: the port is taken, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: no name of a host
        listener.close()
        elsewhere = (
            isinstance(error, socket.gaierror | UnicodeError)
            or getattr(error, "errno", None) in _NO_ADDRESS_HERE
        )
        cure = (
            "name an address of this machine after --host, such as 127.0.0.1 (nobody else reaches it)"
            if elsewhere
            else "name another port after --port; 0 takes a free one"
        )
        raise OutputError(
            f"{what} cannot be at {host}, port {port} ({getattr(error, 'strerror', None) or error}): {cure}."
        ) from error
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """A listening socket -> the address to ask, without an end."""
    return f"http://{f'[{host}]' if ':' in host else host}:{int(listener.getsockname()[1])}"


@contextlib.contextmanager
def serving(service: Service, listener: socket.socket, limits: Limits) -> Iterator[None]:
    """The application on a socket, until the block ends, and what was accepted by then is answered.

    Raises BackendUnavailableError where its server does not start.
    """
    import uvicorn

    if hasattr(
        socket, "TCP_USER_TIMEOUT"
    ):  # a client that reads nothing is gone after it, whatever is buffered
        patience_ms = int(limits.patience_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
    config = uvicorn.Config(
        service,
        http=_protocol(limits),  # h11: it bounds the head of a request, to 64 KiB
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(limits.drain_s),
    )
    server = uvicorn.Server(config)
    own = logging.getLogger("python_multipart")  # it warns of each damaged form
    level = own.level
    own.setLevel(logging.CRITICAL)
    thread = threading.Thread(target=server.run, args=([listener],), name="service", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise BackendUnavailableError("The service's server ended as it began: -v -v says why.")
        time.sleep(0.01)
    try:
        yield
    finally:
        service.ready = False
        server.should_exit = True
        thread.join(timeout=limits.drain_s + 5)
        own.setLevel(level)


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 with two limits that it does not have: connections, and the time until a request."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    full = _as_http(busy("The service has as many connections as it takes.", retry_after_s=5).reply)
    damaged = _as_http(Refusal(400, "damaged_request", "This is no HTTP/1.1 request.").reply)

    class Protocol(H11Protocol):  # type: ignore[misc] # its types are not read
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(full)
                transport.close()
            else:
                self._wait_for_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait_for_request()

        def send_400_response(self, msg: str) -> None:
            self.transport.write(damaged)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_deadline()
            super().connection_lost(exc)

        def _wait_for_request(self) -> None:
            self._forget_deadline()
            self._deadline = self.loop.call_later(limits.patience_s, self._end_if_silent)

        def _forget_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()

        def _end_if_silent(self) -> None:
            """A head that does not end, or the rest of a body that was refused; upload.py has the others."""
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Protocol


def _as_http(reply: Reply) -> bytes:
    fields = (*reply.headers, ("content-length", str(len(reply.body))), ("connection", "close"))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{head}\r\n".encode() + reply.body

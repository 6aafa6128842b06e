"""START HERE. The service as an ASGI application: what is asked, how much is taken, who waits.

    POST /depth      a photo, as the body or as the one file of a form -> its depth map (forms.py)
    GET  /health     200 while the process lives
    GET  /ready      200 while photos are taken; 503 while no replica is there, and from the begin of the end
    GET  /metrics    for Prometheus

An upload is read whole before a replica hears of it, and a reply is whole before it is sent, so that no
client, however slow, holds a replica. How much is held is counted (`upload.Held`), and how many photos wait;
beyond the limits a 503 says when to come back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Protocol

from fiffdepth_rt.serving.forms import Form, wanted_form
from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.metrics import CONTENT_TYPE, Metrics
from fiffdepth_rt.serving.replies import BROKEN, OK, Refusal, Reply, busy
from fiffdepth_rt.serving.upload import Held, LeftError, Pace, read_upload

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_log = logging.getLogger(__name__)

_CHUNK = 64 * 2**10
_METHODS = {"/depth": "POST", "/health": "GET", "/ready": "GET", "/metrics": "GET"}
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Workers(Protocol):
    """Who does the work: work.Work in this process, or replicas.Replicas."""

    async def answer(self, photo: bytes, form: Form) -> Reply:
        """Photo file -> reply. A cancelled call is not begun, or its reply is dropped. Raises Refusal."""


class Service:
    """The application.

    workers: who does the work. at_once: how many photos they take at once; so many more may wait as `limits`
    says. ready: whether they could take one now. names: by which the service may be asked for (the Host of a
    request, without the port), so that no page of another site can use it through a browser; empty for any.
    """

    def __init__(
        self, workers: Workers, limits: Limits, *, at_once: int = 1, names: frozenset[str] = frozenset()
    ) -> None:
        self._workers = workers
        self._limits = limits
        self._most = at_once + limits.waiting
        self._at_once = at_once
        self._names = names
        self.metrics = Metrics()
        self._held = Held(limits.held_bytes, self.metrics.held_bytes.set)
        self._photos = 0
        self._each_s = 1.0  # that one photo takes
        self.ready = True
        """Set by whoever knows the workers, and to False when the service is about to end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start = time.monotonic()
        try:
            try:
                reply, held = await self._reply(scope, receive)
            except Refusal as refusal:
                reply, held = refusal.reply, 0
            except (LeftError, asyncio.CancelledError):
                raise
            except Exception:
                _log.exception("A request failed.")
                reply, held = BROKEN.reply, 0
            try:
                await self._send(reply, send, head_only=scope["method"] == "HEAD")
            finally:
                self._held.give_back(held)
        except LeftError:
            self.metrics.lost()
            return
        if scope["path"] == "/depth":
            self.metrics.answered(reply, time.monotonic() - start)

    async def _reply(self, scope: Scope, receive: Receive) -> tuple[Reply, int]:
        """-> reply, and how many bytes are held for it. Raises Refusal, LeftError."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]")
        path, method = scope["path"], scope["method"]
        if self._names and host not in self._names:
            raise Refusal(421, "another_name", "The service is asked for by another name than it has.")
        wanted = _METHODS.get(path)
        if wanted is None:
            raise Refusal(
                404, "no_such_address", "Send a photo to /depth; /health, /ready and /metrics answer."
            )
        if method != wanted and not (method == "HEAD" and wanted == "GET"):
            raise Refusal(405, "another_method", f"{path} takes {wanted}.", (("allow", wanted),))
        if path == "/depth":
            return await self._depth(scope, headers, receive)
        if path == "/ready" and not self.ready:
            raise busy("No photos are taken at the moment.", retry_after_s=1)
        if path == "/metrics":
            return _text(self.metrics.text(), CONTENT_TYPE), 0
        return _text(b"ok\n", "text/plain; charset=utf-8"), 0

    async def _depth(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> tuple[Reply, int]:
        form = wanted_form(scope["query_string"], headers.get(b"accept", b"").decode("latin-1"))
        self._check_room()
        photo = await read_upload(headers, receive, self._limits, self._held)
        count = len(photo)
        try:
            self._check_room()  # others came meanwhile
            reply = await self._answer(bytes(photo), form, receive)
            self._held.add(len(reply.body))
            return reply, len(reply.body)
        finally:
            self._held.give_back(count)

    def _check_room(self) -> None:
        """Raises Refusal (503) where as many photos wait as may."""
        if self._photos >= self._most:
            wait_s = math.ceil(self._each_s * self._photos / self._at_once)
            raise busy(
                "As many photos wait as may: send it again after the seconds that Retry-After says.",
                retry_after_s=min(max(wait_s, 1), 60),
            )

    async def _answer(self, photo: bytes, form: Form, receive: Receive) -> Reply:
        """The workers' reply, unless the client leaves before: then they need not begin. Raises LeftError."""
        self._count(1)
        start, before = time.monotonic(), self._photos
        work = asyncio.ensure_future(self._workers.answer(photo, form))
        gone = asyncio.ensure_future(receive())  # nothing else comes behind a body
        try:
            await asyncio.wait(
                (work, gone), timeout=self._limits.answer_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not work.done():
                if gone.done():
                    raise LeftError
                raise busy("The photo took too long: send it again later.", retry_after_s=60)
            reply = work.result()
            if (
                reply.kind == OK
            ):  # a mean of the last few; the time was shared with those that were there before
                each_s = (time.monotonic() - start) / max(before / self._at_once, 1)
                self._each_s += 0.2 * (each_s - self._each_s)
            return reply
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._count(-1)

    def _count(self, change: int) -> None:
        self._photos += change
        self.metrics.photos.set(self._photos)

    async def _send(self, reply: Reply, send: Send, *, head_only: bool) -> None:
        """In parts, as fast as the client reads. Raises LeftError where it does not."""
        length = ("content-length", str(len(reply.body)))
        headers = [(name.encode(), value.encode("latin-1")) for name, value in (*reply.headers, length)]
        start = {"type": "http.response.start", "status": reply.status, "headers": [*headers, *_HEADERS]}
        body = b"" if head_only else reply.body
        pace = Pace(self._limits)
        try:
            await send(start)
            for at in range(0, max(len(body), 1), _CHUNK):
                part = {
                    "type": "http.response.body",
                    "body": body[at : at + _CHUNK],
                    "more_body": at + _CHUNK < len(body),
                }
                await asyncio.wait_for(send(part), max(pace.left_s(at), 0.001))
        except (asyncio.TimeoutError, OSError):
            raise LeftError from None


def _text(body: bytes, content_type: str) -> Reply:
    return Reply(status=200, kind=OK, body=body, headers=(("content-type", content_type),))

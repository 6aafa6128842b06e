"""Who may send what to the page, and what becomes of it: limits, cleaning, no way out.

Gradio keeps what visitors send, and what they get, in one folder. Here this is a folder of its own, which
only the user may read; what is older than KEPT_S is removed, a visitor who would fill the disk is refused,
and the folder goes with the program.

A click names the files that it is about. Gradio would read any file of the machine so, fetch an address, and
take any length of JSON: `Gate` lets none of these through.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fiffdepth_rt.demo.engines import Engines
from fiffdepth_rt.demo.limits import (
    CONNECTIONS,
    KEPT_S,
    MAX_FOLDER_BYTES,
    MAX_JSON_BYTES,
    MAX_UPLOAD_BYTES,
    SWEEP_S,
    WAITING,
)
from fiffdepth_rt.errors import BackendUnavailableError, OutputError
from fiffdepth_rt.processes import environment
from fiffdepth_rt.serving.listening import LOCAL, address_of, listening

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Folder:
    """The folder of all that visitors send and get; gone with `close`.

    Raises OutputError where there is no room for temporary files.
    """

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="fiffdepth-demo-"))  # mode 0700
        except OSError as error:
            raise OutputError(
                f"There is no folder for temporary files ({error.strerror}): set TMPDIR to one."
            ) from error
        self.bytes = 0
        self._ended = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_again_and_again, name="sweeper", daemon=True)
        self._sweeper.start()

    def new(self) -> Path:
        """A new, empty folder in it."""
        return Path(tempfile.mkdtemp(dir=self.path))

    @property
    def full(self) -> bool:
        return self.bytes > MAX_FOLDER_BYTES

    def sweep(self, *, older_than_s: float = KEPT_S) -> None:
        """Remove files that were last written so long ago, and folders that are empty; count the rest."""
        now, found = time.time(), 0
        for directory, _, names in os.walk(self.path, topdown=False):
            for name in names:
                path = Path(directory, name)
                with contextlib.suppress(OSError):  # gone meanwhile
                    status = path.lstat()
                    if now - status.st_mtime > older_than_s:
                        path.unlink()
                    else:
                        found += status.st_size
            if directory != str(self.path):
                with contextlib.suppress(OSError):  # not empty
                    if now - os.stat(directory).st_mtime > older_than_s:  # noqa: PTH116
                        os.rmdir(directory)  # noqa: PTH106
        self.bytes = found

    def close(self) -> None:
        self._ended.set()
        self._sweeper.join()
        shutil.rmtree(self.path, ignore_errors=True)

    def _sweep_again_and_again(self) -> None:
        while not self._ended.wait(SWEEP_S):
            self.sweep()


class Gate:
    """Before Gradio: what is too large, what names an address for a file, and what comes by another name.

    names: by which the machine may be asked for (the Host of a request, without the port); empty for any. A
    page of another site that has its own name lead to this machine is stopped by it.
    """

    def __init__(self, app: ASGIApp, *, folder: Folder, names: frozenset[str]) -> None:
        self._app = app
        self._folder = folder
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "").rsplit(":", 1)[0].strip("[]")
        if self._names and host not in self._names:
            await _refuse(send, 421, "This page is asked for by another name than it has.")
        elif scope["method"] != "POST":
            await self._app(scope, receive, _with_headers(send))
        elif scope["path"].endswith("/upload"):
            if self._folder.full:
                await _refuse(send, 503, "This page holds too many files at the moment: come back later.")
            elif not headers.get(b"content-length", "").isdigit():
                await _refuse(send, 411, "A file is sent with its length.")
            elif int(headers[b"content-length"]) > MAX_UPLOAD_BYTES:
                limit = MAX_UPLOAD_BYTES // 2**20
                await _refuse(send, 413, f"The file is larger than this page takes, {limit} MiB.")
            else:
                await self._app(scope, receive, _with_headers(send))
        else:
            await self._pass_json(scope, receive, send)

    async def _pass_json(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the visitor left
                return
            body += message.get("body", b"")
            if len(body) > MAX_JSON_BYTES:
                await _refuse(send, 413, "A click sends less than that.")
                return
            if not message.get("more_body"):
                break
        if not self._about_sent_files(bytes(body)):
            await _refuse(send, 400, "A click is JSON, and about files that were sent: send the file first.")
            return
        waiting: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, again, _with_headers(send))

    def _about_sent_files(self, body: bytes) -> bool:
        """Whether a click is JSON in which every `path` of a file leads into the folder."""
        try:
            left = [json.loads(body or b"null")]
        except (ValueError, RecursionError):
            return False
        inside = os.path.realpath(self._folder.path)
        while left:
            one = left.pop()
            if isinstance(one, dict):
                if "path" in one and not _leads_into(inside, one["path"]):
                    return False
                left += one.values()
            elif isinstance(one, list):
                left += one
        return True


def _leads_into(folder: str, path: object) -> bool:
    if not isinstance(path, str) or "://" in path:
        return False
    try:
        return os.path.realpath(path).startswith(folder + os.sep)
    except ValueError:  # a null byte
        return False


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{sentence}\n".encode()})


_HEADERS = (
    # A browser that asks nobody else, whatever a visitor's file contains.
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' data: blob:; "
        b"frame-ancestors 'none'; form-action 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending


@contextlib.contextmanager
def serving(engines: Engines, *, host: str, port: int) -> Iterator[str]:
    """The page at an address, until the block ends. port: 0 takes a free one.

    Raises BackendUnavailableError where Gradio is not installed or its server does not start, OutputError
    where the port is taken.
    """
    check_gradio()
    folder = Folder()
    try:
        with (
            listening(host, port, what="The page") as listener,
            environment(**_of_gradio(folder)),
        ):
            server = _make_server(engines, folder, host=host)
            thread = threading.Thread(target=server.run, args=([listener],), name="page", daemon=True)
            thread.start()
            while not server.started:
                if not thread.is_alive():
                    raise BackendUnavailableError("The page's server ended as it began: -v -v says why.")
                time.sleep(0.01)
            try:
                yield f"{address_of(listener, host)}/"
            finally:
                server.should_exit = True
                thread.join(timeout=5)
    finally:
        folder.close()


def _make_server(engines: Engines, folder: Folder, *, host: str) -> uvicorn.Server:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware import Middleware

    from fiffdepth_rt.demo.page import CSS, make_page

    names = frozenset(LOCAL) if host in LOCAL else frozenset[str]()
    page = make_page(engines, folder.new)
    page.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)
    gate = Middleware(Gate, folder=folder, names=names)
    site = FastAPI(middleware=[gate], openapi_url=None, docs_url=None, redoc_url=None)
    app = gr.mount_gradio_app(
        site,
        page,
        path="/",
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        enable_monitoring=False,
        ssr_mode=False,
        footer_links=[],
        css=CSS,
    )
    config = uvicorn.Config(
        app,
        log_level="error",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    return uvicorn.Server(config)


def check_gradio() -> None:
    """Raises BackendUnavailableError where Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise BackendUnavailableError(
            "The page is made with Gradio, which is not installed: pip install 'fiffdepth-rt[demo]'."
        )


def _of_gradio(folder: Folder) -> dict[str, str]:
    """Gradio reads its settings from the environment while the page is made and used."""
    return {"GRADIO_TEMP_DIR": str(folder.path), "GRADIO_ANALYTICS_ENABLED": "False"}

"""A hub on the loopback: the part of the Hub's API that huggingface_hub uses, with faults to order.

    GET  /api/models/OWNER/NAME[/revision/REVISION]?blobs=true     commit, files, sizes, SHA-256 of large ones
    HEAD, GET /OWNER/NAME/resolve/COMMIT/FILE                      with ranges

What huggingface_hub makes of status codes and of X-Error-Code is its own code, which runs here as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".ckpt")  # kept in LFS, as a repository's .gitattributes say


@dataclasses.dataclass(kw_only=True)
class HostedRepository:
    """files: by path. answer: a status and X-Error-Code for all requests, None for none."""

    files: dict[str, bytes]
    commit: str
    tags: tuple[str, ...] = ()
    answer: tuple[int, str] | None = None


@dataclasses.dataclass(kw_only=True)
class LoopbackHub:
    """repositories: by OWNER/NAME. moved: former name -> new one. requests: (method, path, user agent).

    Faults by file, each taken away once it has happened: cut: so many bytes are sent, and no more;
    damaged: the first byte is another; refused: statuses instead of the file, one after the other.
    claims: sizes that are stated in place of the true ones.
    """

    url: str = ""
    repositories: dict[str, HostedRepository] = dataclasses.field(default_factory=dict)
    moved: dict[str, str] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    cut: dict[str, int] = dataclasses.field(default_factory=dict)
    damaged: set[str] = dataclasses.field(default_factory=set)
    refused: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    claims: dict[str, int] = dataclasses.field(default_factory=dict)

    def fetched(self) -> list[str]:
        """The files whose content was asked for, in order."""
        found = [
            re.search(r"/resolve/[^/]+/(.+)", path) for method, path, _ in self.requests if method == "GET"
        ]
        return [match[1] for match in found if match]


@contextlib.contextmanager
def serving(hub: LoopbackHub) -> Iterator[LoopbackHub]:
    """The hub at hub.url until the block ends."""

    class Handler(_Handler):
        served = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: LoopbackHub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: Any) -> None:
        """Nothing on the tests' stderr."""

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("User-Agent", "")))
        match = re.fullmatch(r"/(api/models/)?([^/]+/[^/]+)(?:/(revision|resolve)/(.+))?", path)
        if match is None:
            return self._send(404, b"", {})
        name, rest = match[2], match[4] or ""
        if name in hub.moved:
            where = self.path.replace(name, hub.moved[name], 1)
            return self._send(307, b"", {"Location": where})
        repository = hub.repositories.get(name)
        if repository is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if repository.answer is not None:
            status, code = repository.answer
            return self._send(status, b"", {"X-Error-Code": code} if code else {})
        revision, _, file = (rest, "", "") if match[1] else rest.partition("/")
        if revision not in ("", "main", repository.commit):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if match[1]:
            body = json.dumps(self._listing(name, repository)).encode()
            return self._send(200, body, {"Content-Type": "application/json"}, with_body=with_body)
        return self._file(repository, file, with_body=with_body)

    def _listing(self, name: str, repository: HostedRepository) -> dict[str, Any]:
        siblings = []
        for file, content in repository.files.items():
            size = self.served.claims.get(file, len(content))
            entry: dict[str, Any] = {
                "rfilename": file,
                "size": size,
                "blobId": hashlib.sha1(content).hexdigest(),
            }
            if file.endswith(LARGE):
                entry["lfs"] = {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size": size,
                    "pointerSize": 134,
                }
            siblings.append(entry)
        return {"id": name, "sha": repository.commit, "siblings": siblings, "tags": list(repository.tags)}

    def _file(self, repository: HostedRepository, file: str, *, with_body: bool) -> None:
        hub, content = self.served, repository.files.get(file)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
        kind = hashlib.sha256 if file.endswith(LARGE) else hashlib.sha1
        headers = {
            "X-Repo-Commit": repository.commit,
            "X-Linked-Etag": f'"{kind(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{kind(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if with_body and hub.refused.get(file) and file not in hub.cut:
            return self._send(hub.refused[file].pop(0), b"", {})
        if with_body and file in hub.damaged:
            hub.damaged.remove(file)
            content = bytes([content[0] ^ 1]) + content[1:]
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status = 200
        if start:
            status, first = 206, int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content = content[first:]
        cut = hub.cut.pop(file, None) if with_body else None
        return self._send(status, content, headers, with_body=with_body, cut=cut)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        with_body: bool = True,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

"""What a stranger may send to a service: photos that lie, in requests that lie, by HTTP/1.1."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.images import Fuzzed as Photos
from tests.fuzz.mutations import TEXTS, mutated_bytes, mutated_json

STATUSES = frozenset({200, 400, 404, 405, 406, 408, 413, 415, 421, 422, 503})
"""What a service may answer. 500 is a finding."""

NAMES = (
    *(
        "a.png",
        "",
        ".",
        "..",
        "../../../etc/passwd",
        "/etc/cron.d/x",
        "C:\\windows\\x.png",
        "con",
        "a\x00.png",
    ),
    *("x" * 5000, "\u202egnp.exe", '"; filename="b.png', "%2e%2e%2fx", "a.tga", "~/.ssh/id", "|id", "$(id)"),
)
TYPES = (
    *("image/png", "image/jpeg", "text/html", "application/json", "application/x-www-form-urlencoded", ""),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b0undary"),
    *(
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=other",
        "image/png; " * 500,
    ),
)
PATHS = (
    *("/depth?format=png", "/depth?format=npy", "/depth?format=json", "/depth?format=exr", "/depth?format="),
    *(
        "/depth?size=4096",
        "/depth?" + "format=png&" * 99,
        "/depth?%ff=%00",
        "/depth/../depth",
        "//depth",
        "/",
    ),
    *("/depth/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "/metrics", "/ready", "/depth;x", "*"),
)
ACCEPTS = (
    "*/*",
    "image/png",
    "application/json;q=0.5, */*;q=0.1",
    "text/html",
    "x;q=nan",
    ";;,,",
    "a" * 9000,
)
LENGTHS = ("0", "1", "-1", "1e3", "0x10", "999999999999", "99999999999999999999999", "", "5, 5", "٣")
_BOUNDARY = "b0undary"


class Upload(NamedTuple):
    """raw: the request's bytes. photo: what a service reads as the photo, if the request itself is sound and
    a PNG is asked for; else None."""

    raw: bytes
    photo: bytes | None


class Uploads:
    """Requests by the seed of `chance`. folder: for files of a moment."""

    def __init__(self, folder: Path) -> None:
        self._photos = Photos(folder)

    def make(self, chance: random.Random) -> Upload:
        """One request."""
        _, photo = self._photos.mutated(chance)
        if chance.random() < 0.1:  # no photo at all
            tree = {"inputs": [{"name": "image", "shape": [1, 2], "data": [1, 2.5, None]}], "id": "x"}
            photo = mutated_json(tree, chance).encode("utf-8", "surrogatepass")
        body, content_type, sound = self._body(photo, chance)
        fields = {"host": "127.0.0.1", "content-type": content_type, "content-length": str(len(body))}
        path, method = "/depth", "POST"
        how = chance.randrange(12)
        if how == 0:
            fields["content-length"] = chance.choice(LENGTHS)
        elif how == 1:
            fields["content-length"] = str(len(body) + chance.choice((-len(body), -10, -1, 1, 10, 2**20)))
        elif how == 2:
            path = chance.choice(PATHS)
        elif how == 3:
            fields["accept"] = chance.choice(ACCEPTS)
        elif how == 4:
            fields["host"] = chance.choice(
                ("", "evil.example", "127.0.0.1:80:80", "[::1]", "localhost.", "a b")
            )
        elif how == 5:
            method = chance.choice(
                ("GET", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "X" * 999)
            )
        elif how == 6:
            fields["content-encoding"] = chance.choice(("gzip", "identity", "br", "gzip, gzip", ""))
        elif how == 7:
            fields[chance.choice(("x-a", "transfer-encoding", "upgrade", "connection", "te"))] = (
                chance.choice(TEXTS)
            )
        elif how == 8:
            del fields["content-length"]
            fields["transfer-encoding"] = "chunked"
            body, whole = _chunked(body, chance)
            sound = sound and whole
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in fields.items()
        )
        raw = head.encode("utf-8", "surrogateescape" if "\ud800" not in head else "replace") + b"\r\n" + body
        if how == 9:
            raw = mutated_bytes(raw[: len(head)], chance) + raw[len(head) :]
        return Upload(raw, photo if sound and how in (8, 10, 11) else None)

    def _body(self, photo: bytes, chance: random.Random) -> tuple[bytes, str, bool]:
        """Photo -> body, its Content-Type, and whether the photo can be found in it."""
        if chance.random() < 0.5:
            content_type = chance.choice(TYPES) if chance.random() < 0.3 else "image/png"
            return photo, content_type, not content_type.startswith("multipart/")
        name = chance.choice(NAMES)
        parts = [(f'name="photo"; filename="{name}"', photo)]
        how = chance.randrange(8)
        if how == 0:
            parts = []
        elif how == 1:
            parts *= chance.choice((2, 3, 40))
        elif how == 2:
            parts = [('name="a"', b"x")] * chance.choice((1, 5, 20)) + parts
        elif how == 3:
            parts = [('name="photo"', photo)]
        body = b"".join(_part(what, content) for what, content in parts) + f"--{_BOUNDARY}--\r\n".encode()
        sound = (
            how in (2, 6, 7)
            and len(parts) <= 16
            and '"' not in name
            and "\0" not in name
            and len(name) < 4000
        )
        if how == 4:
            body, sound = mutated_bytes(body, chance), False
        elif how == 5:
            body, sound = body[: chance.randrange(len(body))], False
        return body, f"multipart/form-data; boundary={_BOUNDARY}", sound


def _part(what: str, content: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {what}\r\nContent-Type: image/png\r\n\r\n"
    return head.encode("utf-8", "replace") + content + b"\r\n"


def _chunked(body: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """Body -> its chunks, and whether they are sound."""
    size = chance.choice((1, 7, 1000, 2**20)) if len(body) < 5000 else 2**16
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    whole = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    how = chance.randrange(6)
    if how == 0:
        return whole[:-5], False  # never ends
    if how == 1:
        return b"ffffffffffff\r\n" + whole, False
    if how == 2:
        return mutated_bytes(whole, chance), False
    return whole, True


def problem_with(status: int | None, body: bytes, secrets: tuple[str, ...]) -> str | None:
    """A reply -> what is wrong with it, whatever was asked; None where nothing is.

    status: None where the server closed without a word. secrets: paths that no reply may hold.
    """
    if status is None:
        return None
    if status not in STATUSES:
        return f"status {status}"
    for secret in ("Traceback", *secrets):
        if secret.encode() in body:
            return f"{secret!r} in a reply of status {status}"
    if status >= 400 and body:
        try:
            told = json.loads(body)
        except ValueError:
            return f"status {status} without JSON: {body[:80]!r}"
        if sorted(told) != ["error", "kind"] or not 10 < len(told["error"]) < 1000:
            return f"status {status} with {body[:80]!r}"
    return None

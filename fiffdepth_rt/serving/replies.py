"""Replies and refusals, as values: what travels between a replica and the application, and to a client."""

from __future__ import annotations

import dataclasses
import json

from fiffdepth_rt.errors import (
    DeviceMemoryError,
    HostMemoryError,
    ImageError,
    PhotoFormatError,
    PhotoTooLargeError,
    SizeError,
)

OK = "ok"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What a client gets. kind: OK, or that of a Refusal. headers: names in lower case, ASCII."""

    status: int
    kind: str
    body: bytes
    headers: tuple[tuple[str, str], ...]


class Refusal(Exception):  # noqa: N818 - it is an answer
    """What a client asked for is not done. kind: a word for programs. sentence: for people."""

    def __init__(
        self, status: int, kind: str, sentence: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(sentence)
        self.status, self.kind, self.headers = status, kind, headers

    @property
    def reply(self) -> Reply:
        """As KServe's protocol says an error: {"error": sentence}; and kind."""
        body = json.dumps({"error": str(self), "kind": self.kind}).encode() + b"\n"
        headers = (("content-type", "application/json"), *self.headers)
        return Reply(status=self.status, kind=self.kind, body=body, headers=headers)


def busy(sentence: str, *, retry_after_s: int) -> Refusal:
    """503 with Retry-After."""
    return Refusal(503, "busy", sentence, (("retry-after", str(retry_after_s)),))


BROKEN = Refusal(500, "broken", "The service failed on this request; its log says why.")


def refusal_of(error: Exception) -> Refusal | None:
    """What decoding and computing raise on purpose -> what a client is told; None for a fault of the service.

    Only what is about the photo is repeated: other errors name files of the machine.
    """
    if isinstance(error, PhotoFormatError):
        return Refusal(415, "no_photo", str(error))
    if isinstance(error, PhotoTooLargeError):
        return Refusal(413, "too_many_pixels", str(error))
    if isinstance(error, (ImageError, SizeError)):
        return Refusal(422, "unusable_photo", str(error))
    if isinstance(error, (DeviceMemoryError, HostMemoryError)):
        return busy("There is no memory for this photo at the moment: send it again later.", retry_after_s=10)
    return None

"""How much the service takes, and how long it waits."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one service takes.

    upload_bytes: of a request's body. pixels: of a photo, by its header. json_pixels: of a photo whose depth
        map is wanted as JSON, 20 bytes per pixel.
    waiting: photos that wait for a replica; who comes then gets a 503.
    held_bytes: of all uploads and replies at once; who comes then gets a 503.
    connections: at once, idle ones included.
    patience_s: how long a client may be silent before a request, and the grace it has while it sends or
        reads; slower_bytes_per_s: what it must reach beyond that.
    answer_s: how long a photo may wait and compute. drain_s: how long the end of the service may wait for
        what was accepted.
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    json_pixels: int = 4_000_000
    waiting: int = 16
    held_bytes: int = 2**30
    connections: int = 512
    patience_s: float = 20.0
    slower_bytes_per_s: int = 64 * 2**10
    answer_s: float = 300.0
    drain_s: float = 60.0

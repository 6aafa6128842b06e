"""What Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fiffdepth_rt.serving.replies import Reply

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "fiffdepth_requests",
            "Requests for depth, by status and kind.",
            ("status", "kind"),
            registry=registry,
        )
        self._seconds = Histogram(
            "fiffdepth_request_seconds",
            "From the head of a request to the end of its reply, depth maps only.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.photos = Gauge(
            "fiffdepth_photos", "Photos that wait for a replica or are with one.", registry=registry
        )
        self.held_bytes = Gauge("fiffdepth_held_bytes", "Of uploads and replies.", registry=registry)
        self._lost = Counter(
            "fiffdepth_lost_clients", "Clients that left before they had their reply.", registry=registry
        )

    def answered(self, reply: Reply, seconds: float) -> None:
        """A reply was sent."""
        self._requests.labels(str(reply.status), reply.kind).inc()
        if reply.status == 200:
            self._seconds.observe(seconds)

    def lost(self) -> None:
        """A client left."""
        self._lost.inc()

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return bytes(generate_latest(self._registry))

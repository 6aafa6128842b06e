"""The service without Ray, on a port of its own in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.serving.app import Service, Workers
from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.listening import LOCAL, address_of, listening, serving
from fiffdepth_rt.serving.work import Work


class Running(NamedTuple):
    address: str
    service: Service


@contextlib.contextmanager
def run_service(depth: Depth, limits: Limits, *, workers: Workers | None = None) -> Iterator[Running]:
    service = Service(workers or Work(depth, limits), limits, names=frozenset(LOCAL))
    with listening("127.0.0.1", 0) as listener, serving(service, listener, limits):
        yield Running(address_of(listener, "127.0.0.1"), service)

"""What the machine reaches at best, measured, not looked up: a large matrix product, and a large copy.

By torch, on the device and with the threads of the rows beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.rows.row import Row, Spec, answer

PRECISIONS = ("fp32", "fp16", "bf16")
_MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}  # two arrays of this size are beyond the caches
_CEILING_RUNS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The best of a few runs. flops: FLOP/s by precision (2 per multiply-add); copy: bytes/s, in + out."""

    flops: Mapping[str, float]
    copy: float


def measure(spec: Spec) -> Row:
    """options: side, if given, of `measure_ceiling`."""
    reached = measure_ceiling(spec.device, spec.threads, **spec.options)
    return Row(name=spec.name, kind=spec.kind, size_hw=spec.size_hw, ceiling=dataclasses.asdict(reached))


def measure_ceiling(device: str, threads: int, *, side: int | None = None) -> Ceiling:
    """Large products and a copy on `device` ("cpu", "cuda:1"). side: of the matrices; None: a good one.

    A precision that torch does not multiply in here is left out.
    """
    torch.set_num_threads(threads)
    kind = device.partition(":")[0]
    side = side or _MATMUL_SIDE[kind]
    flops = {}
    for name, dtype in zip(PRECISIONS, (torch.float32, torch.float16, torch.bfloat16), strict=True):
        factor = torch.randn(side, side, device=device).to(dtype)
        with contextlib.suppress(RuntimeError):
            flops[name] = 2 * side**3 / _best_s(lambda m=factor: m @ m, device)
    source = torch.ones(_COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy_s = _best_s(lambda: target.copy_(source), device)
    return Ceiling(flops=flops, copy=2 * source.nbytes / copy_s)


def _best_s(call: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(_CEILING_RUNS):
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronise(device: str) -> None:
    """Wait until torch's work on a GPU is done; a CPU's is when its call returns."""
    if device != "cpu":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    answer(measure)

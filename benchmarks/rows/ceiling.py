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

from benchmarks.rows.row import Budget, Row, Spec, answer, repeated

_MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}  # two arrays of this size are beyond the caches
_CEILING_RUNS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The best of a few runs. flops: FLOP/s by precision (2 per multiply-add); copy: bytes/s, in + out.

    emulated: precisions for which this CPU has no units. Products in them are slower than in fp32, up to some
    hundred times, so they bound nothing.
    """

    flops: Mapping[str, float]
    copy: float
    emulated: tuple[str, ...] = ()


def measure(spec: Spec) -> Row:
    """options: side, if given, of `measure_ceiling`."""
    reached = measure_ceiling(spec.device, spec.threads, budget=Budget(spec.budget_s), **spec.options)
    return Row(name=spec.name, kind=spec.kind, size_hw=spec.size_hw, ceiling=dataclasses.asdict(reached))


def measure_ceiling(device: str, threads: int, *, budget: Budget, side: int | None = None) -> Ceiling:
    """Large products and a copy on `device` ("cpu", "cuda:1"). side: of the matrices; None: a good one.

    A precision that torch does not multiply in here, or only emulates, is left out. Once the budget is spent,
    each product is taken once.
    """
    torch.set_num_threads(threads)
    kind = device.partition(":")[0]
    side = side or _MATMUL_SIDE[kind]

    def flops_of(dtype: torch.dtype, side: int) -> float:
        factor = torch.randn(side, side, device=device).to(dtype)
        return 2 * side**3 / _best_s(lambda: factor @ factor, device, budget)

    flops = {"fp32": flops_of(torch.float32, side)}
    emulated = []
    small = side // 8  # what is only emulated takes a minute for a large one
    small_fp32 = flops_of(torch.float32, small)
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        with contextlib.suppress(RuntimeError):
            # A small product in real units may be a little slower than in fp32, too.
            slow = kind == "cpu" and flops_of(dtype, small) < small_fp32 / 4
            reached = 0.0 if slow else flops_of(dtype, side)
            if kind == "cpu" and reached < flops["fp32"]:
                emulated.append(name)
            else:
                flops[name] = reached
    source = torch.ones(_COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy_s = _best_s(lambda: target.copy_(source), device, budget)
    return Ceiling(flops=flops, copy=2 * source.nbytes / copy_s, emulated=tuple(emulated))


def _best_s(call: Callable[[], Any], device: str, budget: Budget) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        synchronise(device)
        return time.perf_counter() - start

    return min(repeated(once, _CEILING_RUNS, budget))


def synchronise(device: str) -> None:
    """Wait until torch's work on a GPU is done; a CPU's is when its call returns."""
    if device != "cpu":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    answer(measure)

"""A task for many images, here, in several processes, or on a Ray cluster. The results come in order.

A Work (work.py) is sent to each process, which opens it once and calls it for one image after another.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from typing import Any, TypeVar

from tqdm import tqdm

from benchmarks.evaluation.work import Work

T = TypeVar("T")


def run(work: Work[T], count: int, *, label: str, processes: int = 1, ray: str | None = None) -> list[T]:
    """Results of the images 0 … count − 1, in order, with progress.

    ray: a cluster's address, instead of processes here. Raises what the work raises, from whichever process;
    on a cluster a DataError that says it.
    """
    if ray is not None:
        from benchmarks.evaluation.on_ray import run_on_cluster  # takes seconds to import

        return run_on_cluster(work, count, label=label, address=ray)
    with tqdm(total=count, desc=label, unit="image", smoothing=0.05) as progress:
        if processes == 1 or count == 1:
            call, results = work.open(), []
            for index in range(count):
                results.append(call(index))
                progress.update()
            return results
        # spawn: a fork would copy the threads' locks of an engine that is open already.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            min(processes, count), mp_context=context, initializer=_open, initargs=(work,)
        ) as pool:
            futures = {pool.submit(_call, index): index for index in range(count)}
            found: dict[int, T] = {}
            try:
                for future in concurrent.futures.as_completed(futures):
                    found[futures[future]] = future.result()
                    progress.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [found[index] for index in range(count)]


_opened: Callable[[int], Any] | None = None


def _open(work: Work[Any]) -> None:
    global _opened
    _opened = work.open()


def _call(index: int) -> Any:
    assert _opened is not None
    return _opened(index)

"""Items -> results, overlapped: while one item is computed, the next is read and the one before is written.

For items that have nothing in common, such as photos of different sizes; frames of one size go through
`Depth.stream`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def overlapped(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Item, Computed], Written],
) -> Generator[tuple[Item, Future[Written]], None, None]:
    """Items -> each with its outcome, in their order.

    An outcome holds what `write` returned, or the Exception that ended this item in one of its three steps;
    the other items go on.

    `read` runs in a thread of its own, `compute` in the caller's, `write` in a third, each for one item at a
    time. Not more than two values of `read` and two of `compute` are held. However the loop is left (Ctrl-C
    too), a `write` that has begun ends well.
    """
    with (
        ThreadPoolExecutor(1, "fiffdepth-read") as reader,
        ThreadPoolExecutor(1, "fiffdepth-write") as writer,
    ):
        under_way: deque[tuple[Item, Future[Written]]] = deque()
        for item, reading in _one_ahead(items, read, reader):
            under_way.append((item, _compute_and_write(item, reading, compute, write, writer)))
            if len(under_way) > 1:
                yield _ended(under_way.popleft())
        while under_way:
            yield _ended(under_way.popleft())


def _one_ahead(
    items: Iterable[Item], read: Callable[[Item], Read], reader: ThreadPoolExecutor
) -> Iterator[tuple[Item, Future[Read]]]:
    """Each item with what is read of it. When an item is given, reading the next one has begun."""
    before: tuple[Item, Future[Read]] | None = None
    for item in items:
        reading = item, reader.submit(read, item)
        if before is not None:
            yield before
        before = reading
    if before is not None:
        yield before


def _compute_and_write(
    item: Item,
    reading: Future[Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Item, Computed], Written],
    writer: ThreadPoolExecutor,
) -> Future[Written]:
    try:
        computed = compute(reading.result())
    except Exception as error:
        failed: Future[Written] = Future()
        failed.set_exception(error)
        return failed
    return writer.submit(write, item, computed)


def _ended(item: tuple[Item, Future[Written]]) -> tuple[Item, Future[Written]]:
    wait([item[1]])
    return item

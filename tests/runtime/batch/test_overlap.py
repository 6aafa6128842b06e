"""Promises about `overlapped`: three steps at once, results in order, an error ends one item alone."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import closing

import pytest

from fiffdepth_rt.batch.overlap import overlapped

PATIENCE_S = 20  # of a test that would otherwise hang


class Step:
    """Something that happens to numbered items; another thread may wait for it."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self._changed = threading.Condition()

    def happen(self, item: int) -> int:
        with self._changed:
            self.order.append(item)
            self._changed.notify_all()
        return item

    def wait_for(self, item: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: item in self.order, PATIENCE_S), f"{item} never happened"


def test_while_an_item_is_computed_the_next_is_read_and_the_one_before_is_written() -> None:
    reading, writing, written = Step(), Step(), Step()

    def compute(item: int) -> int:
        if item < 4:
            reading.wait_for(item + 1)
        if item > 0:
            writing.wait_for(item - 1)
        return 10 * item

    def write(item: int, computed: int) -> int:
        writing.happen(item)
        written.happen(item)
        return computed

    outcomes = overlapped(range(5), read=reading.happen, compute=compute, write=write)
    assert [(item, outcome.result()) for item, outcome in outcomes] == [(k, 10 * k) for k in range(5)]
    assert reading.order == written.order == [0, 1, 2, 3, 4]


def test_what_goes_wrong_ends_its_item_alone_and_is_told_in_order() -> None:
    def at(bad: int, step: str, item: int) -> int:
        if item == bad:
            raise ValueError(f"{step} {item}")
        return item

    told = []
    for item, outcome in overlapped(
        range(6),
        read=lambda item: at(0, "read", item),
        compute=lambda item: at(2, "compute", item),
        write=lambda item, _: at(4, "write", item),
    ):
        error = outcome.exception()
        told.append((item, str(error) if error else outcome.result()))
    assert told == [(0, "read 0"), (1, 1), (2, "compute 2"), (3, 3), (4, "write 4"), (5, 5)]


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(overlapped([], read=int, compute=int, write=lambda item, _: item)) == []


class Load:
    """A value that is large in earnest; weakrefs count how many of them are alive."""


def test_however_many_items_there_are_few_values_are_held() -> None:
    alive: dict[str, weakref.WeakSet[Load]] = {"read": weakref.WeakSet(), "computed": weakref.WeakSet()}
    most = {"read": 0, "computed": 0}

    def made(kind: str) -> Load:
        load = Load()
        alive[kind].add(load)
        gc.collect()
        most[kind] = max(most[kind], len(alive[kind]))
        return load

    gc.freeze()  # what other tests left is not looked through 80 times
    try:
        outcomes = overlapped(
            range(40),
            read=lambda _: made("read"),
            compute=lambda _: made("computed"),
            write=lambda item, _: item,
        )
        assert [outcome.result() for _, outcome in outcomes] == list(range(40))
    finally:
        gc.unfreeze()
    assert most["read"] <= 3 and most["computed"] <= 3  # two, and one that is just handed over


def test_a_write_that_has_begun_ends_well_when_the_loop_is_interrupted() -> None:
    begun, interrupted, written = threading.Event(), threading.Event(), Step()

    def compute(item: int) -> int:
        if item == 1:
            assert begun.wait(PATIENCE_S)
            interrupted.set()
            raise KeyboardInterrupt
        return item

    def write(item: int, _: int) -> None:
        begun.set()
        assert interrupted.wait(PATIENCE_S)
        written.happen(item)

    with (
        pytest.raises(KeyboardInterrupt),
        closing(overlapped(range(9), read=lambda item: item, compute=compute, write=write)) as outcomes,
    ):
        list(outcomes)
    assert written.order == [0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fiffdepth-")]

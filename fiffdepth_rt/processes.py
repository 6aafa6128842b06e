"""Forks, and the end of the interpreter: whatever runs in threads hears of both in time. And the environment.

A forked child has the memory of its parent, and one thread: those of engines and streams are missing, and
locks that they held stay locked. What the parent opened can neither run well there nor be freed, for an
engine would wait for its threads for ever.

At its end, Python stops the threads that still run (daemons) when they come back from native code, which
C++ answers by aborting the process. So a stream ends before, and a call ends before.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol

CUDA_IN_CHILD = (
    "This engine was opened before this process was forked, and CUDA works in no forked child. Start "
    "processes by spawn (multiprocessing.get_context('spawn')), and open a Depth in each."
)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """With these variables in the environment, for libraries that take settings from there alone; afterwards
    it is what it was before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Forks(Protocol):
    """What holds threads or locks."""

    def after_fork(self) -> None:
        """In the child: forget what is the parent's, and wait for nothing."""


class Ends(Protocol):
    """What has threads that Python does not wait for."""

    def at_exit(self) -> None:
        """In the main thread, while the interpreter is still whole: see that none is in native code."""


def tell_of_fork(one: Forks) -> None:
    """Calls `after_fork` for as long as it lives."""
    _forks.add(one)
    _listen()


def tell_of_exit(one: Ends) -> None:
    """Calls `at_exit`, if it still lives then."""
    _ends.add(one)
    _listen()


def keep_forever(parents: object) -> None:
    """What the parent opened is not freed in the child, not even when the child ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(parents))


class Calls:
    """`with calls:` around native work, one call at a time in a thread; they do not nest.

    A fork waits for the calls of other threads and holds new ones back, since an engine that is forked in the
    middle of its work leaves locks behind that nobody will open.

    When the program ends, it waits for the calls that run. A thread that begins one later waits for the end,
    as every daemon thread does then; the main thread, in which functions of `atexit` run, does not wait.
    """

    def __init__(self) -> None:
        self.after_fork()

    def __enter__(self) -> None:
        tell_of_fork(self)
        tell_of_exit(self)
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            if self._over and threading.current_thread() is not threading.main_thread():
                self._changed.wait_for(lambda: False)
            self._threads.add(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._threads.discard(threading.get_ident())
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Returns when no other thread is in a call; none begins until the fork is over."""
        with self._changed:
            self._forking += 1
            self._wait_for_others()

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def after_fork(self) -> None:
        self._changed = threading.Condition()
        self._threads: set[int] = set()  # that are in a call
        self._forking, self._over = 0, False

    def at_exit(self) -> None:
        with self._changed:
            self._over = True
            self._wait_for_others()

    def _wait_for_others(self) -> None:
        """Not for this thread's own call: a handler of a signal may fork, or exit, in the middle of one."""
        self._changed.wait_for(lambda: not self._threads - {threading.get_ident()})


_forks: weakref.WeakSet[Forks] = weakref.WeakSet()
_ends: weakref.WeakSet[Ends] = weakref.WeakSet()


_held: list[Calls] = []
"""Whose `before_fork` was called, for the fork that is under way."""


@functools.cache
def _listen() -> None:
    """Once for the process, and not before something is opened: importing changes nothing."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork
        )
    atexit.register(_at_exit)


def _before_fork() -> None:
    for one in list(_forks):
        if isinstance(one, Calls):
            _held.append(one)
            one.before_fork()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().after_fork_in_parent()


def _after_fork() -> None:
    _held.clear()
    for one in list(_forks):
        one.after_fork()


def _at_exit() -> None:
    """Streams first: their threads are in calls."""
    for one in sorted(list(_ends), key=lambda one: isinstance(one, Calls)):
        one.at_exit()

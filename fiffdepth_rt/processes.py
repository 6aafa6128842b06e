"""Forks, and the end of the interpreter: whatever runs in threads hears of both in time.

A forked child has the memory of its parent, and one thread: those of engines and streams are missing, and
locks that they held stay locked. What the parent opened can neither run well there nor be freed, for an
engine would wait for its threads for ever.

At its end, Python stops the threads that still run (daemons) when they come back from native code, which
C++ answers by aborting the process. So a stream ends before, and a call ends before.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import threading
import weakref
from typing import Protocol

CUDA_IN_CHILD = (
    "This engine was opened before this process was forked, and CUDA works in no forked child. Start "
    "processes by spawn (multiprocessing.get_context('spawn')), and open a Depth in each."
)


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
    """`with calls:` around native work that threads of the caller's may do.

    When the program ends, it waits for the calls that run. A thread that begins one later waits for the end,
    as every daemon thread does then; the main thread, in which functions of `atexit` run, does not wait.
    """

    def __init__(self) -> None:
        self.after_fork()

    def __enter__(self) -> None:
        tell_of_fork(self)
        tell_of_exit(self)
        with self._idle:
            if self._over and threading.current_thread() is not threading.main_thread():
                self._idle.wait_for(lambda: False)
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._idle:
            self._running -= 1
            self._idle.notify_all()

    def after_fork(self) -> None:
        self._idle, self._running, self._over = threading.Condition(), 0, False

    def at_exit(self) -> None:
        with self._idle:
            self._over = True
            self._idle.wait_for(lambda: self._running == 0)


_forks: weakref.WeakSet[Forks] = weakref.WeakSet()
_ends: weakref.WeakSet[Ends] = weakref.WeakSet()


@functools.cache
def _listen() -> None:
    """Once for the process, and not before something is opened: importing changes nothing."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    atexit.register(_at_exit)


def _after_fork() -> None:
    for one in list(_forks):
        one.after_fork()


def _at_exit() -> None:
    for one in list(_ends):
        one.at_exit()

"""A program with every fault: what the fuzzer has to see. Each case is one of OUTCOMES, by its seed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from fiffdepth_rt.errors import ImageError
from tests.fuzz.trial import CRASH, HANG, LONG, OUTCOMES, OUTSIDE, TRACEBACK, TYPED, Kind, Outside


class Fuzzed(Kind):
    seconds = 0.5

    def __init__(self, folder: Path) -> None:
        self._secret = folder.parent.parent / "outside" / Outside.SECRET

    def attempt(self, chance: random.Random) -> None:
        outcome = outcome_of(chance)
        if outcome == TYPED:
            raise ImageError("no photo")
        if outcome == TRACEBACK:
            raise KeyError("x")
        if outcome == LONG:
            raise ImageError("x" * 10_000)
        if outcome == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        if outcome == HANG and chance.random() < 0.5:
            while True:  # in Python: left by the process itself
                pass
        if outcome == HANG:
            # As native code, which is the parent's to end.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGPROF})
            time.sleep(1000)
        if outcome == OUTSIDE:
            self._secret.read_bytes()


def outcome_of(chance: random.Random) -> str:
    return chance.choice(OUTCOMES)

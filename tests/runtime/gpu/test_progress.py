"""Promises of how far a build is said to be."""

from __future__ import annotations

from fiffdepth_rt.backends.tensorrt.progress import Phases


def test_progress_never_falls_and_ends_at_one() -> None:
    phases, seen = Phases(), []
    phases.start("Building Engine", None, 2)
    phases.start("Tactics", "Building Engine", 4)
    seen += [phases.step("Tactics", step) for step in range(4)]
    phases.finish("Tactics")
    seen.append(phases.step("Building Engine", 0))
    phases.start("Weights", "Building Engine", 1)
    seen.append(phases.step("Weights", 0))
    phases.finish("Weights")
    seen.append(phases.step("Building Engine", 1))
    assert seen == [("Building Engine", x) for x in (0.125, 0.25, 0.375, 0.5, 0.5, 1.0, 1.0)]


def test_a_phase_that_nobody_started_is_no_error() -> None:
    assert Phases().step("unheard of", 3) == ("unheard of", 0.0)

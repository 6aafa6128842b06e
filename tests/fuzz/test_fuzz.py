"""Hostile input of six kinds ends in what is right or in one of our errors; nothing outside is read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import faults
from tests.fuzz.trial import (
    CRASH,
    HANG,
    KINDS,
    OUTCOMES,
    OUTSIDE,
    RIGHT,
    TYPED,
    Tally,
    run_here,
    run_in_children,
)

OURS = frozenset(KINDS) - {"graphs"}


def report(kind: str, tally: Tally, cases: int) -> str:
    said = tally.table(kind)
    print(said)
    assert tally.counts.total() == cases
    return said


@pytest.mark.parametrize("kind", sorted(OURS))
def test_a_hundred_files_of_a_stranger_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    tally = run_here(kind, range(100), tmp_path / "cases")
    assert not tally.findings, report(kind, tally, 100)
    assert tally.counts[TYPED] > 30 and tally.counts[RIGHT] > 0, report(kind, tally, 100)


def test_a_hundred_graphs_of_a_stranger_are_run_or_refused(tmp_path: Path) -> None:
    """In a process of their own, since engines are native code."""
    tally = run_in_children("graphs", range(100), tmp_path / "cases")
    assert not tally.findings, report("graphs", tally, 100)
    assert tally.counts[TYPED] > 30 and tally.counts[RIGHT] > 0, report("graphs", tally, 100)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_files_of_a_stranger_are_read_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Of graphs, what the checks let through may end an engine (docs/deploy.md): rarely, and nothing else."""
    tally = run_in_children(kind, range(1000, 11_000), tmp_path / "cases")
    with capsys.disabled():
        said = report(kind, tally, 10_000)
    assert tally.counts[OUTSIDE] == 0, said
    engines = [finding for finding in tally.findings if finding.outcome in (CRASH, HANG)]
    assert len(tally.findings) == (len(engines) if kind == "graphs" else 0), said
    assert len(engines) <= 50, said


# --- the fuzzer itself ---


@pytest.mark.soak
def test_the_fuzzer_sees_every_kind_of_finding(tmp_path: Path) -> None:
    """A program with every fault: what is counted is what each case was made to do."""
    seeds = range(20)
    expected = [faults.outcome_of(random.Random(f"faults {seed}")) for seed in seeds]
    assert set(expected) == set(OUTCOMES)
    tally = run_in_children("faults", seeds, tmp_path / "cases")
    found = {finding.seed: finding.outcome for finding in tally.findings}
    assert found == {s: e for s, e in zip(seeds, expected, strict=True) if e not in (RIGHT, TYPED)}
    assert tally.counts == {outcome: expected.count(outcome) for outcome in OUTCOMES}

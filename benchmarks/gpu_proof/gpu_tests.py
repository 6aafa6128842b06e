"""Step: `pytest -m gpu`, of the files that hold such tests, so that no other folder's needs are imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_proof.process import Check, Findings, Task, answer
from benchmarks.report import table
from benchmarks.rows.worker import ROOT, without_places

NAME = "pytest -m gpu"
NOTHING_COLLECTED = 5  # pytest's exit status


def prove(task: Task) -> Iterator[Findings]:
    if importlib.util.find_spec("pytest") is None:
        yield Findings().and_check(NAME, None, "pytest is not installed")
        return
    results = task.folder / "gpu-tests.xml"
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={results}"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files_of_gpu_tests())]
    code = subprocess.run(command, cwd=ROOT).returncode
    yield (
        judge(results.read_text(), code)
        if results.exists()
        else Findings().and_check(NAME, False, f"pytest ended with exit status {code} before it ran a test")
    )


def files_of_gpu_tests() -> list[Path]:
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path.relative_to(ROOT) for path in tests if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def judge(junit_xml: str, code: int) -> Findings:
    """What pytest wrote, and its exit status -> one check, and a table of what did not pass."""
    cases = list(ElementTree.fromstring(junit_xml).iter("testcase"))
    ends = [_end_of(case) for case in cases]
    count = Counter(end for end, _ in ends)
    words = ", ".join(f"{count[end]} {end}" for end in ("passed", "failed", "skipped") if count[end])
    reasons = sorted({why for end, why in ends if end == "skipped"})
    if count["failed"] or code not in (0, NOTHING_COLLECTED):
        passed: bool | None = False
    else:
        passed = True if count["passed"] else None
    others = [
        (f"{case.get('classname')}.{case.get('name')}", end, why)
        for case, (end, why) in zip(cases, ends, strict=True)
        if end != "passed"
    ]
    check = Check(name=NAME, passed=passed, words="; ".join([words, *(reasons if passed is None else [])]))
    return Findings(checks=(check,), text="" if passed is None else _table(others))


def _end_of(case: ElementTree.Element) -> tuple[str, str]:
    """(how a test ended, the first line of why)."""
    for tag, end in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            return end, without_places((found.get("message") or "").partition("\n")[0])
    return "passed", ""


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    cells = [(name, end, why.replace("|", "\\|")) for name, end, why in rows]
    return table(["test", "", "why"], cells, align="lll") if cells else ""


if __name__ == "__main__":
    answer(prove)

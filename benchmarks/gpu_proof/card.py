"""Step: the card, its driver, and the libraries that could use it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from benchmarks.gpu_proof.process import Findings, Task, answer
from fiffdepth_rt.backends.select import ENGINES
from fiffdepth_rt.machine import nvidia_driver

MODULES = ("torch", "diffusers", "transformers", "onnx", "polygraphy", "pytest", "matplotlib")


def prove(task: Task) -> Iterator[Findings]:
    driver = nvidia_driver()
    findings = Findings().and_check(
        "an NVIDIA driver answers",
        True if driver.gpus else None,
        "; ".join(driver.describe()) or driver.failure or "there is no NVIDIA driver here",
    )
    yield findings
    for engine in ENGINES:
        usability = engine.usable()
        words = usability.why + ("" if usability.usable else f". Run: {usability.fix}")
        findings = findings.and_check(f"{engine.name} works", True if usability.usable else None, words)
        yield findings
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    yield findings.and_check(
        "what the later steps import is here",
        None if missing else True,
        f"{', '.join(missing)}: not installed; what needs them is left out" if missing else "",
    )


if __name__ == "__main__":
    answer(prove)

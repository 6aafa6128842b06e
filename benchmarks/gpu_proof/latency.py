"""Step: the latency table at one size: ours, the paper's own way in torch, the peer to beat."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu_proof.full_size import engine_dir
from benchmarks.gpu_proof.process import Findings, Task, answer
from benchmarks.gpu_proof.speed import measure, settings_for, work_of
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME


def prove(task: Task) -> Iterator[Findings]:
    directory = engine_dir(task)
    if not (directory / MANIFEST_NAME).exists():
        yield Findings().and_check("ours was timed", None, "there is no engine directory: see full-size")
        return
    yield from measure(task, work_of(task, settings_for(task, [directory], torch=True, growth=False)))


if __name__ == "__main__":
    answer(prove)

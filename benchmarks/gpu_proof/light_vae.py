"""Step: the same checkpoint with a light VAE of random weights: exported, built, checked, and timed.

The second of two --engine is taken in its place.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.gpu_proof.full_size import export, make_random, missing_for_export, prove_engines
from benchmarks.gpu_proof.process import Findings, Task, answer
from benchmarks.gpu_proof.speed import measure, settings_for, work_of
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME


def prove(task: Task) -> Iterator[Findings]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directory = task.folder / "engines" / "light"
    findings = Findings()
    if len(task.engines) > 1:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(task.engines[1], directory)
    elif task.engines:
        yield findings.and_check(
            "exported", None, "one --engine was given, and no second one, with a light VAE"
        )
        return
    elif not (directory / MANIFEST_NAME).exists():
        if missing := missing_for_export():
            yield findings.and_check("exported", None, missing)
            return
        yield (findings := export(task, directory, findings, light=light_vae(task)))
        if findings.checks[-1].passed is False:
            return
    for proved in prove_engines(task, directory, findings):
        yield (findings := proved)
    work = work_of(task, settings_for(task, [directory], torch=False, growth=False))
    for rows in measure(task, [(part, spec) for part, spec in work if part != "ceiling"]):
        yield msgspec.structs.replace(rows, checks=(*findings.checks, *rows.checks), text=findings.text)


def light_vae(task: Task) -> Path:
    """A light VAE with random weights, made if it is not there."""
    path = task.folder / "light-random"
    if not path.exists():
        make_random(path, "--layout", "light", "--width", "0.1" if task.rehearse else "1", "--dtype", "fp16")
    return path


if __name__ == "__main__":
    answer(prove)

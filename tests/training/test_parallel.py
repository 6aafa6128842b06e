"""Promises of training in several processes: the same as one, and no process is left behind by an error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import ROOT
from training import loop, parallel
from training.errors import TrainingError

SCHEDULE = loop.Schedule(steps=12, lr=0.05, warmup=2, save_every=4)


def _loss_of_part(module: torch.nn.Module, part: int) -> torch.Tensor:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(part))
    return (module(x) - x.sum(1, keepdim=True)).square().mean()


def _line() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def _in_parts(place: Path) -> None:
    """Each process takes its part of every batch."""
    module = _line()
    loop.fit(
        module,
        lambda step: _loss_of_part(module, parallel.draw(step)),
        SCHEDULE,
        place,
        validate=lambda _: {"from": parallel.rank()},
    )
    load_file(place / loop.WEIGHTS)  # there for every process, whichever wrote it


def _fails_in_process_1(place: Path) -> None:
    module = _line()

    def loss_at(step: int) -> torch.Tensor:
        bad = step == 5 and parallel.rank() == 1
        return _loss_of_part(module, step) * (float("nan") if bad else 1)

    loop.fit(module, loss_at, SCHEDULE, place, validate=lambda _: {})


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    parallel.run(2, _in_parts, tmp_path / "two")
    module = _line()

    def whole(step: int) -> torch.Tensor:
        return (_loss_of_part(module, 2 * step) + _loss_of_part(module, 2 * step + 1)) / 2

    loop.fit(module, whole, SCHEDULE, tmp_path / "one", validate=lambda _: {})
    one, two = (load_file(tmp_path / name / loop.WEIGHTS) for name in ("one", "two"))
    assert not torch.equal(one["weight"], _line().state_dict()["weight"])
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-6)
    log = (tmp_path / "two" / "log.jsonl").read_text().splitlines()
    assert len(log) == 3 and all('"from": 0' in line for line in log)


def test_alone_a_process_draws_its_batches_in_order_and_nothing_is_set_up(tmp_path: Path) -> None:
    assert [parallel.draw(step) for step in range(3)] == [0, 1, 2]
    parallel.run(1, _in_parts, tmp_path / "run")
    assert not torch.distributed.is_initialized()
    assert (tmp_path / "run" / loop.WEIGHTS).exists()


@pytest.mark.soak
def test_one_process_s_error_ends_all_of_them_and_keeps_the_last_state(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^Loss is nan at step 5; the last good state is"):
        parallel.run(2, _fails_in_process_1, tmp_path)
    assert torch.load(tmp_path / loop.STATE, weights_only=True)["step"] == 4
    assert not multiprocessing.active_children()


ENDLESS = """
import os, sys, time
from pathlib import Path
from training import parallel

def stage(folder):
    (folder / f"{parallel.rank()}.{os.getpid()}").touch()
    time.sleep(600)

if __name__ == "__main__":
    parallel.run(2, stage, Path(sys.argv[1]))
"""


@pytest.mark.soak
def test_workers_end_with_a_killed_parent_that_a_shell_had_put_in_the_background(tmp_path: Path) -> None:
    script, folder = tmp_path / "endless.py", tmp_path / "ids"
    script.write_text(ENDLESS)
    folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell does for `command &`
        stderr=subprocess.DEVNULL,
    )
    _wait_until(lambda: len(list(folder.iterdir())) == 2)
    workers = [int(path.suffix[1:]) for path in folder.iterdir()]
    parent.kill()
    parent.wait()
    _wait_until(lambda: not any(_alive(pid) for pid in workers))


def test_a_worker_whose_parent_went_before_it_could_hear_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that is killed while its workers still import was not missed, and they trained on."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    parallel._worker(
        0, os.getppid() + 1, 1, f"file://{tmp_path / 'rendezvous'}", _in_parts, (tmp_path / "run",)
    )
    assert list(tmp_path.iterdir()) == []


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)

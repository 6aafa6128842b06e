"""The real training command, killed for real, again and again: it ends where an uninterrupted one ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import ROOT
from tests.support.tiny_models import tiny_prior

KILL_AFTER_S = (4, 7, 11, 16, 22, 30)


def _command(run: Path) -> list[str]:
    words = ["all", "--tiny", "--run", str(run), "--prior", str(run.parent / "teacher.safetensors")]
    return [sys.executable, "-m", "training.nano", *words]


@pytest.mark.soak
def test_a_training_killed_six_times_gives_the_checkpoint_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tiny_prior(tmp_path)
    subprocess.run(_command(whole), cwd=ROOT, check=True, capture_output=True)
    kills = 0
    for seconds in KILL_AFTER_S:
        process = subprocess.Popen(
            _command(broken),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert not (broken / "nano.safetensors").exists()
    subprocess.run(_command(broken), cwd=ROOT, check=True, capture_output=True)
    assert kills >= 2
    a, b = (load_file(run / "nano.safetensors") for run in (whole, broken))
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
    scenes = [np.load(run / "scenes" / "00000" / "photos.npy") for run in (whole, broken)]
    assert np.array_equal(*scenes)

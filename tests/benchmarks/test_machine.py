"""Promises about benchmarks/machine.py and rows/ceiling.py: what is read off a machine, and its best."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import machine
from tests.support.nvml_stand_in import Gpu, Nvml, install
from tests.support.paths import ROOT

CPUINFO = """processor\t: 0
model name\t: Some CPU
flags\t\t: fpu sse2 avx2 avx512f amx_bf16 amx_int8 avx512_bf16
vmx flags\t: vnmi

processor\t: 1
flags\t\t: fpu sse2 avx2 avx512f amx_bf16 avx512_bf16
"""


def test_only_instructions_that_every_core_has_are_listed_slowest_first() -> None:
    assert machine.instruction_sets(CPUINFO) == ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]


def test_an_arm_core_says_its_features_by_another_name() -> None:
    assert machine.instruction_sets("Features\t: fp asimd asimdhp bf16 sve\n") == [
        "asimd",
        "asimdhp",
        "bf16",
        "sve",
    ]


def test_a_system_without_proc_lists_nothing() -> None:
    assert machine.instruction_sets("") == []


def test_the_card_tells_processor_instructions_libraries_and_no_places() -> None:
    card = machine.card("cpu", threads=3)
    assert {"CPU", "cores", "memory", "GPU", "system", "software", "instructions", "threads"} == set(card)
    assert card["threads"] == "3 in every row on the CPU"
    assert "torch " in card["software"] and "python " in card["software"]
    assert str(Path.home()) + "/" not in str(card)


def test_high_water_is_the_kernel_s_in_mib() -> None:
    assert machine.high_water_mib("Name:\tx\nVmPeak:\t 9000 kB\nVmHWM:\t    2048 kB\n") == 2.0
    assert machine.high_water_mib("Name:\tx\n") is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells VmHWM")
def test_the_peak_of_a_process_is_not_that_of_the_one_which_started_it() -> None:
    ballast = bytearray(os.urandom(1) * (300 * 2**20))
    code = "from benchmarks.machine import peak_host_mib; print(peak_host_mib())"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = machine.peak_host_mib()
    assert ours is not None
    assert 0 < float(answer.stdout) < 300 <= ours
    del ballast


def test_the_peak_of_gpu_memory_is_the_most_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = machine.DevicePeak()
    for held, expected in ((40, 40.0), (500, 500.0), (3, 500.0)):
        install(monkeypatch, Nvml(Gpu(name="NVIDIA L4", held={101: held * 2**20})))
        peak.look(101)
        assert peak.mib == expected


def test_a_process_that_holds_no_gpu_memory_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Nvml(Gpu(name="NVIDIA L4", held={101: 2**20})))
    peak = machine.DevicePeak()
    peak.look(7)
    assert peak.mib is None

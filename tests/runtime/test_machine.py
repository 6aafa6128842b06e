"""Promises about machine.py: what a machine is said to be, and that what it lacks is never an exception.

pynvml is the real one; where a test needs GPUs, the driver's library is a stand-in (nvml_stand_in.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fiffdepth_rt import machine
from fiffdepth_rt.machine import (
    MIB,
    UNLIMITED,
    GpuMemory,
    NvidiaDriver,
    NvidiaGpu,
    default_threads,
    gpu_memory,
    gpu_memory_of,
    installed,
    machine_card,
    nvidia_driver,
    quota_cpus,
)
from tests.support.nvml_stand_in import DRIVER_NOT_LOADED, NOT_AVAILABLE, UNKNOWN, Gpu, Nvml, install
from tests.support.paths import ROOT

L4 = Gpu(name="NVIDIA L4", total=23034 * MIB, free=5000 * MIB)
ORIN = Gpu(name="Orin", total=None)  # its memory is the host's, and NVML does not say how much


def test_without_a_driver_there_are_no_gpus_and_nothing_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    assert nvidia_driver() == NvidiaDriver(version=None, gpus=(), failure="", fix="")
    assert gpu_memory(0) is None and gpu_memory_of(os.getpid()) is None


def test_the_gpus_and_the_driver_are_named_in_the_drivers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml(L4, ORIN, driver="550.54.15")
    install(monkeypatch, library)
    found = nvidia_driver()
    assert found.version == "550.54.15" and found.failure == ""
    assert found.gpus == (
        NvidiaGpu(name="NVIDIA L4", total_bytes=23034 * MIB),
        NvidiaGpu(name="Orin", total_bytes=None),
    )
    assert found.describe() == ("NVIDIA L4, 550.54.15, 23034 MiB", "Orin, 550.54.15, unknown memory")
    assert library.open == 0  # NVML is closed as often as it was opened


@pytest.mark.parametrize(
    ("says", "words"), [(DRIVER_NOT_LOADED, "Driver Not Loaded"), (UNKNOWN, "Unknown Error")]
)
def test_a_driver_that_fails_is_a_value_with_its_reason_and_its_mend(
    monkeypatch: pytest.MonkeyPatch, says: int, words: str
) -> None:
    install(monkeypatch, Nvml(L4, says=says))
    found = nvidia_driver()
    assert found.failure == f"the NVIDIA driver is here but fails: {words}"
    assert "nvidia-smi" in found.fix and found.gpus == () and found.version is None
    assert gpu_memory(0) is None and gpu_memory_of(1) is None


def test_a_library_that_lacks_a_function_is_a_value_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(Nvml):
        nvmlDeviceGetCount_v2 = property()  # noqa: N815 -- the name is NVML's; reading it is an AttributeError

    install(monkeypatch, Old(L4))  # type: ignore[arg-type]
    assert nvidia_driver().failure == "the NVIDIA driver is here but fails: Function Not Found"


def test_without_pynvml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = nvidia_driver()
    assert found.failure.startswith("nvidia-ml-py cannot be imported") and "nvidia-ml-py" in found.fix
    assert gpu_memory(0) is None and gpu_memory_of(1) is None


def test_the_memory_of_a_gpu_is_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Nvml(L4, ORIN))
    assert gpu_memory(0) == GpuMemory(free_bytes=5000 * MIB, total_bytes=23034 * MIB)
    assert gpu_memory(1) is None  # it does not say
    assert gpu_memory(2) is None  # it is not there


def test_gpu_memory_of_a_process_is_summed_over_gpus_and_other_processes_are_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Gpu(name="A", held={101: 500 * MIB, 102: 40 * MIB})
    install(monkeypatch, Nvml(first, Gpu(name="B", held={101: 24 * MIB}), Gpu(name="C")))
    assert gpu_memory_of(101) == 524 * MIB
    assert gpu_memory_of(7) is None


def test_gpu_memory_that_a_container_hides_is_unknown_rather_than_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Nvml(Gpu(name="A", held={101: NOT_AVAILABLE})))
    assert gpu_memory_of(101) is None


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (None, "none"),
        (Nvml(), "none"),
        (Nvml(L4, L4), "NVIDIA L4, 550.54.15, 23034 MiB; NVIDIA L4, 550.54.15, 23034 MiB"),
        (Nvml(says=UNKNOWN), "unknown: the NVIDIA driver is here but fails: Unknown Error"),
    ],
    ids=["no driver", "no GPU", "two GPUs", "a driver that fails"],
)
def test_the_card_names_the_gpus(monkeypatch: pytest.MonkeyPatch, library: Nvml | None, words: str) -> None:
    install(monkeypatch, library)
    assert machine_card({})["GPU"] == words


def test_the_card_tells_processor_memory_system_and_software_and_no_places() -> None:
    card = machine_card({"numpy": "2.0", "onnxruntime": "1.24"})
    assert list(card) == ["CPU", "cores", "memory", "GPU", "system", "software"]
    assert card["software"] == "numpy 2.0, onnxruntime 1.24"
    assert card["cores"].endswith(f"of {os.cpu_count()}")
    assert str(Path.home()) + "/" not in str(card)


def test_the_threads_are_no_more_than_the_cpus_that_may_be_used() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "cpus"),
    [
        ([V2], "0::/", {"cpu.max": "max 100000"}, None),
        ([V2], "0::/", {"cpu.max": "50000 100000"}, 1),
        ([V2], "0::/", {"cpu.max": "250000 100000"}, 3),
        ([V2], "0::/system.slice/robot.service", {"system.slice/robot.service/cpu.max": "100000 100000"}, 1),
        (
            [V2],
            "0::/a.slice/b.service",
            {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "200000 100000"},
            2,
        ),
        ([V2], "0::/../../elsewhere", {"cpu.max": "100000 100000"}, 1),
        ([V2], "0::/gone", {}, None),
        ([V2], "0::/", {"cpu.max": "broken"}, None),
        (
            [V1_MEMORY, V1.format("/")],
            "5:memory:/x\n4:cpu,cpuacct:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
            2,
        ),
        (
            [V1.format("/docker/7f")],
            "4:cpu,cpuacct:/docker/7f",
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            1,
        ),
        (
            [V1.format("/")],
            "4:cpu,cpuacct:/a/b",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        (
            [V1.format("/")],
            "4:cpu,cpuacct:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            None,
        ),
    ],
    ids=[
        "v2, no limit",
        "v2, half a CPU",
        "v2, rounded up",
        "a systemd service with CPUQuota=100%",
        "the slice around a service",
        "a container that sees a part of the tree",
        "a group that is not mounted",
        "a file that cannot be read",
        "v1",
        "v1 in a container",
        "v1, the group around",
        "v1, no limit",
    ],
)
def test_a_quota_of_cpu_time_bounds_the_threads(
    tmp_path: Path, mounts: list[str], groups: str, files: dict[str, str], cpus: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *mounts]))
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert quota_cpus(tmp_path) == (cpus or UNLIMITED)


def test_the_default_threads_keep_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "_siblings", str)
    for granted, threads in ((1, 1), (5, 5), (UNLIMITED, 16)):
        monkeypatch.setattr(machine, "quota_cpus", lambda cpus=granted: cpus)
        assert default_threads() == threads


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota_cpus(tmp_path) == UNLIMITED


def test_distributions_that_are_not_installed_or_damaged_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, metadata in (
        ("whole", b"Metadata-Version: 2.1\nName: whole\nVersion: 1.2\n"),
        ("broken", b"\xff"),
    ):
        (tmp_path / f"{name}-1.2.dist-info").mkdir()
        (tmp_path / f"{name}-1.2.dist-info" / "METADATA").write_bytes(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    assert installed(("whole", "broken", "not-here")) == {"whole": "1.2"}


def test_importing_it_needs_the_standard_library_alone() -> None:
    code = (
        "import json, sys; before = set(sys.modules); import fiffdepth_rt.machine; "
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(json.loads(answer.stdout)) - set(sys.stdlib_module_names) <= {"fiffdepth_rt"}

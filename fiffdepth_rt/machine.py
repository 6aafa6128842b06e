"""This machine: threads, installed distributions, NVIDIA GPUs and their driver, and the card of all of it.

Importing this file needs the standard library alone, so that `fiffdepth doctor` can use it where nothing else
works. None of its functions raises for what a machine lacks: what cannot be read has a value that says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MIB = 2**20
UNLIMITED = 2**16
"""CPUs where no quota bounds them: more than there are."""

# --- processor ---


def default_threads() -> int:
    """The physical cores that this process may use: within its affinity, and its container's quota.

    Two hyper-threads share one multiplier unit, so a thread on each only adds overhead to convolutions.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), quota_cpus()))


def _siblings(cpu: int) -> str:
    """The hyper-threads of one core, as Linux lists them; elsewhere each is taken for a core."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def quota_cpus(system: Path = Path("/")) -> int:
    """CPUs' worth of time that this process is granted, rounded up; UNLIMITED where nothing bounds it.

    The least of its control group (cgroup v1 or v2) and the groups around it: a container's, or that of a
    systemd service with CPUQuota=. system: the root of the file system, in which they are looked up.
    """
    granted = [_granted(folder) for folder in _control_groups("cpu", system)]
    return math.ceil(min(granted, default=math.inf)) if any(map(math.isfinite, granted)) else UNLIMITED


def _control_groups(controller: str, system: Path) -> Iterator[Path]:
    """The folders of this process's control group and of all around it, as far as they are mounted here.

    controller: "cpu" or "memory", of which cgroup v1 has a tree each.
    """
    try:
        mounts = (system / "proc/self/mountinfo").read_text().splitlines()
        # "0::/a/b" is of version 2, "4:cpu,cpuacct:/a/b" of version 1.
        groups = [line.split(":", 2) for line in (system / "proc/self/cgroup").read_text().splitlines()]
    except OSError:  # not Linux
        return
    for line in mounts:
        fields, _, kind = line.partition(" - ")
        root, mounted = fields.split()[3:5]
        filesystem, options = kind.split()[0], kind.split()[-1].split(",")
        for _, controllers, group in groups:
            own = (
                filesystem == "cgroup2"
                if not controllers
                else (
                    filesystem == "cgroup" and controller in controllers.split(",") and controller in options
                )
            )
            if own:
                # A container's own group is what is mounted, whatever it is called outside.
                inside = os.path.relpath(group, root)
                top = system / mounted.lstrip("/")
                folder = top if inside.startswith("..") else top / inside
                yield from (one for one in (folder, *folder.parents) if one == top or top in one.parents)


def _granted(group: Path) -> float:
    """CPUs' worth of time of one control group; infinite where it is not limited, or does not say."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # ValueError: the quota is the word "max"
        return math.inf


# --- memory ---


def free_memory(system: Path = Path("/")) -> int | None:
    """Bytes that this process may still take before something gives way; None where the system does not say.

    What Linux calls available, and free swap; at most what the limits of its control group (cgroup v1 or v2)
    and the groups around it leave. system: the root of the file system, in which they are looked up.
    """
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    if "MemAvailable" not in kib:
        return None
    available = (kib["MemAvailable"] + kib.get("SwapFree", 0)) * 1024
    limits = [_left(folder) for folder in _control_groups("memory", system)]
    return int(min([available, *limits]))


def _left(group: Path) -> float:
    """Bytes that one control group may still take; infinite where it is not limited, or does not say."""
    version_2 = (group / "memory.max").exists()
    limit, used, cached = (
        ("memory.max", "memory.current", "inactive_file")
        if version_2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        most = int((group / limit).read_text())
        taken = int((group / used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # ValueError: the limit is the word "max"
        return math.inf
    return max(0, most - taken + int(stat.get(cached, 0)))  # cached files give way first


# --- software ---


def installed(names: Iterable[str]) -> dict[str, str]:
    """Distribution names -> the versions of those that are installed with readable metadata."""
    import importlib.metadata  # here, since it costs more to import than the rest of this package

    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except Exception:  # not installed, or its metadata is damaged
            continue
    return found


# --- NVIDIA GPUs: what their driver says, through NVML ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class NvidiaGpu:
    """One GPU in the driver's words. total_bytes: its memory; None where the driver does not say."""

    name: str
    total_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NvidiaDriver:
    """What the NVIDIA driver says about this machine.

    version: such as "580.65.06"; None where there is no driver, or it does not answer.
    gpus: in the driver's order, which is that of `nvidia-smi`, whatever CUDA_VISIBLE_DEVICES says.
    failure, fix: why nobody can tell which GPUs are here, and what to do about it; "" where the driver
        answered, and where there is none.
    """

    version: str | None = None
    gpus: tuple[NvidiaGpu, ...] = ()
    failure: str = ""
    fix: str = ""

    def describe(self) -> tuple[str, ...]:
        """Each GPU as "name, driver, memory": "NVIDIA L4, 550.54.15, 23034 MiB"."""
        return tuple(
            f"{gpu.name}, {self.version}, "
            f"{'unknown memory' if gpu.total_bytes is None else f'{gpu.total_bytes // MIB} MiB'}"
            for gpu in self.gpus
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """The memory of one GPU at one moment, bytes."""

    free_bytes: int
    total_bytes: int


def nvidia_driver() -> NvidiaDriver:
    """Ask the NVIDIA driver which GPUs are here."""
    try:
        import pynvml
    except Exception as error:  # a broken wheel fails in its own ways
        return NvidiaDriver(
            failure=f"nvidia-ml-py cannot be imported: {error}",
            fix="pip install --force-reinstall nvidia-ml-py",
        )
    try:
        with _nvml() as nvml:
            return NvidiaDriver(
                version=_text(nvml.nvmlSystemGetDriverVersion()),
                gpus=tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
            )
    except pynvml.NVMLError_LibraryNotFound:  # the driver brings the library, so there is no driver
        return NvidiaDriver()
    except Exception as error:  # NVMLError of many kinds; a library that is damaged fails in its own ways
        return NvidiaDriver(
            failure=f"the NVIDIA driver is here but fails: {error}",
            fix="reboot, or install the driver again; `nvidia-smi` must list the GPU",
        )


def gpu_memory(index: int) -> GpuMemory | None:
    """The memory of a GPU, by its place in the driver's order; None where the driver does not say."""
    try:
        with _nvml() as nvml:
            memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
    except Exception:  # no driver, no such GPU; or a GPU that shares the host's memory, such as a Jetson's
        return None
    return GpuMemory(free_bytes=int(memory.free), total_bytes=int(memory.total))


def gpu_memory_of(pid: int) -> int | None:
    """Bytes that a process holds on all GPUs together; None where it holds none, or nobody can tell.

    It counts the CUDA context and every library's arena, which no library's own counter does.
    """
    try:
        with _nvml() as nvml:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            listed = [nvml.nvmlDeviceGetComputeRunningProcesses(handle) for handle in handles]
    except Exception:  # as in `gpu_memory`
        return None
    # None for a number: inside some containers, and on Windows.
    processes = (one for gpu in listed for one in gpu if one.pid == pid)
    held = [one.usedGpuMemory for one in processes if one.usedGpuMemory is not None]
    return sum(held) if held else None


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, open until the block ends. Raises what pynvml raises, ImportError included."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> NvidiaGpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # a GPU that shares the host's memory, such as a Jetson's
        total = None
    return NvidiaGpu(name=_text(nvml.nvmlDeviceGetName(handle)), total_bytes=total)


def _text(words: str | bytes) -> str:
    return words.decode(errors="replace") if isinstance(words, bytes) else words


# --- the card ---


def machine_card(versions: Mapping[str, str]) -> dict[str, str]:
    """The machine as far as it explains figures: subject -> words, with no names of hosts, users or places.

    versions: of the software that made the figures, by distribution name.
    """
    release = platform.release().partition("-")[0]  # the rest may name who built the kernel
    driver = nvidia_driver()
    return {
        "CPU": _cpu_model(),
        "cores": f"{_usable_cores()} usable of {os.cpu_count()}",
        "memory": _host_memory(),
        "GPU": "; ".join(driver.describe()) or (f"unknown: {driver.failure}" if driver.failure else "none"),
        "system": f"{platform.system()} {release} {platform.machine()}",
        "software": ", ".join(f"{library} {version}" for library, version in versions.items()),
    }


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or "unknown"


def _host_memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):  # Windows, or a system without these names
        return "unknown"

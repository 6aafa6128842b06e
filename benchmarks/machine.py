"""The machine under a benchmark: its card, and peaks of memory."""

from __future__ import annotations

import contextlib
import platform
import re
from pathlib import Path

from fiffdepth_rt.machine import MIB, gpu_memory_of, installed, machine_card, nvidia_driver
from fiffdepth_rt.version import __version__

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "numpy",
    "opencv-python-headless",
)
# What decides how fast matrices are multiplied, as Linux calls it, slowest first.
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "bf16",
    "sve",
    "sme",
)


def card(device: str, threads: int) -> dict[str, str]:
    """The machine in words, without names of hosts, users or places."""
    found = installed(LIBRARIES) | {"fiffdepth_rt": __version__, "python": platform.python_version()}
    gpu = {} if device == "cpu" else {"driver": nvidia_driver().version or "unknown"}
    return {
        **machine_card(found),
        "instructions": ", ".join(instruction_sets(_cpuinfo())) or "unknown",
        **gpu,
        "threads": f"{threads} in every row on the CPU",
    }


def instruction_sets(cpuinfo: str) -> list[str]:
    """/proc/cpuinfo -> those of INSTRUCTIONS that every listed core has, in that order."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, flags=re.MULTILINE)
    shared = set.intersection(*(set(line.split()) for line in lines)) if lines else set()
    return [name for name in INSTRUCTIONS if name in shared]


def peak_host_mib() -> float | None:
    """Largest resident memory of this process since its program started; None where Linux does not tell.

    Not getrusage's: that one remembers the process which started this one.
    """
    try:
        return high_water_mib(Path("/proc/self/status").read_text())
    except OSError:
        return None


def high_water_mib(status: str) -> float | None:
    """/proc/<pid>/status -> VmHWM in MiB."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, flags=re.MULTILINE)
    return int(found[1]) / 2**10 if found else None


def volunteer_for_oom() -> None:
    """Ask Linux to end this process first where memory runs out, not the one that keeps the table."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


class DevicePeak:
    """The most GPU memory that a process held, as the driver tells it: `look(pid)` now and then."""

    def __init__(self) -> None:
        self.mib: float | None = None

    def look(self, pid: int) -> None:
        now = gpu_memory_of(pid)
        if now is not None:
            self.mib = max(now / MIB, self.mib or 0.0)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""

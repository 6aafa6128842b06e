"""The machine under a benchmark: its card, the ceiling it reaches at best, and peaks of memory.

The ceiling is measured, not looked up: a large matrix product in a precision, and a large copy, by torch on
the device and with the threads of the rows beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
PRECISIONS = ("fp32", "fp16", "bf16")
_MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}  # two arrays of this size are beyond the caches
_CEILING_RUNS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The best of a few runs. flops: FLOP/s by precision (2 per multiply-add); copy: bytes/s, in + out."""

    flops: Mapping[str, float]
    copy: float


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


def measure_ceiling(device: str, threads: int, *, side: int | None = None) -> Ceiling:
    """Large products and a copy on `device` ("cpu", "cuda:1"). side: of the matrices; None: a good one.

    A precision that torch does not multiply in here is left out.
    """
    import torch

    torch.set_num_threads(threads)
    kind = device.partition(":")[0]
    side = side or _MATMUL_SIDE[kind]
    flops = {}
    for name, dtype in zip(PRECISIONS, (torch.float32, torch.float16, torch.bfloat16), strict=True):
        factor = torch.randn(side, side, device=device).to(dtype)
        with contextlib.suppress(RuntimeError):
            flops[name] = 2 * side**3 / _best_s(lambda m=factor: m @ m, device)
    source = torch.ones(_COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy_s = _best_s(lambda: target.copy_(source), device)
    return Ceiling(flops=flops, copy=2 * source.nbytes / copy_s)


def _best_s(call: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(_CEILING_RUNS):
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronise(device: str) -> None:
    """Wait until torch's work on a GPU is done; a CPU's is when its call returns."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


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

"""The NVIDIA driver's library (libnvidia-ml) where there is no driver, or in place of the one that is here.

pynvml is the real one, and so is our code: only the C functions that pynvml calls are Python's here.
"""

# ruff: noqa: N802 -- the names are NVML's
from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping
from typing import Any

import pynvml
import pytest

SUCCESS, NOT_SUPPORTED, NOT_FOUND, INSUFFICIENT_SIZE, DRIVER_NOT_LOADED, UNKNOWN = 0, 3, 6, 7, 9, 999
NOT_AVAILABLE = 2**64 - 1  # how NVML says "N/A" in a number of bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """total, free: bytes; total is None for a GPU that does not say. held: bytes by process id."""

    name: str
    total: int | None = 23034 * 2**20
    free: int = 2**30
    held: Mapping[int, int] = dataclasses.field(default_factory=dict)


class Nvml:
    """libnvidia-ml.so.1. says: the status that its first call returns."""

    def __init__(self, *gpus: Gpu, driver: str = "550.54.15", says: int = SUCCESS) -> None:
        self._gpus, self._driver, self._says = gpus, driver, says
        self.open = 0

    def nvmlInitWithFlags(self, flags: Any) -> int:
        self.open += self._says == SUCCESS
        return self._says

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return SUCCESS

    def nvmlSystemGetDriverVersion(self, words: Any, size: Any) -> int:
        words.value = self._driver.encode()
        return SUCCESS

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        if index.value >= len(self._gpus):
            return NOT_FOUND
        where = ctypes.cast(ctypes.pointer(handle._obj), ctypes.POINTER(ctypes.c_void_p))
        where[0] = ctypes.c_void_p(index.value + 1)
        return SUCCESS

    def _gpu(self, handle: Any) -> Gpu:
        return self._gpus[(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1]

    def nvmlDeviceGetName(self, handle: Any, words: Any, size: Any) -> int:
        words.value = self._gpu(handle).name.encode()
        return SUCCESS

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        gpu = self._gpu(handle)
        if gpu.total is None:
            return NOT_SUPPORTED
        memory._obj.total, memory._obj.free, memory._obj.used = gpu.total, gpu.free, gpu.total - gpu.free
        return SUCCESS

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, processes: Any) -> int:
        held = self._gpu(handle).held
        count._obj.value = len(held)
        if processes is None:
            return INSUFFICIENT_SIZE if held else SUCCESS
        for place, (pid, nbytes) in enumerate(held.items()):
            processes[place].pid, processes[place].usedGpuMemory = pid, nbytes
        return SUCCESS


def install(monkeypatch: pytest.MonkeyPatch, library: Nvml | None) -> None:
    """Until the test ends, pynvml finds this library; None: there is none, as on a machine without driver."""

    def load(name: str) -> Nvml:
        if library is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    monkeypatch.setattr(pynvml, "CDLL", load)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

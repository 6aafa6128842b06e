"""Kernels that TensorRT for RTX compiled on this GPU, kept for the next start. Written, never run on a GPU.

    <cache>/kernels/<key>.bin      a seal (32 bytes), then what the library gave

A plan holds its kernels as source text. The library compiles them when a context is created, which takes
seconds, and gives what it compiled as bytes. They are kept for one engine directory, GPU model, major version
of the driver, and version of the library: `key`. The library looks whether bytes are for this GPU and driver;
whether they are whole, the seal says, so damaged bytes never reach it. It is a hash, against damage and old
plans: whoever may write to the cache folder may have this GPU run what they like.

Whatever goes wrong with the file (a wrong seal, no such folder, no room) means that kernels are compiled
again. It is never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.backends.tensorrt.flavour import Flavour, load
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.gpu.cuda import Gpu

FOLDER = "kernels"
COMPILED, KEPT = "compiled here", "kept from before"
_SEAL_BYTES = 32
_LOCK_S = 10.0  # longer than any write takes

log = logging.getLogger("fiffdepth_rt.tensorrt")


class RuntimeCache:
    """Kernels of plans on one GPU, for all stages together. Not to be used by two threads at once.

    origin: where the kernels come from, COMPILED or KEPT; None before the first context was made.
    """

    def __init__(
        self, flavour: Flavour, gpu_name: str, *, file: Path | None = None, sealed_with: Sequence[str] = ()
    ) -> None:
        """file: where kernels are kept; None for as long as this object lives. sealed_with: see `read`."""
        self.file = file
        self.origin: str | None = None
        self._flavour = flavour
        self._gpu_name = gpu_name
        self._sealed_with = sealed_with
        self._content = None if file is None else read(file, sealed_with)
        self._library: Any = None  # its IRuntimeCache, while engines are open
        self._made_for: Any = None  # the engine that it came from, and must not outlive

    @staticmethod
    def of(engine_dir: EngineDir, target: Target, gpu: Gpu) -> RuntimeCache:
        """Of one engine directory's plans, in the user's cache folder."""
        name, folder = key(engine_dir.path, gpu, str(target.release)), cache_folder()
        files = engine_dir.manifest.files
        plans = [plan.file for plan in engine_dir.manifest.plans if plan.flavour == target.flavour.name]
        return RuntimeCache(
            target.flavour,
            gpu.name,
            file=None if folder is None else folder / FOLDER / f"{name}.bin",
            sealed_with=[name, *sorted(files[plan].sha256 for plan in plans)],
        )

    def config(self, engine: Any) -> Any:
        """A trt.IRuntimeConfig for contexts of an engine: memory is given by the caller, kernels are kept.

        The current GPU is the one named at the start, and has a context.
        """
        trt = load(self._flavour)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # ours hold whole frames: lane.py
        if self._library is None:
            self._library, self._made_for = self._filled(config.create_runtime_cache()), engine
        if not config.set_runtime_cache(self._library):
            log.info("the library takes no runtime cache for this plan: its kernels are not kept")
        return config

    def keep(self) -> None:
        """Write what the library has compiled, where something is new. Call it when a shape has run once."""
        if self._library is None:
            return
        given = self._library.serialize()
        content = None if given is None else bytes(given)
        if content is not None and content != self._content:
            self._content = content
            if self.file is not None:
                write(self.file, content, self._sealed_with)

    def let_go(self, engine: Any) -> None:
        """An engine goes: keep what there is, and free the library's cache if it came from this engine.

        No context that uses the cache may be open then.
        """
        self.keep()
        if engine is self._made_for:
            self._library = self._made_for = None

    def forget(self) -> bool:
        """Delete what was kept, so that the next start compiles anew; False where nothing is ever kept."""
        self._content = None
        if self.file is None:
            return False
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)
        return True

    def _filled(self, library: Any) -> Any:
        """The library's empty cache, with what was kept, where there is some and the library takes it."""
        taken = self._content is not None and bool(library.deserialize(self._content))
        if self.origin is None:
            self.origin = KEPT if taken else COMPILED
            if not taken:
                once = "" if self.file is None else ", and is kept for the next start"
                log.info("compiling for this GPU (%s): this takes a while%s", self._gpu_name, once)
        return library


def key(directory: Path, gpu: Gpu, release: str) -> str:
    """What a file is for, as its name. driver: only its major version counts, as the library has it."""
    driver = gpu.driver_cuda.partition(".")[0]
    told = [str(directory.resolve()), gpu.name, gpu.compute_capability, driver, release]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


def read(file: Path, sealed_with: Sequence[str]) -> bytes | None:
    """What was kept; None where there is nothing, or its seal is wrong.

    sealed_with: words that go into the seal beside the content: `key`, and the hashes of all the plans.
    """
    try:
        found = file.read_bytes()
    except OSError:
        return None
    content = found[_SEAL_BYTES:]
    if found[:_SEAL_BYTES] != _seal(content, sealed_with):
        log.info("%s is damaged, or of other plans: kernels are compiled again", file)
        return None
    return content


def write(file: Path, content: bytes, sealed_with: Sequence[str]) -> None:
    """Keep content, unless it is there already. The lock makes looking and writing one step."""
    sealed = _seal(content, sealed_with) + content
    # Out of time is an OSError; file systems without locks raise NotImplementedError.
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_suffix(".lock"), timeout=_LOCK_S):
            if read(file, sealed_with) != content:
                with replacing(file) as out:
                    out.write(sealed)
    except (OSError, OutputError, NotImplementedError) as error:
        log.info("kernels are not kept: %s", error)


def _seal(content: bytes, sealed_with: Sequence[str]) -> bytes:
    digest = hashlib.sha256("\n".join(sealed_with).encode())
    digest.update(b"\n")
    digest.update(content)
    return digest.digest()

"""The first 64 bytes of a plan of TensorRT for RTX: what can be refused before the library sees the plan.

    byte  0    "vtrt"
          16   bytes of the whole plan, uint64
          24   version, four bytes: 1, 7, 1, 116
          32   compute capabilities, a bit for each, uint64

NVIDIA does not document this. It was found in plans of 1.7, and tests hold plans that the library builds
against it; of any other version, nothing is read here, and the library has the word. All numbers are
little-endian.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX, Version
from fiffdepth_rt.backends.tensorrt.versions import Release, release_of, show_version
from fiffdepth_rt.engine_dir.manifest import PlanRecord
from fiffdepth_rt.errors import PlanGpuError, PlanMismatchError, PlanVersionError

NBYTES = 64
MAGIC = b"vtrt"
KNOWN: Version = (1, 7)
BITS = {"7.5": 1, "8.0": 2, "8.6": 4, "8.9": 8, "12.0": 16, "12.1": 32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """nbytes: of the whole plan. capabilities: those of BITS that it is for."""

    nbytes: int
    version: Version
    capabilities: tuple[str, ...]


def read_header(content: bytes) -> PlanHeader | None:
    """The start of a plan -> its header; None where it is none."""
    if len(content) < NBYTES or not content.startswith(MAGIC):
        return None
    bits = int.from_bytes(content[32:40], "little")
    return PlanHeader(
        nbytes=int.from_bytes(content[16:24], "little"),
        version=tuple(content[24:28]),
        capabilities=tuple(capability for capability, bit in BITS.items() if bits & bit),
    )


def check_header(content: bytes, plan: Path, record: PlanRecord) -> None:
    """Raises PlanMismatchError (PlanVersionError, PlanGpuError) where a plan is not what its record says.

    content: of the whole file `plan`. Plans whose header is not known are let through.
    """
    release = release_of(record)
    if release.flavour != TENSORRT_RTX or release.version[: len(KNOWN)] != KNOWN:
        return
    header = read_header(content)
    if header is None:
        raise _mismatch(plan, release, "it is not a plan of this library")
    if header.nbytes > len(content):
        raise _mismatch(plan, release, "it was cut short")
    if header.nbytes < len(content):
        raise _mismatch(plan, release, "something was added to it")
    if header.version[:3] != release.version[:3]:
        raise PlanVersionError(
            f"{plan} is of version {show_version(header.version)}, and the manifest says of {release}. Run "
            "`fiffdepth build --flavour rtx` again."
        )
    if record.compute_capability not in header.capabilities:
        found = ", ".join(header.capabilities) or "none that is known"
        raise PlanGpuError(
            f"{plan} is for GPUs of compute capability {found}, and the manifest says of "
            f"{record.compute_capability}. Run `fiffdepth build --flavour rtx` again."
        )


def _mismatch(plan: Path, release: Release, why: str) -> PlanMismatchError:
    return PlanMismatchError(f"{release} does not take {plan}: {why}. Run `fiffdepth build` again.")

"""The two libraries that build plans and run them, TensorRT and TensorRT for RTX, and the one import of each.

Both have the same names, so the same files serve both. Which flavour has what, in which version, is said in
versions.py.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

Version = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavour:
    """One of the two libraries.

    name: of the backend that runs its plans, of the wheel, and of the extra that installs it.
    title: in sentences. module: what Python imports. plan_tag: what stands before the version in the names of
    its plans. oldest, newest: the versions known here; newest is the first that is not.
    portable: plans are built without a GPU, and one plan serves many GPU models: its kernels are compiled
    where it is opened. Else a plan is built by the GPU that runs it.
    known: the versions known here, in words.
    """

    name: str
    title: str
    module: str
    plan_tag: str
    oldest: Version
    newest: Version
    portable: bool
    known: str


TENSORRT = Flavour(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    plan_tag="trt",
    oldest=(8, 5),
    newest=(12,),
    portable=False,
    known="8.5 to 11 are",
)
TENSORRT_RTX = Flavour(
    name="tensorrt-rtx",
    title="TensorRT for RTX",
    module="tensorrt_rtx",
    plan_tag="trtrtx",
    oldest=(1, 7),
    newest=(2,),
    portable=True,
    known="1.7 and newer 1.x are",
)
FLAVOURS = (TENSORRT, TENSORRT_RTX)


def flavour_named(name: str) -> Flavour:
    """ "tensorrt-rtx", as a manifest names it -> the flavour."""
    return next(flavour for flavour in FLAVOURS if flavour.name == name)


def load(flavour: Flavour) -> Any:
    """The flavour's module, imported. Raises whatever importing it raises: ImportError, OSError, others."""
    return importlib.import_module(flavour.module)

"""What --format can name, and the files that come of it beside photos: no folder takes one for a photo."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Holds(enum.Enum):
    """What a file holds, and therefore what has to be known to write it."""

    RELATIVE = "relative depth"
    METRES = "depth in metres"
    POINTS = "points in metres"  # a camera's intrinsics have to be known too


@dataclass(frozen=True, kw_only=True)
class Format:
    """ending: what is appended to the photo's name. beside: of a file that explains it, or None."""

    ending: str
    holds: Holds
    beside: str | None = None


FORMATS: Mapping[str, Format] = {
    "png16": Format(ending="_depth.png", holds=Holds.RELATIVE),
    "npy": Format(ending="_depth.npy", holds=Holds.RELATIVE, beside="_depth.npy.json"),
    "color": Format(ending="_color.png", holds=Holds.RELATIVE),
    "m": Format(ending="_depth_m.npy", holds=Holds.METRES, beside="_depth_m.npy.json"),
    "mm": Format(ending="_depth_mm.png", holds=Holds.METRES),
    "tum": Format(ending="_depth_tum.png", holds=Holds.METRES),
    "kitti": Format(ending="_depth_kitti.png", holds=Holds.METRES),
    "exr": Format(ending="_depth.exr", holds=Holds.METRES),
    "pfm": Format(ending="_depth.pfm", holds=Holds.METRES),
    "ply": Format(ending="_points.ply", holds=Holds.POINTS),
    "glb": Format(ending="_surface.glb", holds=Holds.POINTS),
}
RESULT_ENDINGS = tuple(
    ending
    for format_ in FORMATS.values()
    for ending in (format_.ending, format_.beside)
    if ending is not None
)
"""Of all files that `fiffdepth infer` and `fiffdepth batch` write."""

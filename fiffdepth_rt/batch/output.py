"""OUTPUT: what results are called, and what is in their files.

    OUTPUT/
      fiffdepth.json           what every result here is: model, size, precision, formats (header.py)
      trip/sea_depth.png       results of trip/sea.JPG; of shards 00003.tar, with the keys of INPUT's
      skipped.json             photos without a result, and why; not there if there are none

Every file is whole or not there, so what is there is passed over, and any number of processes may write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from fiffdepth_rt import files
from fiffdepth_rt.batch.places import Folder, no_name
from fiffdepth_rt.cluster.tally import SKIPPED, Skipped, report
from fiffdepth_rt.depth_map import DepthMap

Format = Literal["png16", "npy", "color"]
FORMATS: Mapping[Format, tuple[str, ...]] = {
    "png16": ("_depth.png",),
    "npy": ("_depth.npy", "_depth.npy.json"),
    "color": ("_color.png",),
}
"""Endings of each format's files. The first one's file is there only when all of them are."""

ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
"""Of all files in OUTPUT that hold results. Those of photos/results.py are more: in metres too."""
LONGEST_ENDING = max(ENDINGS, key=len)


def write_report(folder: Folder, skipped: Sequence[Skipped]) -> None:
    """What was skipped, and why, as OUTPUT/skipped.json; none where nothing was. Raises OutputError."""
    if not skipped:
        folder.remove(SKIPPED)
        return
    with folder.writing(SKIPPED) as file:
        file.write(report(skipped))


def encoded(depth_map: DepthMap, format_: Format) -> dict[str, bytes]:
    """depth map -> the files of a format by ending; that which says that all are there comes last."""
    if format_ == "color":
        return {"_color.png": files.color_png(depth_map.colors())}
    if format_ == "png16":
        return {"_depth.png": files.png16(depth_map.values, text=depth_map.labels())}
    text = depth_map.labels(highest="1")
    return {"_depth.npy.json": files.npy_text(text), "_depth.npy": files.npy(depth_map.values)}


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Photo's name -> what its results' names begin with.

    trip/sea.JPG gives trip/sea. Where trip/sea.png lies beside it, that one gives trip/sea_png: of photos
    that differ in their ending alone, the first by name goes without.
    whole: photos that give their whole name.
    """

    whole: frozenset[str]

    @staticmethod
    def of(names: Sequence[str]) -> Naming:
        first: dict[str, str] = {}
        whole = set()
        for name in names:
            stem = plain_stem(name)
            other = first.setdefault(stem, name)
            if other != name:
                first[stem] = min(name, other)
                whole.add(max(name, other))
        return Naming(whole=frozenset(whole))

    def stem(self, name: str) -> str:
        plain = plain_stem(name)
        return f"{plain}_{PurePosixPath(name).suffix[1:]}" if name in self.whole else plain

    def refused(self, names: Sequence[str]) -> dict[int, Skipped]:
        """Photos whose results cannot be named, by index."""
        seen: dict[str, int] = {}
        refused: dict[int, Skipped] = {}
        for index, name in enumerate(names):
            stem = self.stem(name)
            if reason := no_name(stem + LONGEST_ENDING):
                refused[index] = Skipped(name=name, reason=f"its name {reason}: rename it")
            elif (other := seen.setdefault(stem, index)) != index:
                reason = f"its results would be those of {names[other]}: rename one of them"
                refused[index] = Skipped(name=name, reason=reason)
        return refused


def plain_stem(name: str) -> str:
    """trip/sea.JPG -> trip/sea"""
    path = PurePosixPath(name)
    return name.removesuffix(path.suffix) if path.suffix else name


def main_endings(formats: Sequence[Format]) -> dict[Format, str]:
    """The ending whose file says that a format is there, whole."""
    return {format_: FORMATS[format_][0] for format_ in formats}

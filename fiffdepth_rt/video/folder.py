"""depth maps -> a folder of 16-bit PNGs, which goes on where it was interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fiffdepth_rt.atomic import remove_leftovers, replacing
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.stream import StreamItem

_NAME = re.compile(r"\d{6,}_depth\.png")
_MADE_OF = "made_of.json"


class DepthPictures:
    """16-bit PNG, 000000_depth.png and on, by the frame's number in the source; made if it is not there.

    frames: how many pictures were written. already: how many were there from an earlier run, and were kept.

    made_of.json beside them says what they were made of: source, model and options. A folder of the same goes
    on: what is there is complete, since every picture is written whole. With `overwrite` the earlier
    pictures go first, those of a longer video too.
    """

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.frames = 0
        self.already = 0
        self._folder = folder
        self._overwrite = overwrite
        self._kept: frozenset[str] = frozenset()

    def begin(self, made_of: Mapping[str, Any]) -> None:
        """Raises OutputError: pictures of something else are there already."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            there = {path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)}
        except OSError as error:
            raise OutputError(
                f"The folder {self._folder} cannot be made ({error.strerror}): name another one."
            ) from error
        remove_leftovers(self._folder)
        if self._overwrite:
            self._remove(there)
        elif there and self._made_of() != made_of:
            raise OutputError(
                f"{self._folder} holds pictures already, of another video, by another model or with other "
                "options: pass --overwrite (overwrite=True), or name another place."
            )
        else:
            self._kept = frozenset(there)
        if not self._kept:
            with replacing(self._folder / _MADE_OF) as file:
                file.write(json.dumps(made_of, indent=2).encode() + b"\n")

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{self._folder / name} cannot be replaced ({error.strerror}): remove it yourself, or "
                    "name another folder."
                ) from error

    def has(self, number: int) -> bool:
        """Whether this frame's picture was there when the work began."""
        return _name(number) in self._kept

    def write(self, item: StreamItem) -> None:
        if self.has(item.tag.number):  # computed again because smoothing needs every frame
            self.already += 1
            return
        item.depth_map.save(self._folder / _name(item.tag.number))
        self.frames += 1

    def skip(self) -> None:
        """A frame whose picture is there was not computed."""
        self.already += 1

    def close(self, *, whole: bool) -> None:
        """Every picture is complete already."""

    def _made_of(self) -> Any:
        try:
            return json.loads((self._folder / _MADE_OF).read_bytes())
        except (OSError, ValueError):
            return None


def _name(number: int) -> str:
    return f"{number:06d}_depth.png"

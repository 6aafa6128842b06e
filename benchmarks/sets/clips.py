"""A word of --video, or a rendered room -> a clip: photos, depth, poses."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from benchmarks.sets.posed import Camera, Clip, open_clip

ROOM = "room"
ROOMS = tuple(f"{ROOM}:{seed}" for seed in (11, 42, 54, 60))
"""Rooms that are rendered, in which the camera's path comes no nearer than 0.5 m to anything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipChoice:
    """Says which clip, and can be sent to a process.

    word: "7scenes:DIR", "scannet:DIR", "tum:DIR" or "room:SEED". frames: the first so many.
    camera: fx, fy, cx, cy in px, instead of the layout's own.
    """

    word: str
    frames: int
    camera: Camera | None = None

    @property
    def title(self) -> str:
        """In tables: without folders, which mean nothing on another machine."""
        layout, _, rest = self.word.partition(":")
        return f"{ROOM} {rest}" if layout == ROOM else f"{layout}:{Path(rest).name}"

    @property
    def set_name(self) -> str:
        """The folder of its predictions in files."""
        return Path(self.word.partition(":")[2]).name

    def open(self) -> Clip:
        """Kept until another clip is opened, so that several methods see it and it is read once.

        Raises DataError: no such layout, no frames, files that are damaged.
        """
        return _opened(self)


@functools.lru_cache(maxsize=1)
def _opened(choice: ClipChoice) -> Clip:
    layout, _, rest = choice.word.partition(":")
    if layout == ROOM and rest.isdecimal():
        from benchmarks.sets.rendered_clips import render_clip  # needs the renderer, and videos do not

        return render_clip(int(rest), choice.frames)
    return open_clip(choice.word, frames=choice.frames, camera=choice.camera)

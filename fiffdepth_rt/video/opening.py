"""A name -> an opened Source."""

from __future__ import annotations

import os
import re

from fiffdepth_rt.errors import SourceError
from fiffdepth_rt.files import local_path
from fiffdepth_rt.video.camera import Camera
from fiffdepth_rt.video.library import check_pyav
from fiffdepth_rt.video.pictures import Pictures, find_pictures
from fiffdepth_rt.video.source import Source


def open_source(name: str, *, fps: float | None = None) -> Source:
    """Name of a video -> Source.

    name: a file such as "clip.mp4"; a folder of pictures, or a pattern of them ("shot_*.png", "f%03d.png");
        an address ("rtsp://…", "http://…"); a camera's number, "0" is the first.
    fps: pictures per second, 30 by default; for pictures alone, since a video has its own times.

    Raises SourceError.
    """
    if name.isascii() and name.isdigit() and not os.path.isdir(name):  # noqa: PTH112
        _refuse_fps(name, fps)
        return Camera(int(name))
    name = str(local_path(name)) if re.match(r"~|file://", name, re.IGNORECASE) else name
    address = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name)
    if not address and (found := find_pictures(name)) is not None:
        return Pictures(name, found, fps=30.0 if fps is None else fps)
    if not address and not os.path.isfile(name):  # noqa: PTH113 - pathlib raises on names that are too long
        what = "is not a file" if os.path.lexists(name) else "does not exist"
        raise SourceError(
            f"{name or repr(name)} {what}: name a video file, a folder or pattern of pictures, a camera "
            "such as 0, or an address rtsp://…"
        )
    _refuse_fps(name, fps)
    check_pyav()
    from fiffdepth_rt.video.reading import Address, File

    return Address(name) if address else File(name)


def _refuse_fps(name: str, fps: float | None) -> None:
    if fps is not None:
        raise SourceError(f"--fps (fps=) is for pictures, and {name} has times of its own: leave it out.")

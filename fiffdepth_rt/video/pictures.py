"""A folder or a pattern of pictures -> Source, at a steady rate."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from fiffdepth_rt.errors import DamagedVideoError, ImageError, SourceError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.photos.loading import LoadedPhoto, load_photo
from fiffdepth_rt.video.source import Source


class Pictures(Source):
    """Pictures in their order, `fps` a second. One that cannot be read leaves a gap; the end tells."""

    def __init__(self, name: str, paths: list[Path], *, fps: float) -> None:
        super().__init__()
        self.name = name
        if not 0.001 <= fps <= 10_000:  # NaN neither
            raise SourceError(f"{fps:g} pictures per second are not possible: say between 0.001 and 10000.")
        self.rate = rate = Fraction(fps).limit_denominator(1001)
        self._step_s = 1 / rate
        self.frames = len(paths)
        self._pictures = tuple(paths)
        self.paths = (*paths, *{path.parent for path in paths})
        self._failures: list[str] = []
        self._noted: set[str] = set()

    def _frames(self) -> Iterator[tuple[Fraction, Pixels]]:
        for index, path in enumerate(self._pictures):
            try:
                loaded = load_photo(path)
            except ImageError as error:
                self._failures.append(str(error))
                continue
            self._note(path, loaded)
            yield index * self._step_s, loaded.pixels

    def _note(self, path: Path, loaded: LoadedPhoto) -> None:
        """Damage each time, the rest once."""
        for note in loaded.notes:
            if note.kind == "end" or note.kind not in self._noted:
                self.notes.append(f"{path}: {note}")
            self._noted.add(note.kind)

    def _judge_end(self, given: int) -> None:
        if self._failures:
            raise DamagedVideoError(
                f"{len(self._failures)} of {len(self._pictures)} pictures of {self.name} were left out. "
                f"The first: {self._failures[0]}"
            )

    def _release(self) -> None:
        pass


def find_pictures(name: str) -> list[Path]:
    """ "frames", "shot_*.png" or "f%03d.png" -> pictures by their numbers, f2 before f10; none: no such.

    Raises SourceError: a folder or a pattern without pictures.
    """
    if os.path.isfile(name):  # noqa: PTH113 - pathlib raises on names that are too long
        return []
    folder, last = Path(name).parent, Path(name).name
    if os.path.isdir(name):  # noqa: PTH112
        found = _entries(Path(name))
    elif re.search(r"%0?\d*d", last):
        wanted = re.compile(r"\d+".join(re.escape(part) for part in re.split(r"%0?\d*d", last)))
        found = [path for path in _entries(folder) if wanted.fullmatch(path.name)]
    elif glob.has_magic(name):
        found = [Path(path) for path in glob.glob(name)]  # noqa: PTH207 - an absolute pattern too
    else:
        return []
    found = [
        path
        for path in found
        if path.suffix.lower() in PHOTO_ENDINGS and path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise SourceError(f"{name} holds no pictures ({', '.join(PHOTO_ENDINGS)}): name a video, or others.")
    return sorted(found, key=_natural)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Digits count as numbers."""
    parts = enumerate(re.split(r"(\d+)", str(path)))
    return [(int(part), "") if index % 2 else (-1, part) for index, part in parts]

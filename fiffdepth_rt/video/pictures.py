"""A folder or a pattern of pictures -> Source, at a steady rate."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from fiffdepth_rt.errors import DamagedVideoError, ImageError, SourceError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.folders import photos_among
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.photos.loading import LoadedPhoto, load_photo
from fiffdepth_rt.photos.results import RESULT_ENDINGS
from fiffdepth_rt.video.source import Source


class Pictures(Source):
    """Pictures in their order, `fps` a second. One that cannot be read, or has another size than the first
    one, leaves a gap; the end tells."""

    def __init__(self, name: str, found: Found, *, fps: float) -> None:
        super().__init__()
        paths = found.paths
        if found.left_aside is not None:
            self.notes.append(found.left_aside)
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
        hw: tuple[int, ...] | None = None
        for index, path in enumerate(self._pictures):
            try:
                loaded = load_photo(path)
            except ImageError as error:
                self._failures.append(str(error))
                continue
            hw = hw or loaded.pixels.shape[:2]
            if loaded.pixels.shape[:2] != hw:
                (height, width), (first_height, first_width) = loaded.pixels.shape[:2], hw
                self._failures.append(
                    f"{path} has {height}×{width} px, and the first one {first_height}×{first_width}: resize "
                    "it, or have photos of different sizes done by `fiffdepth infer`."
                )
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """paths: pictures by their numbers, f2 before f10. left_aside: a sentence on the other files, or None."""

    paths: list[Path]
    left_aside: str | None


def find_pictures(name: str) -> Found | None:
    """ "frames", "shot_*.png" or "f%03d.png" -> its pictures; None: a name of another kind.

    Results of an earlier run are none, unless a pattern ends as their names do. Raises SourceError: a folder
    or a pattern without pictures.
    """
    if os.path.isfile(name):  # noqa: PTH113 - pathlib raises on names that are too long
        return None
    folder, last = Path(name).parent, Path(name).name
    if os.path.isdir(name):  # noqa: PTH112
        matching, results_too = _entries(Path(name)), False
    elif re.search(r"%0?\d*d", last):
        wanted = re.compile(r"\d+".join(re.escape(part) for part in re.split(r"%0?\d*d", last)))
        matching = [path for path in _entries(folder) if wanted.fullmatch(path.name)]
        results_too = last.endswith(RESULT_ENDINGS)
    elif glob.has_magic(name):
        matching = [Path(path) for path in glob.glob(name)]  # noqa: PTH207 - an absolute pattern too
        results_too = last.endswith(RESULT_ENDINGS)
    else:
        return None
    visible = (path for path in matching if not path.name.startswith("."))
    files = (str(path) for path in visible if os.path.isfile(path))  # noqa: PTH113 - is_file raises
    among = photos_among(files, results_too=results_too)
    if not among.photos:
        aside = f"; left aside: {among.others}" if among.others else ""
        raise SourceError(
            f"{name} holds no pictures ({', '.join(PHOTO_ENDINGS)}{aside}): name a video, or others."
        )
    return Found(
        paths=sorted(map(Path, among.photos), key=_natural),
        left_aside=f"{name} holds more than pictures. Left aside: {among.others}." if among.others else None,
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SourceError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from error


def _natural(path: Path) -> list[tuple[int, str]]:
    """Digits count as numbers."""
    parts = enumerate(re.split(r"(\d+)", str(path)))
    return [(int(part), "") if index % 2 else (-1, part) for index, part in parts]

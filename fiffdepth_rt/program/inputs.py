"""What stands on the command line -> photos, each with the files that it will become.

Everything is decided here before any work is done: which photos, where their results go, and that no result
replaces another one or a photo.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS

# Format on the command line -> what is appended to the photo's name.
ENDINGS = {"png16": "_depth.png", "npy": "_depth.npy", "color": "_color.png"}
_RESULTS = tuple(ENDINGS.values())


@dataclass(frozen=True, kw_only=True)
class Job:
    """One photo and its results: path by format."""

    photo: Path
    results: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Photos in the order of the command line, and an error for each argument that gave none."""

    photos: list[Path]
    errors: list[ImageError]


def find_photos(arguments: Sequence[str]) -> Found:
    """Arguments -> photos, each once.

    - A file is taken as it is, whatever its name, brackets included.
    - A folder gives the photos in it, sorted, without hidden files and without those in its own folders.
    - Anything else with *, ? or [ in it is a pattern; ** stands for folders at any depth. It gives files.

    Folders and patterns look at PHOTO_ENDINGS (upper case too) and leave out the results of an earlier run.
    """
    photos: dict[Path, Path] = {}
    errors = []
    for argument in arguments:
        try:
            for path in _expand(argument):
                photos.setdefault(_place(path), path)
        except OSError as error:
            reason = f"{argument} cannot be read ({error.strerror}): check its permissions."
            errors.append(ImageError(reason))
        except ImageError as error:
            errors.append(error)
    return Found(photos=list(photos.values()), errors=errors)


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if os.path.isdir(path):  # noqa: PTH112 - pathlib raises on names that are too long
        return _photos_among(path.iterdir(), f"The folder {argument} holds no photos")
    if os.path.lexists(path):
        return [path]
    if any(magic in argument for magic in "*?["):
        matches = glob.glob(argument, recursive=True)  # noqa: PTH207 - pathlib takes no absolute patterns
        return _photos_among(map(Path, matches), f"No photo matches {argument}")
    raise ImageError(f"{argument} does not exist: name a photo, a folder, or a pattern such as '*.jpg'.")


def _photos_among(candidates: Iterable[Path], nothing: str) -> list[Path]:
    photos = sorted(path for path in candidates if _looks_like_a_photo(path))
    if not photos:
        raise ImageError(
            f"{nothing} ({', '.join(PHOTO_ENDINGS)}; {', '.join('*' + ending for ending in _RESULTS)} are "
            "results and left out): name the files."
        )
    return photos


def _looks_like_a_photo(path: Path) -> bool:
    hidden = path.name.startswith(".")
    known = path.suffix.lower() in PHOTO_ENDINGS
    return known and not hidden and not path.name.endswith(_RESULTS) and path.is_file()


def jobs_for(photos: Sequence[Path], formats: Sequence[str], folder: Path | None) -> list[Job]:
    """Photos -> jobs. Results go to `folder`, or beside each photo where that is None.

    Raises OutputError if two photos would write the same file, or a result would replace one of the photos.
    """
    jobs = [Job(photo=photo, results=_results(photo, formats, folder)) for photo in photos]
    photo_at = {_place(photo): photo for photo in photos}
    writer_of: dict[Path, Path] = {}
    for job in jobs:
        for result in job.results.values():
            place = _place(result)
            if place in photo_at:
                raise OutputError(
                    f"{photo_at[place]} is among the photos, but the result of {job.photo} would replace it: "
                    "leave it out, or quote the pattern ('*.png') to have earlier results left out."
                )
            if place in writer_of:
                raise OutputError(
                    f"{writer_of[place]} and {job.photo} would both become {result}: rename one of them, "
                    "or run them one by one with different folders after -o."
                )
            writer_of[place] = job.photo
    return jobs


def _results(photo: Path, formats: Sequence[str], folder: Path | None) -> dict[str, Path]:
    return {name: (folder or photo.parent) / (photo.stem + ENDINGS[name]) for name in formats}


def _place(path: Path) -> Path:
    """The same for all spellings of one place; a link is a place of its own."""
    return Path(os.path.realpath(path.parent), path.name)

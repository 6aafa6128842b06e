"""What stands on the command line -> photos, each with the files that it will become.

Everything is decided here before any work is done: which photos, where their results go, and that no result
replaces another one or a photo.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.files import local_path
from fiffdepth_rt.photos.fetching import as_file
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.photos.results import FORMATS, RESULT_ENDINGS

_STREAM = re.compile(r"-|/dev/stdin|/dev/fd/(\d+)|/proc/self/fd/(\d+)")


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo, wherever it comes from.

    name: for messages. path: the file; of an address or a stream, which have none, what the results are named
    after. address: http(s)://…, "-" or /dev/fd/63, which is read once; None for a file.
    """

    name: str
    path: Path
    address: str | None = None

    def file(self) -> AbstractContextManager[Path]:
        """The file, or a copy for as long as the block runs. Raises ImageError."""
        if self.address is None:
            return nullcontext(self.path)
        return as_file(self.address, ending=self.path.suffix)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One photo and its results: path by format."""

    photo: Photo
    results: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Photos in the order of the command line, an error for each argument that gave none, and a sentence for
    each folder or pattern that holds more than photos."""

    photos: list[Photo]
    errors: list[ImageError]
    left_aside: list[str]


def find_photos(arguments: Sequence[str]) -> Found:
    """Arguments -> photos, each once.

    - A file is taken as it is, whatever its name, brackets included. ~ is the home folder, also where a shell
      did not see it, and file:///… is a file.
    - A folder gives the photos in it, sorted, without hidden files and without those in its own folders.
    - "-", and what a shell makes of <(…), is a photo that comes from there; http(s)://… one that is fetched.
    - Anything else with *, ? or [ in it is a pattern; ** stands for folders at any depth. It gives files.

    Folders and patterns look at PHOTO_ENDINGS (upper case too), as far as a library for them is installed,
    and leave out the results of an earlier run.
    """
    photos: dict[Path | str, Photo] = {}
    errors: list[ImageError] = []
    left_aside: list[str] = []
    for argument in arguments:
        try:
            for photo in _expand(argument, left_aside):
                photos.setdefault(photo.address or _place(photo.path), photo)
        except OSError as error:
            reason = f"{argument} cannot be read ({error.strerror}): check its permissions."
            errors.append(ImageError(reason))
        except ImageError as error:
            errors.append(error)
    return Found(photos=list(photos.values()), errors=errors, left_aside=left_aside)


def _expand(argument: str, left_aside: list[str]) -> list[Photo]:
    if not argument:
        raise ImageError("'' does not exist (an unset variable of the shell?): name a photo or a folder.")
    if stream := _STREAM.fullmatch(argument):
        number = stream[1] or stream[2]
        named = "stdin" if number in (None, "0") else f"fd{number}"
        return [Photo(name=argument, path=Path(named), address=argument)]
    if re.match(r"https?://", argument, re.IGNORECASE) and not os.path.lexists(argument):
        last = PurePosixPath(unquote(urlsplit(argument).path)).name
        named = re.sub(r"[\x00-\x1f/\\:]", "_", last) or "photo"
        return [Photo(name=argument, path=Path(named), address=argument)]
    path = local_path(argument)
    if os.path.isdir(path):  # noqa: PTH112 - pathlib raises on names that are too long
        return _photos_among(path.iterdir(), f"The folder {argument} holds", left_aside)
    if os.path.lexists(path):
        return [Photo(name=str(path), path=path)]
    if glob.has_magic(argument):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - pathlib takes no absolute patterns
        return _photos_among(map(Path, matches), f"{argument} matches", left_aside)
    raise ImageError(
        f"{argument} does not exist: name a photo, a folder, a pattern such as '*.jpg', or an address."
    )


def _photos_among(candidates: Iterable[Path], where: str, left_aside: list[str]) -> list[Photo]:
    """Files of a folder or a pattern -> the photos, sorted. What else there is goes to `left_aside`."""
    paths = sorted(path for path in candidates if not path.name.startswith(".") and path.is_file())
    photos = [path for path in paths if _looks_like_a_photo(path)]
    others = _others(paths, {name for path in photos for name in (path.stem, _whole_name(path))})
    if not photos:
        aside = f"; left aside: {others}" if others else ""
        raise ImageError(f"{where} no photos ({', '.join(PHOTO_ENDINGS)}{aside}): name the files.")
    if others:
        left_aside.append(f"{where} more than photos. Left aside: {others}.")
    return [Photo(name=str(path), path=path) for path in photos]


def _looks_like_a_photo(path: Path) -> bool:
    format_ = PHOTO_ENDINGS.get(path.suffix.lower())
    return format_ is not None and format_.readable and not path.name.endswith(RESULT_ENDINGS)


def _others(paths: Sequence[Path], stems: set[str]) -> str:
    """What is no photo, in words, by ending; without the results of the photos themselves, by their stems."""
    counts: Counter[str] = Counter()
    for path in paths:
        result = next((ending for ending in RESULT_ENDINGS if path.name.endswith(ending)), None)
        if _looks_like_a_photo(path) or (result and path.name[: -len(result)] in stems):
            continue
        format_ = PHOTO_ENDINGS.get(path.suffix.lower())
        if result:
            kind = f"*{result} (a result of an earlier run; name it to have it done)"
        elif format_ is not None:
            kind = f"*{path.suffix} (to read it: {format_.cure})"
        else:
            kind = f"*{path.suffix}" if path.suffix else "without an ending"
        counts[kind] += 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def jobs_for(photos: Sequence[Photo], formats: Sequence[str], folder: Path | None) -> list[Job]:
    """Photos -> jobs. Results go to `folder`, or beside each photo where that is None.

    kitchen.jpg gives kitchen_depth.png. Where kitchen.png lies beside it, that one gives
    kitchen_png_depth.png: of photos that differ in their ending alone, the first by name goes without. What
    lies there counts, not what was asked for, so the names are the same in every run.

    Raises OutputError if two photos would write the same file, or a result would replace one of the photos.
    """
    stems = _stems(photos)
    jobs = [
        Job(
            photo=photo,
            results={
                name: (folder or photo.path.parent) / (stems[photo.path] + FORMATS[name].ending)
                for name in formats
            },
        )
        for photo in photos
    ]
    photo_at = {_place(photo.path): photo for photo in photos if photo.address is None}
    writer_of: dict[Path, Photo] = {}
    for job in jobs:
        for result in job.results.values():
            place = _place(result)
            if place in photo_at:
                raise OutputError(
                    f"{photo_at[place].name} is among the photos, but the result of {job.photo.name} "
                    "would replace it: leave it out, or quote the pattern ('*.png') to have earlier results "
                    "left out."
                )
            if place in writer_of:
                raise OutputError(
                    f"{writer_of[place].name} and {job.photo.name} would both become {result}: rename one of "
                    "them, or run them one by one with different folders after -o."
                )
            writer_of[place] = job.photo
    return jobs


def _stems(photos: Sequence[Photo]) -> dict[Path, str]:
    """Path of each photo -> what its results' names begin with."""
    places = {photo.path: _place(photo.path) for photo in photos}
    beside: defaultdict[tuple[Path, str], set[str]] = defaultdict(set)
    for folder in {place.parent for place in places.values()}:
        for path in _entries(folder):
            if _looks_like_a_photo(path) and not path.name.startswith("."):
                beside[folder, path.stem].add(path.name)
    for place in places.values():
        beside[place.parent, place.stem].add(place.name)
    return {
        path: path.stem if path.name == min(beside[place.parent, place.stem]) else _whole_name(path)
        for path, place in places.items()
    }


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # no such folder, or one that may not be listed
        return []


def _whole_name(path: Path) -> str:
    """kitchen.png -> kitchen_png"""
    return f"{path.stem}_{path.suffix[1:]}"


def _place(path: Path) -> Path:
    """The same for all spellings of one place; a link is a place of its own."""
    return Path(os.path.realpath(path.parent), path.name)

"""INPUT -> photos, each with the name that its results are called after.

    a folder, s3://bucket/photos     photos/trip/sea.JPG        named "trip/sea.JPG"
    a list, one a line               photos/trip/sea.JPG        named "photos/trip/sea.JPG"
                                     /data/sea.JPG              named "data/sea.JPG"
                                     s3://bucket/sea.JPG        named "bucket/sea.JPG"

A name depends on nothing but its own path, so that a run which goes on, or a list that grows, changes none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from fiffdepth_rt.batch.places import Folder, is_address, open_address, photo_file
from fiffdepth_rt.cluster.names import Names
from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.errors import BatchError
from fiffdepth_rt.photos.folders import photos_among
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS

LIST_ENDINGS = (".txt", ".lst", ".list")
_LONGEST_LIST = 1 << 30  # bytes


class Photos(Protocol):
    """names: of the photos, in a fixed order; `file(i)` is the file of names[i]. left_aside: what else INPUT
    holds, in words; "" for nothing. It is pickled in a moment, however many there are."""

    @property
    def left_aside(self) -> str: ...

    @property
    def unreadable(self) -> tuple[Skipped, ...]:
        """Folders in INPUT that cannot be read, and why."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def shared(self) -> bool:
        """Whether other processes see the same."""

    def file(self, index: int) -> contextlib.AbstractContextManager[Path]:
        """Raises ImageError."""


@dataclass(frozen=True, kw_only=True)
class FolderPhotos:
    """All photos of a folder."""

    folder: Folder
    names: Names
    left_aside: str
    unreadable: tuple[Skipped, ...]

    @property
    def shared(self) -> bool:
        return self.folder.shared

    def file(self, index: int) -> contextlib.AbstractContextManager[Path]:
        return self.folder.local(self.names[index])


@dataclass(frozen=True, kw_only=True)
class ListedPhotos:
    """The photos of a list, wherever each lies. places: paths and addresses."""

    places: Names
    names: Names
    shared: bool
    left_aside: str = ""
    unreadable: tuple[Skipped, ...] = ()

    def file(self, index: int) -> contextlib.AbstractContextManager[Path]:
        return photo_file(self.places[index])


def photos_in(folder: Folder, files: Iterable[str], unreadable: tuple[Skipped, ...] = ()) -> FolderPhotos:
    """Names of a folder's files -> its photos, sorted: those that can be read here, and no result of a run.

    Raises BatchError where there are none.
    """
    among = photos_among(files)
    if not among.photos and not among.others:
        raise BatchError(
            f"{folder.name} is empty, or not there: name a folder of photos, or of shards (.tar)."
        )
    if not among.photos:
        raise BatchError(
            f"{folder.name} holds no photos ({', '.join(PHOTO_ENDINGS)}) and no shards (.tar)"
            f"; left aside: {among.others}. Name another folder."
        )
    return FolderPhotos(
        folder=folder, names=Names(among.photos), left_aside=among.others, unreadable=unreadable
    )


def listed(path: str) -> ListedPhotos:
    """A list's path or address -> its photos, each once. Relative paths are those of the current folder.

    Empty lines, and lines that begin with #, are left out. Raises BatchError: no list, or nothing in it.
    """
    places: dict[str, str] = {}
    shared = True
    for line in _text(path).split("\n"):
        place = line.strip()
        if not place or place.startswith("#"):
            continue
        if is_address(place):
            shared = shared and not place.lower().startswith("memory:")
        else:
            place = os.path.abspath(os.path.expanduser(_path(place)))  # noqa: PTH100, PTH111 - takes any text
        places.setdefault(place, _named(line.strip()))
    if not places:
        raise BatchError(f"{path} names no photos: write a path or an address in each line.")
    return ListedPhotos(places=Names(list(places)), names=Names(list(places.values())), shared=shared)


def _text(path: str) -> str:
    """A list's content; bytes that are no text stay in it, as they do in the names of files."""
    if is_address(path):
        fs, inside = open_address(path)
        try:
            data = bytes(fs.cat_file(inside))
        except Exception as error:
            raise BatchError(f"{path} cannot be read ({error}): check address and access.") from error
    else:
        try:
            with Path(path).open("rb") as file:
                data = file.read(_LONGEST_LIST)
        except OSError as error:
            raise BatchError(f"{path} cannot be read ({error.strerror}): name a list of photos.") from error
    if b"\0" in data[:4096]:
        raise BatchError(f"{path} is no list: write a path or an address in each line, as plain text.")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _path(place: str) -> str:
    return unquote(urlsplit(place).path) if place.lower().startswith("file:") else place


def _named(place: str) -> str:
    """A path or an address -> the name of its results: the same without what begins it."""
    if is_address(place):
        split = urlsplit(place)
        host = split.netloc.rpartition("@")[2]  # without a name and a password
        path = unquote(split.path) if split.scheme.lower().startswith("http") else split.path
        return "/".join(filter(None, (host, path.lstrip("/"))))
    path = os.path.expanduser(_path(place))  # noqa: PTH111 - takes any text
    if os.path.isabs(path) or ".." in PurePosixPath(path).parts:  # noqa: PTH117
        path = os.path.abspath(path)  # noqa: PTH100
    return os.path.normpath(Path(path).as_posix()).lstrip("/") if path else ""

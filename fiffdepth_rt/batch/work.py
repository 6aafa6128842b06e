"""START HERE. Photos -> results, in this process.

    photo file     any format that is read here            photos.py, shards.py
      │  load      fiffdepth_rt/photos/loading.py
    photo          uint8 H×W×3
      │  infer     one Depth
    depth map      float32 H×W in [0, 1]
      │  encode    16-bit PNG, NPY, colours               output.py
    results        whole or not there, under the photo's name

What is there is not made again. A photo that cannot be used is skipped, with a reason; a disk that refuses
ends the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from fiffdepth_rt.batch.output import Format, Naming, encoded, main_endings
from fiffdepth_rt.batch.overlap import overlapped
from fiffdepth_rt.batch.photos import Photos
from fiffdepth_rt.batch.places import Folder
from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import DeviceMemoryError, FiffDepthError, ImageError, OutputError
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.loading import load_photo

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where results go, and how they are called. It is pickled with what it needs.

    strict: whether a JPEG without its end is refused.
    """

    folder: Folder
    formats: tuple[Format, ...]
    naming: Naming
    strict: bool

    def missing(self, name: str) -> list[Format]:
        """Formats of this photo that are not there."""
        stem = self.naming.stem(name)
        return [
            one for one, ending in main_endings(self.formats).items() if not self.folder.has(stem + ending)
        ]

    def write(self, name: str, depth_map: DepthMap, formats: Sequence[Format]) -> None:
        """Raises OutputError."""
        stem = self.naming.stem(name)
        for format_ in formats:
            for ending, data in encoded(depth_map, format_).items():
                with self.folder.writing(stem + ending) as file:
                    file.write(data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """todo: indices of the photos without all their results. there: how many have them. refused: photos that
    no result can be named after."""

    todo: list[int]
    there: int
    refused: list[Skipped]


def plan(names: Sequence[str], target: Target, there: set[str]) -> Plan:
    """What is to be done. there: names of all files in OUTPUT."""
    refused = target.naming.refused(names)
    endings = main_endings(target.formats).values()
    todo, finished = [], 0
    for index, name in enumerate(names):
        if index in refused:
            continue
        stem = target.naming.stem(name)
        if all(stem + ending in there for ending in endings):
            finished += 1
        else:
            todo.append(index)
    return Plan(todo=todo, there=finished, refused=list(refused.values()))


def convert_photos(
    photos: Photos, todo: Sequence[int], depth: Depth, target: Target
) -> Generator[Skipped | None, None, None]:
    """Photos -> results; None for each that has them now, or why it has none. Raises OutputError."""

    def read(index: int) -> Pixels:
        return load(photos, index, strict=target.strict)

    def write(index: int, depth_map: DepthMap) -> None:
        name = photos.names[index]
        target.write(name, depth_map, target.missing(name))

    with closing(
        converted(todo, name=lambda i: photos.names[i], read=read, depth=depth, write=write)
    ) as outcomes:
        for _, skipped in outcomes:
            yield skipped


def load(photos: Photos, index: int, *, strict: bool) -> Pixels:
    """uint8 H×W×3 RGB. Raises ImageError, whose message names no folder of this machine."""
    name = photos.names[index]
    with reasons_alone(name), photos.file(index) as path, files_called(path, name):
        return load_photo(path, name=name, strict=strict).pixels


@contextmanager
def reasons_alone(name: str) -> Iterator[None]:
    """Errors without the photo's name, which stands before the reason in a report."""
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")) from error


@contextmanager
def files_called(path: Path, name: str) -> Iterator[None]:
    """Errors that call a file by its name in INPUT: some decoders say the path that they were given."""
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), name)) from error


def converted(
    items: Iterable[T],
    *,
    name: Callable[[T], str],
    read: Callable[[T], Pixels],
    depth: Depth,
    write: Callable[[T, DepthMap], None],
) -> Generator[tuple[T, Skipped | None], None, None]:
    """Items -> depth maps that are written, overlapped, in order; each with None, or why it was skipped.

    Raises OutputError, and what no other photo would escape: a GPU without room.
    """
    with closing(overlapped(items, read=read, compute=depth.infer, write=write)) as outcomes:
        for item, outcome in outcomes:
            try:
                outcome.result()
            except (OutputError, DeviceMemoryError):
                raise
            except FiffDepthError as error:
                yield item, Skipped(name=name(item), reason=str(error))
            else:
                yield item, None

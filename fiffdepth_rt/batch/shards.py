"""WebDataset tars: INPUT -> shards, and a shard -> the same shard with depth.

    00003.tar    000031234.jpg, 000031234.txt, …      a sample's photo is its first file with a photo's ending
    becomes
    00003.tar    000031234.depth.png, …               the same keys, in the same order; read with INPUT's

A shard is one piece of work: a tar that was not finished is begun again. The photos of a shard that cannot be
used are listed in 00003.skipped.json, which is there before 00003.tar is.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import BinaryIO

from fiffdepth_rt.atomic import beside
from fiffdepth_rt.batch.output import LONGEST_ENDING, encoded
from fiffdepth_rt.batch.places import Folder, LocalFolder, folder_at, no_name
from fiffdepth_rt.batch.work import Target, converted, reasons_alone
from fiffdepth_rt.cluster.connecting import CLUSTER_EXTRA
from fiffdepth_rt.cluster.names import Names
from fiffdepth_rt.cluster.tally import Skipped, report
from fiffdepth_rt.depth import Depth
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import BatchError, ImageError, shortened
from fiffdepth_rt.files import local_path
from fiffdepth_rt.image import Pixels
from fiffdepth_rt.photos.fetching import MAX_BYTES
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.photos.loading import load_photo_bytes

ENDING = ".tar"
_MAGIC = frozenset("*?[{")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Tars by name, in the order of their names. names: relative to `folder`, as those of the results.
    unreadable: folders in it, and why."""

    folder: Folder
    names: Names
    unreadable: tuple[Skipped, ...] = ()


def shards_of(pattern: str) -> Shards:
    """data/00003.tar, data/{00000..00799}.tar, s3://bucket/*/part-*.tar -> shards.

    Names are relative to what stands before the first part with *, ?, [ or { in it.
    Raises BatchError: a pattern that nothing matches, a brace that is not closed, no braceexpand.
    """
    path = local_path(pattern)
    if path.is_file():
        return Shards(folder=LocalFolder(path.parent), names=Names([path.name]))
    scheme, colon, rest = pattern.rpartition("://")
    parts = rest.split("/")
    fixed = next((i for i, part in enumerate(parts) if set(part) & _MAGIC), len(parts) - 1)
    folder = folder_at(f"{scheme}{colon}{'/'.join(parts[:fixed]) or ('/' if rest.startswith('/') else '.')}")
    names = [name for name in folder.files() if name.endswith(ENDING)]
    chosen: dict[str, None] = {}
    for one in _expand_braces("/".join(parts[fixed:])):
        matching = [name for name in names if _matches(name, one)]
        if not matching:
            raise BatchError(
                f"No shard in {folder.name} matches {one}: name tar files, or a pattern in quotes."
            )
        chosen |= dict.fromkeys(matching)
    return Shards(folder=folder, names=Names(sorted(chosen)))


def _expand_braces(pattern: str) -> Iterable[str]:
    if "{" not in pattern:
        return [pattern]
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise BatchError(f"Braces want braceexpand, which is not installed: {CLUSTER_EXTRA}") from error
    try:
        return list(braceexpand(pattern))
    except ValueError as error:
        raise BatchError(f"{pattern} opens a brace that it does not close: say {{000..799}}.") from error


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """key: of WebDataset. data: the photo's file. ending: of its name, such as ".jpg"."""

    key: str
    data: bytes
    ending: str


def convert_shard(
    shards: Shards, name: str, depth: Depth, target: Target
) -> Generator[Skipped | None, None, None]:
    """A shard -> its results; None for each photo that has them, or why it has none.

    Raises ImageError: the shard cannot be read, and there is no result; OutputError.
    """
    skipped: list[Skipped] = []

    def read(sample: _Sample | Skipped) -> Pixels:
        if isinstance(sample, Skipped):
            raise ImageError(sample.reason)
        called = named(sample)
        with reasons_alone(called):
            loaded = load_photo_bytes(sample.data, name=called, ending=sample.ending, strict=target.strict)
        return loaded.pixels

    def named(sample: _Sample | Skipped) -> str:
        return sample.name if isinstance(sample, Skipped) else f"{name}/{sample.key}"

    with (
        target.folder.writing(name) as out,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as result,
    ):

        def write(sample: _Sample | Skipped, depth_map: DepthMap) -> None:
            assert isinstance(sample, _Sample)  # `read` refuses the others
            for format_ in target.formats:
                for ending, data in encoded(depth_map, format_).items():
                    member = tarfile.TarInfo(sample.key + ending.replace("_", ".", 1))
                    member.size, member.mode = len(data), 0o644
                    result.addfile(member, io.BytesIO(data))

        with closing(
            converted(_samples(shards, name), name=named, read=read, depth=depth, write=write)
        ) as outcomes:
            for _, one in outcomes:
                if one is not None:
                    skipped.append(one)
                yield one
        write_report(target.folder, name, skipped)


def _samples(shards: Shards, name: str) -> Iterator[_Sample | Skipped]:
    """The photos of a shard, one after another; what cannot be one, as Skipped. Raises ImageError."""
    seen: set[str] = set()
    try:
        with shards.folder.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            try:
                for member in tar:
                    key, ending = split_name(member.name)
                    if not (member.isreg() and ending.lower() in PHOTO_ENDINGS) or key in seen:
                        continue
                    seen.add(key)
                    if reason := no_name(key + LONGEST_ENDING):
                        yield Skipped(name=f"{name}/{key}", reason=f"its key {reason}")
                    elif member.size > MAX_BYTES:
                        yield Skipped(name=f"{name}/{key}", reason=f"has more than {MAX_BYTES // 10**6} MB")
                    else:
                        photo = tar.extractfile(member)
                        assert photo is not None  # it is regular
                        yield _Sample(key=key, data=photo.read(), ending=ending)
                end = _rest(file, tar.offset)
            except (tarfile.TarError, EOFError) as error:
                end = str(error)
            if end:
                yield Skipped(
                    name=name, reason=f"is damaged after {len(seen)} photos ({end}): the rest is lost"
                )
    except tarfile.TarError as error:
        raise ImageError(f"cannot be read ({error}): shards are plain tar files") from error
    except (ImageError, GeneratorExit):
        raise
    except Exception as error:  # OSError, or what a driver raises
        raise ImageError(f"cannot be read ({shortened(error)}): check address and access") from error


def _rest(file: BinaryIO, offset: int) -> str:
    """Why a tar that seems to end at `offset` does not; "" where it does. tarfile takes noise for the end."""
    file.seek(offset)
    return "no header where one should be" if file.read(tarfile.BLOCKSIZE).strip(b"\0") else ""


def report_name(shard: str) -> str:
    """a/x.tar -> a/x.skipped.json; with a hash for x where that would be too long."""
    return str(beside(PurePosixPath(shard.removesuffix(ENDING)), "skipped.json"))


def write_report(folder: Folder, shard: str, skipped: Sequence[Skipped]) -> None:
    if skipped:
        with folder.writing(report_name(shard)) as file:
            file.write(report(skipped))
    else:
        folder.remove(report_name(shard))  # of a run that was killed


def reported(folder: Folder, shard: str) -> list[Skipped]:
    """What its report says; nothing where it has none."""
    try:
        return [Skipped(**one) for one in json.loads(folder.read(report_name(shard)))]
    except FileNotFoundError:
        return []


def count(folder: Folder, shard: str) -> int:
    """How many photos a shard of results holds."""
    with folder.open(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        return len({split_name(name)[0] for name in tar.getnames()})


def split_name(name: str) -> tuple[str, str]:
    """The name of a file in a shard -> the key of its sample, and the rest: x/k1 and .depth.png.

    By WebDataset's rule, the key ends before the first dot of the last part. Hidden files have none. The
    library itself is not asked, as it imports torch wherever torch is installed.
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    key, dot, rest = last.partition(".")
    return (folder + slash + key, dot + rest) if key else ("", "")

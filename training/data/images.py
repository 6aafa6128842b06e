"""Photos without depth: any folder of pictures, or WebDataset shards.

    PhotoFolder("photos")                     photos/trip/sea.JPG          named "trip/sea.JPG"
    PhotoShards("laion/{00000..00799}.tar")   000031234.jpg in 00003.tar   named "00003.tar/000031234"

Both are in a fixed order: by path, and within a shard as written. Nothing is decoded until it is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import logging
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from fiffdepth_rt.atomic import beside, replacing
from fiffdepth_rt.cluster.names import Names
from fiffdepth_rt.photos.formats import PHOTO_ENDINGS
from fiffdepth_rt.photos.results import RESULT_ENDINGS
from fiffdepth_rt.program.terminal import one_line
from training.data import reading
from training.data.samples import DataError, Photo, SampleError

log = logging.getLogger("training")

MIN_SIDE = 128
"""Photos with a shorter side are thumbnails: enlarged to 512 they would teach blur."""
LICENCE = "as the photos' owners say; not recorded"


class PhotoFolder:
    """All pictures under a folder -> Photo; not hidden ones, not through links to folders, and no results of
    `fiffdepth infer`.

    name: in logs and keys. licence: of the photos, as far as known; it goes into the checkpoint.
    Raises DataError if there is no such folder, or no picture in it.
    """

    def __init__(
        self, root: str | Path, *, name: str = "photos", licence: str = LICENCE, min_side: int = MIN_SIDE
    ) -> None:
        self.name = name
        self.licence = licence
        self._root = Path(root)
        self._min_side = min_side
        if not self._root.is_dir():
            raise DataError(f"{root} is not a folder: name one with photos in it, or shards (*.tar).")
        found = _walk(self._root)
        photos = [path for path in found if not path.endswith(RESULT_ENDINGS)]
        if len(photos) < len(found):
            log.warning(
                "%s: %d results of an earlier run (such as *_depth.png) are no photos and are left out",
                one_line(str(root)),
                len(found) - len(photos),
            )
        self._paths = Names(sorted(photos))
        if not len(self._paths):
            raise DataError(f"{root} holds no photos ({', '.join(PHOTO_ENDINGS)}): name another folder.")

    @property
    def root(self) -> Path:
        return self._root

    @property
    def names(self) -> Sequence[str]:
        """names[i] is the name of self[i], without reading it."""
        return self._paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Photo:
        name = self._paths[index]
        return _photo(reading.photo(self._root / name, name=name), name, self._min_side)


class PhotoShards:
    """Pictures in local WebDataset shards (tar files) -> Photo, in any order.

    shards: a path, a pattern (*, ?, {000..799}), or several. A sample's picture is its first file with a
        picture's ending; samples without one are passed over.
    index: a folder where the tables of contents are kept, as reading those of large shards takes a while;
        None: read anew each time. A table is used while its shard keeps its size and time.
    Shards in several folders are named from the folder that holds them all: "part1/00003.tar/000031234".
    Raises DataError: no such shard, not a plain tar, an address or a shell command instead of a local file.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        name: str = "photos",
        licence: str = LICENCE,
        min_side: int = MIN_SIDE,
        index: str | Path | None = None,
    ) -> None:
        self.name = name
        self.licence = licence
        self._min_side = min_side
        self._shards = _expand([shards] if isinstance(shards, str | Path) else shards)
        above = Path(os.path.commonpath([path.parent.resolve() for path in self._shards]))
        self._names = [path.resolve().relative_to(above).as_posix() for path in self._shards]
        self._tables = [
            _contents(shard, None if index is None else beside(Path(index) / called, "npz"))
            for shard, called in zip(
                tqdm(self._shards, desc="index", unit="shard", disable=len(self._shards) < 10),
                self._names,
                strict=True,
            )
        ]
        self._ends = np.cumsum([len(table.keys) for table in self._tables])
        if not self._ends[-1]:
            raise DataError(f"{shards} hold no photos ({', '.join(PHOTO_ENDINGS)}): name other shards.")

    @property
    def names(self) -> Sequence[str]:
        """names[i] is the name of self[i], without reading it."""
        return _Called(self)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _locate(self, index: int) -> tuple[int, int, str]:
        """index -> shard, row in its table, name."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        keys = self._tables[shard].keys
        row = index - int(self._ends[shard]) + len(keys)
        return shard, row, f"{self._names[shard]}/{keys[row]}"

    def __getitem__(self, index: int) -> Photo:
        shard, row, name = self._locate(index)
        table, path = self._tables[shard], self._shards[shard]
        offset, size = (int(value) for value in table.places[row])
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise SampleError(name, f"{path} cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise SampleError(name, f"{path} is cut off")
        return _photo(reading.photo_bytes(data, name=name), name, self._min_side)


@dataclasses.dataclass(frozen=True)
class _Called(Sequence[str]):
    """The names of a PhotoShards, put together when asked for."""

    shards: PhotoShards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        return self.shards._locate(index)[2]


def open_photos(
    place: str | Path,
    *,
    name: str = "photos",
    licence: str = LICENCE,
    min_side: int = MIN_SIDE,
    index: str | Path | None = None,
) -> PhotoFolder | PhotoShards:
    """A folder of photos; or shards: a folder with *.tar in it, one tar, or a pattern.

    Labelling and training both open photos here, so that both call them by the same names.
    Raises DataError as PhotoFolder and PhotoShards do.
    """
    path, named = Path(place), str(place)
    if path.is_dir():
        shards: str | Path | None = path / "*.tar" if any(path.glob("*.tar")) else None
    else:
        shards = place if path.is_file() or named.endswith(".tar") or set(named) & set("*?[{") else None
    if shards is None:
        return PhotoFolder(path, name=name, licence=licence, min_side=min_side)
    return PhotoShards(shards, name=name, licence=licence, min_side=min_side, index=index)


class Labelled:
    """The photos of a dataset that have a label, in the dataset's order.

    labels: the names that do, such as a LabelStore. Raises DataError if none of the photos is among them.
    """

    def __init__(self, photos: PhotoFolder | PhotoShards, labels: Iterable[str]) -> None:
        self.name = photos.name
        self.licence = photos.licence
        self._photos = photos
        known = set(labels)
        self._indices = np.array([i for i, name in enumerate(photos.names) if name in known], np.int64)
        if not len(self._indices):
            raise DataError(
                f"None of the {len(photos)} photos has a label (the first is {photos.names[0]!r}): label "
                "them with `python -m training.labelling`, from the same folder or pattern."
            )

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Photo:
        return self._photos[int(self._indices[index])]


def _photo(pixels: NDArray[np.uint8], name: str, min_side: int) -> Photo:
    if min(pixels.shape[:2]) < min_side:
        raise SampleError(name, f"{pixels.shape[0]}×{pixels.shape[1]} pixels: a side below {min_side}")
    return Photo(photo=pixels, name=name)


def _walk(root: Path) -> list[str]:
    """Pictures under root, as paths relative to it, with /."""
    found = []
    for folder, folders, files in os.walk(root, onerror=_log_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = Path(folder).relative_to(root)
        found += [(place / name).as_posix() for name in files if _is_photo(name)]
    return found


def _log_unreadable(error: OSError) -> None:
    log.warning("Skipped the folder %s: %s", one_line(str(error.filename)), error.strerror)


def _is_photo(name: str) -> bool:
    return not Path(name).name.startswith(".") and Path(name).suffix.lower() in PHOTO_ENDINGS


# ---- shards ----


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Contents:
    """keys: of the samples with a picture; places int64 N×2: where it begins in the tar, and its size."""

    keys: Names
    places: NDArray[np.int64]


def _expand(patterns: Sequence[str | Path]) -> list[Path]:
    """Patterns -> shards, sorted within each pattern, each once."""
    shards: dict[Path, None] = {}
    for pattern in map(str, patterns):
        if pattern.startswith("pipe:") or "://" in pattern or "::" in pattern:
            raise DataError(
                f"{pattern}: only local files are read, no commands and no addresses. Download first."
            )
        for path in expand_urls(pattern):
            matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - takes absolute patterns
            if not matches:
                raise DataError(f"No shard matches {path}: name tar files, or a pattern in quotes.")
            shards |= dict.fromkeys(map(Path, matches))
    return list(shards)


def _contents(shard: Path, kept: Path | None) -> _Contents:
    """The shard's table of contents, from the file where it is kept if that is still right."""
    state = shard.stat()
    stamp = np.array([state.st_size, state.st_mtime_ns])
    if kept is not None and kept.exists():
        with contextlib.suppress(Exception), np.load(kept, allow_pickle=False) as file:  # damaged: made anew
            if np.array_equal(file["stamp"], stamp):
                keys = os.fsdecode(file["keys"].tobytes()).split("\0")[:-1]
                return _Contents(keys=Names(keys), places=file["places"])
    pictures = _list_tar(shard)
    keys, places = list(pictures), np.array(list(pictures.values()), np.int64).reshape(-1, 2)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(b"".join(os.fsencode(key) + b"\0" for key in keys), np.uint8)
        with replacing(kept) as file:
            np.savez(file, stamp=stamp, keys=text, places=places)
    return _Contents(keys=Names(keys), places=places)


def _list_tar(shard: Path) -> dict[str, tuple[int, int]]:
    """Tar -> (offset, size) of the first picture of every sample, by key, as written."""
    pictures: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, ending = base_plus_ext(member.name)
                if member.isreg() and key and f".{ending.lower()}" in PHOTO_ENDINGS:
                    pictures.setdefault(key.removeprefix("./"), (member.offset_data, member.size))
    except (tarfile.TarError, OSError, EOFError) as error:
        if not pictures:
            raise DataError(
                f"{shard} cannot be read ({error}): shards are plain tar files; decompress a .tar.gz first."
            ) from error
        log.warning("%s is cut off after %d photos (%s)", one_line(str(shard)), len(pictures), error)
    return pictures

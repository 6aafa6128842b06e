"""Photos that know their names without being read: a resumed run passes over finished ones at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from training.data.images import PhotoFolder, PhotoShards
from training.data.samples import Real


class Photos(Real, Protocol):
    """names[i] is the name that self[i] will have, or that its SampleError names."""

    @property
    def names(self) -> Sequence[str]: ...


class NamedFolder(PhotoFolder):
    @property
    def names(self) -> Sequence[str]:
        return self._paths


class NamedShards(PhotoShards):
    @property
    def names(self) -> Sequence[str]:
        return [
            f"{shard.name}/{key}"
            for shard, table in zip(self._shards, self._tables, strict=True)
            for key in table.keys
        ]


def open_photos(images: Path, *, index: Path) -> Photos:
    """A folder of photos; or shards: a folder of *.tar, a tar, or a pattern. See training/data/images.py.

    index: folder in which the shards' tables of contents are kept. Raises DataError if nothing is there.
    """
    if not images.is_dir():
        return NamedShards(images, index=index)
    if any(images.glob("*.tar")):
        return NamedShards(images / "*.tar", index=index)
    return NamedFolder(images)

"""Where depth maps go, by the name of the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.files import refuse_source, to_16_bits
from fiffdepth_rt.stream import StreamItem
from fiffdepth_rt.video.folder import DepthPictures
from fiffdepth_rt.video.library import check_pyav
from fiffdepth_rt.video.source import Source

COLOR_ENDINGS = (".mp4", ".mov", ".webm")
VALUES_ENDING = ".mkv"


class Result(Protocol):
    """Where depth maps go. Closing keeps what was written, ready to use."""

    @property
    def frames(self) -> int:
        """How many were written; 0 where a file could not be finished, and is not there."""

    @property
    def already(self) -> int:
        """How many were there from an earlier run, and were kept."""

    def begin(self, made_of: Mapping[str, Any]) -> None:
        """Before the first frame: source, model and options, as JSON holds them. Raises OutputError."""

    def has(self, number: int) -> bool:
        """Whether this frame of the source need not be computed."""

    def skip(self) -> None:
        """Such a frame was passed by."""

    def write(self, item: StreamItem) -> None:
        """What a stream gave for a frame of the source, its Moment as tag. Raises OutputError."""

    def close(self, *, whole: bool) -> None:
        """Finish the file. whole: the source came to its end. Raises OutputError if it cannot be finished."""


def open_result(
    out: Path, *, source: Source, side_by_side: bool = False, sound: bool = True, overwrite: bool = False
) -> Result:
    """By its name: .mp4, .mov and .webm in colour, .mkv with 16-bit values, without ending a folder of PNG.

    source: whose frames will come; its times, its rate and (sound) its sound are taken over, and none of its
        files is ever replaced, whatever its name and `overwrite`.

    Nothing is written before the first frame. Raises OutputError: exists already, the source itself, another
    ending, side_by_side where there is no colour; SourceError without PyAV.
    """
    suffix = out.suffix.lower()
    refuse_source(out, source.paths, name=f"the source {source.name}")
    if side_by_side and suffix not in COLOR_ENDINGS:
        raise OutputError(
            f"Side by side is for eyes, and {out} holds values: name a file that ends in "
            f"{_listed(COLOR_ENDINGS)}."
        )
    if (suffix in COLOR_ENDINGS or suffix == VALUES_ENDING) and not out.is_dir():
        check_pyav()
        if suffix == VALUES_ENDING:
            return DepthVideo(out, source=source, overwrite=overwrite)
        return ColorVideo(out, source=source, side_by_side=side_by_side, sound=sound, overwrite=overwrite)
    if suffix and not out.is_dir():
        raise OutputError(
            f"{out} has an unknown ending: name a file {_listed(COLOR_ENDINGS)} (colours) or {VALUES_ENDING} "
            "(16-bit values), or a folder."
        )
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: name a folder, or a file that ends in {_listed(COLOR_ENDINGS)}.")
    return DepthPictures(out, overwrite=overwrite)


class Both:
    """Two results of the same frames; counted are those of the first."""

    def __init__(self, first: Result, second: Result) -> None:
        self._first, self._second = first, second

    @property
    def frames(self) -> int:
        return self._first.frames

    @property
    def already(self) -> int:
        return self._first.already

    def begin(self, made_of: Mapping[str, Any]) -> None:
        self._first.begin(made_of)
        self._second.begin(made_of)

    def has(self, number: int) -> bool:
        return self._first.has(number) and self._second.has(number)

    def skip(self) -> None:
        self._first.skip()
        self._second.skip()

    def write(self, item: StreamItem) -> None:
        self._first.write(item)
        self._second.write(item)

    def close(self, *, whole: bool) -> None:
        try:
            self._first.close(whole=whole)
        finally:
            self._second.close(whole=whole)


class _Video:
    """What videos have in common. `already` and the rest: a file is made in one go."""

    already = 0

    def __init__(self, path: Path, *, values: bool, source: Source, sound: bool, overwrite: bool) -> None:
        from fiffdepth_rt.video.encoding import COLOR, VALUES, VideoFile

        encoding = (VALUES if values else COLOR)[path.suffix.lower()]
        self._file = VideoFile(path, encoding=encoding, source=source, sound=sound, overwrite=overwrite)

    @property
    def frames(self) -> int:
        return self._file.frames

    def begin(self, made_of: Mapping[str, Any]) -> None:
        pass

    def has(self, number: int) -> bool:
        return False

    def skip(self) -> None:
        pass

    def close(self, *, whole: bool) -> None:
        self._file.close(whole=whole)


class ColorVideo(_Video):
    """Colours for eyes, near is warm, with the source's sound; side by side, the photo is on the left."""

    def __init__(
        self, path: Path, *, source: Source, side_by_side: bool, sound: bool, overwrite: bool
    ) -> None:
        super().__init__(path, values=False, source=source, sound=sound, overwrite=overwrite)
        self._side_by_side = side_by_side

    def write(self, item: StreamItem) -> None:
        picture = item.depth_map.colors()
        if self._side_by_side:
            picture = np.hstack([item.photo, picture])
        self._file.add(item.tag.time_s, picture, metadata={})


class DepthVideo(_Video):
    """16-bit values without loss: FFV1, grey. Its tags SPACE, CONVENTION and MODEL are those of a PNG."""

    def __init__(self, path: Path, *, source: Source, overwrite: bool) -> None:
        super().__init__(path, values=True, source=source, sound=False, overwrite=overwrite)

    def write(self, item: StreamItem) -> None:
        values = to_16_bits(item.depth_map.values)
        self._file.add(item.tag.time_s, values, metadata=item.depth_map.labels())


def _listed(endings: tuple[str, ...]) -> str:
    return ", ".join(endings[:-1]) + f" or {endings[-1]}"

"""A word of --datasets -> an opened set with depth in metres."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.sets.depth_sets import FolderFrames, Frames, ListedFrames, row_of
from training.data.samples import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordOfDatasets:
    """A word of --datasets, and what opens it: the values of --data, --splits, --subset and --scale."""

    word: str
    data: Path | None = None
    splits: Path | None = None
    subset: bool = False
    scale: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetChoice(WordOfDatasets):
    """A set with depth: a row's name, "folder:DIR", or "scenes:N" (scale: of those)."""

    @property
    def key(self) -> str:
        """By which results are found: the row's name, or the word without what means nothing elsewhere."""
        kind, _, rest = self.word.partition(":")
        return f"folder:{Path(rest).name}" if kind == "folder" else self.word

    @property
    def title(self) -> str:
        """In tables: the row's title, or what follows the colon without its folders."""
        kind, _, rest = self.word.partition(":")
        if kind == "folder":
            return Path(rest).name or rest
        return self.word if kind == "scenes" else row_of(kind).title

    def open(self) -> Frames:
        """Raises DataError: an unknown word, no data, another layout, a list of another length."""
        kind, _, rest = self.word.partition(":")
        if kind == "folder" and rest:
            return FolderFrames(Path(rest).expanduser())
        if kind == "scenes" and rest:
            from benchmarks.sets.scenes import RenderedFrames  # needs the renderer, and pairs do not

            return RenderedFrames(rest, scale=self.scale)
        row = row_of(self.word)
        if self.data is None:
            raise DataError(f"{row.title} needs --data ROOT, the folder that holds {row.folder}/.")
        return ListedFrames(row, self.data, splits=self.splits, subset=self.subset)

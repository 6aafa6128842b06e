"""Split lists: which files of a dataset belong to the benchmark, a line each, fields parted by blanks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from training.data.samples import DataError

Line = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitList:
    """names: where the file lies beneath the folder of lists, newest name first. lines: how many it has.

    images: the lines that have a truth. fields: of a line, for the message. source: whose list it is.
    """

    names: tuple[str, ...]
    lines: int
    images: int
    fields: str
    source: str

    def find(self, folders: Sequence[Path]) -> Path:
        """The list in the first of `folders` that has it, by its whole name or its last part alone.

        Raises DataError, which says what is expected and where.
        """
        for folder in folders:
            for name in self.names:
                for path in (folder / name, folder / Path(name).name):
                    if path.is_file():
                        return path
        raise DataError(
            f"No list {self.names[0]} in {' or '.join(str(f) for f in folders)}: it has {self.lines} lines "
            f"({self.fields}) and comes with {self.source}. Put that repository's data_split/ there, or say "
            "--splits."
        )

    def read(self, path: Path, *, subset: bool) -> list[Line]:
        """The lines with a truth, in order. Raises DataError for another number of lines, unless subset."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}): copy the list of {self.source}.") from error
        found = [tuple(line.split()) for line in text.splitlines() if line.strip()]
        if len(found) != self.lines and not subset:
            raise DataError(
                f"{path} has {len(found)} lines, and {self.source}'s has {self.lines}: copy the list again, "
                "or say --subset for a result that says how many images it stands for."
            )
        wanted = len(self.fields.split(", "))
        short = next((line for line in found if len(line) < min(wanted, 2)), None)
        if short is not None or not found:
            raise DataError(f"{path} is no list of {self.fields}: {' '.join(short or ('it is empty',))}.")
        return [line for line in found if line[1] != "None"]

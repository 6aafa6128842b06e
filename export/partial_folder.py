"""Where an engine directory grows until it is whole: the temporary folder beside the result.

    engines/.nano.partial/     graphs, golden values and state.json, which lists the pieces that are done
    engines/nano/              appears by one rename, with its manifest

A killed export leaves only the temporary folder, which has no manifest. The same command finds the pieces in
that folder, checks their hashes, and goes on; a command with another checkpoint or other folds starts again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, FileRecord
from fiffdepth_rt.errors import OutputError

STATE_NAME = "state.json"


Make = Callable[[], tuple[Any, Iterable[str]]]  # -> a result that JSON can hold, and the files written


class PartialFolder:
    """The temporary folder beside `target` while the export runs, `.NAME.partial`.

    key: what every piece depends on; pieces made under another key are thrown away.
    Raises OutputError when `target` is there already and may not be overwritten, or nothing can be written.
    """

    def __init__(self, target: Path, *, key: str, overwrite: bool, resume: bool) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.partial")
        self._key = key
        self._found: dict[str, Any] = {}
        self._done: dict[str, Any] = {}
        refuse_existing(target, overwrite=overwrite)
        with writing(target):
            if resume:
                self._found = self._pieces_left()
            if not self._found:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def pieces_found(self) -> tuple[str, ...]:
        """The pieces that an earlier run has made."""
        return tuple(self._found)

    def piece(self, name: str, make: Make) -> Any:
        """The result of `make`, which writes files into the folder; not run again if an earlier run did it.

        The name says everything that the piece depends on beyond the key. Files are relative to the folder.
        """
        if name in self._found:
            self._done[name] = self._found[name]
            return self._done[name]["result"]
        with writing(self.target):
            result, files = make()
            records = {file: msgspec.to_builtins(hash_file(self.folder / file)) for file in files}
            self._done[name] = {"result": result, "files": records}
            kept = {k: v for k, v in self._found.items() if not v["files"].keys() & records.keys()}
            state = {"key": self._key, "pieces": {**kept, **self._done}}
            with replacing(self.folder / STATE_NAME) as f:
                f.write(json.dumps(state, indent=1).encode())
        return result

    def files(self) -> dict[str, FileRecord]:
        """The files of this run's pieces, by their path in the folder."""
        return {name: FileRecord(**r) for piece in self._done.values() for name, r in piece["files"].items()}

    def finish(self) -> None:
        """Folder -> target, by rename, with its manifest and its pieces' files only.

        What was there before is removed after the new one stands.
        """
        with writing(self.target):
            for path in [p for p in self.folder.rglob("*") if p.is_file()]:
                name = path.relative_to(self.folder).as_posix()
                if name != MANIFEST_NAME and name not in self.files():
                    path.unlink()
            for path in sorted((p for p in self.folder.rglob("*") if p.is_dir()), reverse=True):
                if not any(path.iterdir()):
                    path.rmdir()
            for path in (p for p in self.folder.rglob("*") if p.is_file()):
                with path.open("rb") as f:
                    os.fsync(f.fileno())  # the rename must not outlive the contents
            old = self.target.with_name(f".{self.target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if self.target.exists():
                self.target.rename(old)
            self.folder.rename(self.target)
            shutil.rmtree(old, ignore_errors=True)

    def _pieces_left(self) -> dict[str, Any]:
        """The pieces of an earlier run with the same key whose files are as they were written."""
        try:
            state = json.loads((self.folder / STATE_NAME).read_text())
            if state["key"] != self._key:
                return {}
            return {
                name: piece
                for name, piece in state["pieces"].items()
                if all(_is(self.folder / file, FileRecord(**r)) for file, r in piece["files"].items())
            }
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raises OutputError unless `target` is free, or an engine directory (or empty) that may be replaced."""
    if not target.exists():
        return
    if not overwrite:
        raise OutputError(
            f"{target} exists already. Add --overwrite to replace it, or choose another place with -o."
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST_NAME).is_file()):
        raise OutputError(
            f"{target} is not an engine directory, so it is not overwritten. Remove it yourself, or choose "
            "another place with -o."
        )


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns what the file system refuses into an OutputError that says how to go on."""
    try:
        yield
    except OutputError:
        raise
    except OSError as e:
        raise OutputError(
            f"{target} cannot be written: {e.strerror or e}. Nothing that looks finished was left; make "
            "room, or choose a folder that you may write to. The same command goes on where it stopped."
        ) from e


def _is(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.bytes and hash_file(path) == record

"""Where an engine directory grows until it is whole: the temporary folder beside the result.

    engines/.nano.partial/     graphs, golden values and state.json, which lists the pieces that are done
    engines/nano/              appears by one rename, with its manifest
    engines/.nano.lock         held while an export runs, gone at its end

A killed export leaves the temporary folder. The same command finds the pieces in that folder, checks their
hashes, and goes on; a command with another checkpoint or other folds starts again.

A directory that is replaced changes places with the temporary folder, in one step: at every moment the old
one or the new one is there under its name. The list of pieces leaves the result last, so that a run which
was stopped after that step is known by it: the same command takes the pieces from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import msgspec

from fiffdepth_rt.atomic import beside, exchange, replacing
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, FileRecord
from fiffdepth_rt.errors import OutputError

STATE_NAME = "state.json"


Make = Callable[[], tuple[Any, Iterable[str]]]  # -> a result that JSON can hold, and the files written


class PartialFolder:
    """The temporary folder beside `target` while the export runs, `.NAME.partial`; a hash for a long NAME.

    key: what every piece depends on; pieces made under another key are thrown away.
    Raises OutputError when `target` is there already and may not be overwritten, or nothing can be written.
    """

    def __init__(self, target: Path, *, key: str, overwrite: bool, resume: bool) -> None:
        self.target = target
        self.folder = beside(target, "partial", hidden=True)
        self._key = key
        self._found: dict[str, Any] = {}
        self._done: dict[str, Any] = {}
        refuse_existing(target, overwrite=overwrite)
        with writing(target):
            if resume:
                _take_back(target, self.folder)
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

    def leave_out(self, beginning: str) -> None:
        """Remove the pieces of this run whose names begin so, and their files."""
        for name in [name for name in self._done if name.startswith(beginning)]:
            with writing(self.target):
                for file in self._done.pop(name)["files"]:
                    (self.folder / file).unlink(missing_ok=True)
            self._found.pop(name, None)

    def files(self) -> dict[str, FileRecord]:
        """The files of this run's pieces, by their path in the folder."""
        return {name: FileRecord(**r) for piece in self._done.values() for name, r in piece["files"].items()}

    def finish(self) -> None:
        """Folder -> target, by one rename, with its manifest and its pieces' files only.

        What was there before is removed after the new one stands.
        """
        with writing(self.target):
            for path in [p for p in self.folder.rglob("*") if p.is_file()]:
                name = path.relative_to(self.folder).as_posix()
                if name not in (MANIFEST_NAME, STATE_NAME) and name not in self.files():
                    path.unlink()
            for path in sorted((p for p in self.folder.rglob("*") if p.is_dir()), reverse=True):
                if not any(path.iterdir()):
                    path.rmdir()
            for path in (p for p in self.folder.rglob("*") if p.is_file()):
                with path.open("rb") as f:
                    os.fsync(f.fileno())  # the rename must not outlive the contents
            _replace(self.folder, self.target)
            (self.target / STATE_NAME).unlink()

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
    """Raises OutputError unless `target` is free, or an engine directory (or empty) that may be replaced.

    So it is too where a run was stopped after its last rename, or between the two renames of a system that
    cannot exchange folders: the same command finishes it.
    """
    if not target.exists() or (target / STATE_NAME).is_file():
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
def only_export(target: Path) -> Iterator[None]:
    """This process is the only one that exports to `target` until the end of the block.

    The system gives the lock back when a process ends, however it ends.
    Raises OutputError where another process does, or the place cannot be written.
    """
    path = beside(target, "lock", hidden=True)
    lock = filelock.FileLock(path)
    made = [folder for folder in target.parents if not folder.exists()]
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as e:
            raise OutputError(
                f"Another export to {target} is at work. Wait for its end, or choose another place with -o."
            ) from e
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            path.unlink(missing_ok=True)  # before it is given back: whoever comes next makes a new one
        lock.release()
        with suppress(OSError):  # where something is kept in them, they stay
            for folder in made:
                folder.rmdir()


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


# --- one directory in the place of another ---


def _old(target: Path) -> Path:
    """Where the replaced directory is for a moment, on a system that cannot exchange two."""
    return beside(target, "old", hidden=True)


def _replace(folder: Path, target: Path) -> None:
    """Folder -> target; what was there is removed. A kill leaves the old or the new one under its name.

    Where the system cannot exchange two directories there is a moment without either; `_take_back` ends it.
    """
    if not target.exists():
        folder.rename(target)
    elif exchange(folder, target):
        _remove(folder)
    else:
        _remove(_old(target))
        target.rename(_old(target))
        folder.rename(target)
        _remove(_old(target))


def _take_back(target: Path, folder: Path) -> None:
    """What a run left that was stopped in its last step -> as it was before that step."""
    old = _old(target)
    if not target.exists() and old.exists():
        old.rename(target)
    if (target / STATE_NAME).is_file():  # the new one stands; in the folder lies the old one, or a part of it
        _remove(folder)
        shutil.copytree(target, folder)
    if target.exists():
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink():  # the place of the result may be a link
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)

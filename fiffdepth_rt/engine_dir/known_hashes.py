"""SHA-256 of the files of an engine directory, remembered until a file changes.

    <cache>/hashes/<key>.json      of one directory: by file, its SHA-256 and what the file system said of it

Hashing a full-size model takes seconds, on every start of a robot. So what was hashed is remembered with the
file's size, inode, and times of its last change; a file of which any of these differs is hashed again. The
memory says only which SHA-256 a file has. Which one it should have, the manifest says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from pathlib import Path

import msgspec

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.manifest import FileRecord, Sha256
from fiffdepth_rt.errors import OutputError

# A file may change twice within one tick of the file system's clock (10 ms on Linux), unseen by its times.
_SETTLED_NS = 100_000_000
_SAID_FROM_BYTES = 2**30  # from here on, seconds
log = logging.getLogger(__name__)


class _Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """state: (size in bytes, inode, ns of the last change of content, ns of the last change of anything)."""

    sha256: Sha256
    state: tuple[int, int, int, int]


class KnownHashes:
    """The hashes of one directory's files. Safe to use from several threads at once."""

    def __init__(self, directory: Path) -> None:
        folder = cache_folder()
        key = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]
        self._file = None if folder is None else folder / "hashes" / f"{key}.json"
        self._lock = threading.Lock()
        self._known = {} if self._file is None else _read(self._file)

    def of(self, name: str, path: Path, *, again: bool) -> FileRecord:
        """A file -> its size and SHA-256: as remembered, or hashed now. Raises OSError.

        name: the file's in its directory. again: hash it, whatever is remembered.
        """
        state = _state(path)
        with self._lock:
            known = self._known.get(name)
        if known is not None and known.state == state and not again:
            return FileRecord(sha256=known.sha256, bytes=state[0])
        found = hash_file(path)
        if state == _state(path) and time.time_ns() - max(state[2:]) > _SETTLED_NS:
            self._remember(name, _Known(sha256=found.sha256, state=state))
        return found

    def _remember(self, name: str, known: _Known) -> None:
        with self._lock:
            self._known[name] = known
            if self._file is None:
                return
            text = json.dumps(msgspec.to_builtins(self._known), sort_keys=True)
            # Without a memory, the file is hashed again the next time.
            with contextlib.suppress(OSError, OutputError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._file) as file:
                    file.write(text.encode())


def hash_file(path: Path) -> FileRecord:
    """file -> its size and SHA-256."""
    if (length := path.stat().st_size) > _SAID_FROM_BYTES:
        log.info("hashing %s, %.1f GB", path, length / 1e9)
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


def _state(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _read(file: Path) -> dict[str, _Known]:
    """What is remembered; nothing where the file is not there or damaged."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, _Known])
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):  # the last: no ValueError in 0.19
        return {}

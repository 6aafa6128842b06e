"""Files that are either whole or not there, and folders that change places."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

from fiffdepth_rt.errors import OutputError

NAME_MAX_BYTES = 255
"""Of an entry of a folder, on all usual file systems."""
PATH_MAX_BYTES = 4096
"""Of a whole path on Linux, the zero at its end included."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and vanishes when it does not.

    It is a temporary sibling, flushed to disk and then renamed, so a reader sees the old file or the new one.
    Its name has 13 characters, whatever the result's, so that every name that is legal can be written. It is
    locked while it is written, which tells it from one that a killed process left (`remove_leftovers`).
    Raises OutputError where the file system refuses (no permission, disk full, no such folder).
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OutputError:  # the block's own, about another file
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Nothing was changed; "
            "choose a folder that you may write to, with room on its disk."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


AnyPath = TypeVar("AnyPath", bound=PurePath)


def beside(path: AnyPath, ending: str, *, hidden: bool = False) -> AnyPath:
    """Where what belongs to `path` lies: NAME.ending, hidden .NAME.ending; the same at every call.

    Where NAME leaves no room for that, a hash of it takes its place. A name that is too long itself stays so,
    and the file system says it.
    """
    name, dot = path.name, "." if hidden else ""
    size = len(os.fsencode(name))
    if size <= NAME_MAX_BYTES < len(dot) + size + len(f".{ending}"):
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return path.with_name(f"{dot}{name}.{ending}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `replacing` whose processes were killed. Those of living ones stay."""
    with contextlib.suppress(OSError):  # no such folder, or one that may not be read
        for path in [entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                if not _is_locked(path):
                    path.unlink()


if sys.platform == "win32":

    def _lock(_file: BinaryIO) -> None: ...

    def _is_locked(_path: Path) -> bool:
        return False  # Windows removes no file that a process has open

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_locked(path: Path) -> bool:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
_CURRENT_FOLDER, _LINUX_EXCHANGE, _MACOS_SWAP = -100, 2, 2  # AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP


def exchange(one: Path, other: Path) -> bool:
    """Two directories change places, in one step. False where the system or its file system cannot do that.

    renameat2 of Linux 3.15, renamex_np of macOS 10.12. Raises OSError.
    """
    names = os.fsencode(one), os.fsencode(other)
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _LINUX_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(names[0], names[1], _MACOS_SWAP)
    else:
        return False
    if failed and (code := ctypes.get_errno()) not in _UNABLE:
        raise OSError(code, os.strerror(code), str(other))
    return not failed

"""A folder, wherever it is: on this machine, or behind an address that fsspec has a driver for.

Names in a folder are relative, with "/". A name that could lead out of the folder is refused (`check_name`).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from fiffdepth_rt.atomic import NAME_MAX_BYTES, remove_leftovers, replacing
from fiffdepth_rt.cluster.connecting import CLUSTER_EXTRA
from fiffdepth_rt.cluster.tally import Skipped
from fiffdepth_rt.errors import BatchError, ImageError, OutputError, shortened
from fiffdepth_rt.files import local_path
from fiffdepth_rt.photos.fetching import MAX_BYTES, as_file

_ADDRESS = re.compile(r"([a-z][a-z0-9+.:-]+)://.", re.IGNORECASE)
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory"}
"""Where a file that is written in one go is there as a whole, or not at all. Elsewhere it is renamed."""


class Folder(Protocol):
    """Names -> files. It is pickled with what it needs to find its place again.

    name: as it was said. shared: whether other processes see the same.
    """

    name: str
    shared: bool

    def files(self, unreadable: list[Skipped] | None = None) -> Iterator[str]:
        """Names of all files in it and in its folders; none where it is not there.

        Hidden ones are left out, and links to folders are not followed. Folders that cannot be read are
        appended to `unreadable`.
        """

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, OSError."""

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """To read from; seekable. Raises OSError."""

    def local(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The file, or a copy for as long as the block runs. Raises ImageError: not there, or too large."""

    def writing(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file that is there, whole, when the block has ended well. Raises OutputError."""

    def remove(self, name: str) -> None:
        """Whether it is there or not. Raises OutputError."""

    def sweep(self) -> None:
        """Remove what killed writers left half-written."""


class LocalFolder:
    """A folder of this machine, or of a file system that several machines share."""

    shared = True

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.name = str(path)

    def files(self, unreadable: list[Skipped] | None = None) -> Iterator[str]:
        def tell(error: OSError) -> None:
            place = os.path.relpath(error.filename, self.path)
            if unreadable is not None and self.path.is_dir():
                unreadable.append(Skipped(name=f"{place}/", reason=f"cannot be read ({error.strerror})"))

        for folder, folders, names in os.walk(self.path, onerror=tell):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = Path(folder).relative_to(self.path)
            yield from ((place / name).as_posix() for name in sorted(names) if not name.startswith("."))

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with (self.path / name).open("rb") as file:
            yield file

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self.path / name

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        path = self.path / check_name(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The folder {path.parent} cannot be made ({error.strerror}): name another OUTPUT."
            ) from error
        with replacing(path) as file:
            yield file

    def remove(self, name: str) -> None:
        path = self.path / check_name(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be removed ({error.strerror}).") from error

    def sweep(self) -> None:
        for folder, folders, _ in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            remove_leftovers(Path(folder))


class RemoteFolder:
    """A folder behind an address. Its driver reads credentials as it always does: from the environment."""

    def __init__(self, address: str) -> None:
        self.name = address
        self._open()

    def _open(self) -> None:
        self._fs, root = open_address(self.name)
        self._root = root.rstrip("/")
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else {*self._fs.protocol}
        self._whole = bool(protocols & _WHOLE)
        self.shared = "memory" not in protocols

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.name,)

    def files(self, unreadable: list[Skipped] | None = None) -> Iterator[str]:
        try:
            found = sorted(self._fs.find(self._root))
        except FileNotFoundError:
            return
        except Exception as error:  # drivers raise dozens of kinds
            raise BatchError(
                f"{self.name} cannot be listed ({_said(error)}): check address and access."
            ) from error
        for path in found:
            name = path.removeprefix(self._root).lstrip("/")
            if name and not any(part.startswith(".") for part in name.split("/")):
                yield name

    def has(self, name: str) -> bool:
        return bool(self._fs.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(self._path(name)))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with self._fs.open(self._path(name), "rb") as file:
            yield file

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with fetched(self._fs, self._path(name), called=f"{self.name.rstrip('/')}/{name}") as path:
            yield path

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        path = self._path(check_name(name))
        with tempfile.NamedTemporaryFile(prefix="fiffdepth-") as file:
            yield cast(BinaryIO, file)
            file.flush()
            try:
                self._upload(Path(file.name), path)
            except Exception as error:
                raise OutputError(
                    f"Cannot write {self.name.rstrip('/')}/{name} ({_said(error)}): check address and access."
                ) from error

    def _upload(self, file: Path, path: str) -> None:
        if self._whole:
            self._copy(file, path)
            return
        parent = path.rpartition("/")[0]
        self._fs.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/.{secrets.token_hex(4)}.tmp"
        try:
            self._copy(file, temporary)
            self._fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm(temporary)
            raise

    def _copy(self, file: Path, path: str) -> None:
        if file.stat().st_size <= _ONE_REQUEST:
            self._fs.pipe_file(path, file.read_bytes())
        else:
            self._fs.put_file(str(file), path)

    def remove(self, name: str) -> None:
        path = self._path(check_name(name))
        try:
            if self._fs.exists(path):
                self._fs.rm_file(path)
        except Exception as error:
            raise OutputError(f"{self.name}/{name} cannot be removed ({_said(error)}).") from error

    def sweep(self) -> None:
        """An object store shows nothing half-written; elsewhere the driver cannot tell whose it is."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


_ONE_REQUEST = 64 << 20  # bytes; more is sent in parts


def folder_at(place: str) -> Folder:
    """What stands on the command line -> a folder. Raises BatchError: no driver for the address."""
    return RemoteFolder(place) if is_address(place) else LocalFolder(local_path(place))


def is_address(place: str) -> bool:
    """Whether it is an address, other than file://, which is a path."""
    return _ADDRESS.match(place) is not None and not place.lower().startswith("file:")


def open_address(address: str) -> tuple[Any, str]:
    """Address -> fsspec's file system and the path in it. Raises BatchError: no driver, no access."""
    scheme = address.partition("://")[0].lower()
    if "::" in address or scheme == "pipe":
        raise BatchError(f"{address}: neither commands nor chained addresses are read. Name one address.")
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise BatchError(f"{address} wants fsspec, which is not installed: {CLUSTER_EXTRA}") from error
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        raise BatchError(
            f"{scheme}:// wants a driver that is not installed: {_driver(scheme, error)}"
        ) from error
    except ValueError as error:
        raise BatchError(f"{address} cannot be opened ({_said(error)}): check the address.") from error
    except Exception as error:  # of credentials, of networks
        raise BatchError(f"{address} cannot be opened ({_said(error)}): check address and access.") from error
    return fs, str(path)


def _driver(scheme: str, error: ImportError) -> str:
    return f"pip install {_DRIVERS[scheme]}" if scheme in _DRIVERS else _said(error)


_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "sftp": "paramiko",
    "http": "aiohttp",
    "https": "aiohttp",
}


@contextlib.contextmanager
def photo_file(place: str) -> Iterator[Path]:
    """A photo's path or address -> its file, or a copy for as long as the block runs. Raises ImageError."""
    if not is_address(place):
        yield local_path(place)
    elif place.lower().startswith(("http://", "https://")):
        with as_file(place, ending=PurePosixPath(urlsplit(place).path).suffix[:16]) as path:
            yield path
    else:
        try:
            fs, inside = open_address(place)
        except BatchError as error:
            raise ImageError(str(error)) from error
        with fetched(fs, inside, called=place) as path:
            yield path


@contextlib.contextmanager
def fetched(fs: Any, path: str, *, called: str) -> Iterator[Path]:
    """A file of fsspec's -> a copy for as long as the block runs. Raises ImageError: not there, too large."""
    with tempfile.TemporaryDirectory(prefix="fiffdepth-") as folder:
        copy = Path(folder) / f"photo{PurePosixPath(path).suffix[:16]}"
        try:
            size = fs.size(path)
            if size is not None and size > MAX_BYTES:
                raise ImageError(f"{called} has more than {MAX_BYTES // 10**6} MB: no photo is that large.")
            copy.write_bytes(fs.cat_file(path))
        except FileNotFoundError as error:
            raise ImageError(f"{called} does not exist: name a photo file.") from error
        except ImageError:
            raise
        except Exception as error:  # drivers raise dozens of kinds
            raise ImageError(
                f"{called} cannot be fetched ({_said(error)}): check address and access."
            ) from error
        yield copy


def check_name(name: str) -> str:
    """The name of a file in a folder, if it is one that stays there. Raises OutputError."""
    if reason := no_name(name):
        raise OutputError(f"{shortened(name)!a} cannot name a result: it {reason}.")
    return name


def no_name(name: str) -> str | None:
    """Why a result cannot be named so; None where it can. Names come from strangers' tars and lists."""
    parts = name.split("/")
    if ".." in parts or name.startswith("/") or (os.name == "nt" and re.search(r"[\\:]", name)):
        return "could lead out of the folder for results"
    if not name or "" in parts or "." in parts or "\0" in name:
        return "is no path"
    if any(len(os.fsencode(part)) > NAME_MAX_BYTES for part in parts):
        return f"is longer than {NAME_MAX_BYTES} bytes with the ending of a result"
    return None


def _said(error: BaseException) -> str:
    return shortened((str(error) or type(error).__name__).splitlines()[0].rstrip("."))

"""A bag with all that another one holds, and more topics."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.ros.bags import Bag, Kind, Record

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

_METADATA_VERSION: Literal[8] = 8  # that of ROS 2 Iron; rosbag2 reads what is older than itself
_NO_HASH = "RIHS01_" + 64 * "0"
_IDL_HEADER = "=" * 80 + "\nIDL: "


class BagWriter:
    """A new bag of the same kind as `source`, with its topics: types, definitions, QoS, latching.

    path: a folder for rosbag2, a file for ROS 1; nothing is there yet. like: the topic whose QoS new topics
    get. MCAP is compressed by zstd. Left early or by an error, `path` holds no whole bag. Raises OutputError.
    """

    def __init__(self, path: Path, *, source: Bag, like: str) -> None:
        self.path = path
        self._source = source
        self._like = next(one for one in source.connections if one.topic == like)
        self._made: dict[tuple[Any, ...], Connection] = {}
        self._copies: dict[int, Connection] = {}
        with self._explained():
            self._writer = _opened(path, source.kind)
            for one in source.connections:
                self._copies[one.id] = self._connect(one.topic, one.msgtype, *self._definition(one), one.ext)

    def copy(self, record: Record) -> None:
        """A message of the source, byte by byte, at the time when it was recorded."""
        with self._explained():
            self._writer.write(self._copies[record.connection.id], record.recorded_ns, record.data)

    def add(self, topic: str, type_: str, message: Any, *, recorded_ns: int) -> None:
        """A message of a new topic."""
        definition = self._ros_definition(type_)
        with self._explained():
            connection = self._connect(topic, type_, *definition, self._like.ext)
            self._writer.write(connection, recorded_ns, self._source.encode(message, type_))

    def note(self, key: str, text: str) -> None:
        """Words beside the messages: custom_data in metadata.yaml. A bag of ROS 1 has no room for them."""
        if self._source.kind is not Kind.ROS1:
            self._writer.set_custom_data(key, text)

    def _connect(self, topic: str, type_: str, definition: str, digest: str, ext: Any) -> Connection:
        """Several connections of a source may be alike (publishers of one topic): they become one."""
        key = (topic, type_, str(ext))
        if key not in self._made:
            if self._source.kind is Kind.ROS1:
                said = {"md5sum": digest, "callerid": ext.callerid, "latching": ext.latching}
            else:
                said = {
                    "rihs01": digest,
                    "serialization_format": ext.serialization_format,
                    "offered_qos_profiles": ext.offered_qos_profiles,
                }
            self._made[key] = self._writer.add_connection(topic, type_, msgdef=definition, **said)
        return self._made[key]

    def _definition(self, connection: Connection) -> tuple[str, str]:
        """Text and hash of a connection's type: its own; ROS's for bags that hold none, as before ROS 2 Iron;
        where ROS has no such type, an empty one."""
        from rosbags.interfaces import MessageDefinitionFormat

        definition = connection.msgdef
        if definition.format is MessageDefinitionFormat.NONE:
            if connection.msgtype in self._source.typestore.fielddefs:
                return self._ros_definition(connection.msgtype)
            return "", connection.digest or _NO_HASH
        text = definition.data
        if definition.format is MessageDefinitionFormat.IDL and not text.startswith(_IDL_HEADER):
            text = f"{_IDL_HEADER}{connection.msgtype}\n{text}"  # by which rosbags knows IDL
        return text, connection.digest or _NO_HASH

    def _ros_definition(self, type_: str) -> tuple[str, str]:
        version = 1 if self._source.kind is Kind.ROS1 else 2
        text, _ = self._source.typestore.generate_msgdef(type_, ros_version=version)
        return text, self._source.digest(type_)

    def close(self) -> None:
        """Finish the bag, and flush it to disk."""
        with self._explained():
            self._writer.close()
            for path in self.path.iterdir() if self.path.is_dir() else (self.path,):
                with path.open("r+b") as file:  # Windows flushes only what may be written
                    os.fsync(file.fileno())

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # what is being raised says more
                self._writer.abort()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"The bag {self.path} cannot be written ({getattr(error, 'strerror', None) or error}): "
                "choose a folder that you may write to, with room on its disk."
            ) from error


def _opened(path: Path, kind: Kind) -> Any:
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
    from rosbags.rosbag2 import Writer as Writer2

    writer: Any
    if kind is Kind.ROS1:
        writer = Writer1(path)
    elif kind is Kind.SQLITE3:
        writer = Writer2(path, version=_METADATA_VERSION, storage_plugin=StoragePlugin.SQLITE3)
    else:
        writer = Writer2(path, version=_METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    writer.open()
    return writer

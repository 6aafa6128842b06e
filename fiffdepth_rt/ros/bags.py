"""Bags of ROS 1 and ROS 2 (sqlite3, MCAP): which topics there are, their messages in the order of recording.

By rosbags (the extra [robotics]), which needs no ROS installation. Messages are read by ROS's own
definitions; a bag whose definition of such a message is another one is refused. All other messages are never
looked into.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fiffdepth_rt.errors import BagError, FiffDepthError, MessageError, shortened

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag1 import Reader as Reader1
    from rosbags.rosbag2 import Reader as Reader2
    from rosbags.typesys.store import Typestore

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
CLOUD = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = "tf2_msgs/msg/TFMessage"

_LISTED = 20  # topics in an error


class Kind(enum.Enum):
    """How a bag is stored: what people call it, and what mends one whose recording was cut off."""

    ROS1 = ("ROS 1 bag", "`rosbag reindex`")
    SQLITE3 = ("rosbag2 (sqlite3)", "`ros2 bag reindex`, or sqlite3's `.recover`")
    MCAP = ("rosbag2 (MCAP)", "`mcap recover`, then `ros2 bag reindex`")

    @property
    def called(self) -> str:
        return self.value[0]

    @property
    def cure(self) -> str:
        return self.value[1]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A message as it lies in a bag. recorded_ns: when it was recorded, which its header's stamp is not."""

    connection: Connection
    recorded_ns: int
    data: bytes

    @property
    def topic(self) -> str:
        return self.connection.topic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic of a bag: its type as "sensor_msgs/msg/Image", and how many messages it has."""

    name: str
    type: str
    count: int


class Bag:
    """A bag that is open for reading. Raises BagError: not there, no bag, cut off, without messages."""

    def __init__(self, path: Path) -> None:
        _check_rosbags()
        self.path = path
        self.kind = _kind_of(path)
        self._open = contextlib.ExitStack()
        self._second: Reader1 | Reader2 | None = None
        _refuse_journals(path)
        with self._explained():
            self._reader = self._opened()
            self.connections: tuple[Connection, ...] = tuple(self._reader.connections)
        self.typestore = _typestore(self.kind)
        counts: dict[tuple[str, str], int] = {}
        for one in self.connections:
            counts[one.topic, one.msgtype] = counts.get((one.topic, one.msgtype), 0) + one.msgcount
        self.topics: Mapping[str, Topic] = {
            name: Topic(name=name, type=type_, count=count) for (name, type_), count in counts.items()
        }
        if not sum(counts.values()):
            self.close()
            raise BagError(f"{path} holds no messages: its recording ended before it began.")

    def messages(self, *topics: str) -> Iterator[Record]:
        """All messages of these topics, or of every topic, in the order in which they were recorded.

        Raises BagError where the bag is damaged.
        """
        wanted = [one for one in self.connections if not topics or one.topic in topics]
        with self._explained():
            for connection, recorded_ns, data in self._reader.messages(wanted) if wanted else ():
                yield Record(connection=connection, recorded_ns=recorded_ns, data=data)

    def recorded_at(self, topic: str, recorded_ns: int) -> Iterator[Record]:
        """The messages of a topic that were recorded at this time; mostly one. Also while `messages` is in
        the middle: by a reader of its own. Raises BagError."""
        with self._explained():
            second = self._second = self._second or self._opened()
            wanted = [one for one in second.connections if one.topic == topic]
            for connection, at_ns, data in second.messages(wanted, recorded_ns, recorded_ns + 1):
                yield Record(connection=connection, recorded_ns=at_ns, data=data)

    def _opened(self) -> Reader1 | Reader2:
        from rosbags.rosbag1 import Reader as Reader1
        from rosbags.rosbag2 import Reader as Reader2

        reader = Reader1(self.path) if self.kind is Kind.ROS1 else Reader2(self.path)
        reader.open()
        self._open.callback(reader.close)
        return reader

    def decode(self, record: Record) -> Any:
        """A record -> the message, of a class of `typestore`. Raises MessageError: it cannot be decoded."""
        name = record.connection.msgtype
        try:
            if self.kind is Kind.ROS1:
                return self.typestore.deserialize_ros1(record.data, name)
            return self.typestore.deserialize_cdr(record.data, name)
        except Exception as error:  # rosbags' own, and what its generated code raises on damaged bytes
            raise MessageError(
                f"A message of {record.topic} ({name}) cannot be decoded ({shortened(error, 120)}): it was "
                "cut off or damaged."
            ) from error

    def encode(self, message: Any, type_: str) -> bytes | memoryview:
        """A message of a class of `typestore` -> its bytes in this kind of bag."""
        if self.kind is Kind.ROS1:
            return self.typestore.serialize_ros1(message, type_)
        return self.typestore.serialize_cdr(message, type_)

    def choose(self, name: str | None, types: tuple[str, ...], *, option: str, what: str) -> Topic:
        """The topic of that name, or where that is None, the only one of these types.

        Raises BagError: there is none of that name, it is of another type, there are several or none; the
        error lists those that would do, or all there are, by type.
        """
        fitting = [topic for topic in self.topics.values() if topic.type in types and topic.count]
        if name is None and len(fitting) == 1:
            found = fitting[0]
        elif name is None:
            many = f"several topics of {what}: name one with {option}." if fitting else f"no topic of {what}."
            raise BagError(f"{self.path} holds {many} {self._listed(fitting)}")
        elif name not in self.topics:
            raise BagError(f"{self.path} holds no topic {name}. {self._listed(fitting)}")
        elif self.topics[name].type not in types:
            raise BagError(
                f"{name} is of {self.topics[name].type}, and {option} names a topic of {what}. "
                f"{self._listed(fitting)}"
            )
        else:
            found = self.topics[name]
        if not found.count:
            raise BagError(f"{name} is in {self.path}, but without messages. {self._listed(fitting)}")
        self._refuse_other_definitions(found)
        return found

    def _listed(self, fitting: list[Topic]) -> str:
        topics = sorted(
            (topic for topic in fitting or self.topics.values() if topic.count),
            key=lambda t: (t.type, t.name),
        )
        lines = [
            f"  {shortened(t.type, 80):32} {shortened(t.name, 80)} ({t.count})" for t in topics[:_LISTED]
        ]
        more = [f"  and {len(topics) - _LISTED} more"] if len(topics) > _LISTED else []
        return "\n".join(["Those that would do:" if fitting else "The bag's topics:", *lines, *more])

    def _refuse_other_definitions(self, topic: Topic) -> None:
        for one in self.connections:
            if one.topic == topic.name and one.digest and one.digest != self.digest(topic.type):
                raise BagError(
                    f"{topic.name} says that it is of {topic.type}, but its definition is not ROS's: it was "
                    "recorded with a package of the same name. Convert it to the message of ROS first."
                )

    def digest(self, type_: str) -> str:
        """The hash of ROS's definition of a message: MD5 in ROS 1, RIHS01 in ROS 2."""
        if self.kind is Kind.ROS1:
            return str(self.typestore.generate_msgdef(type_)[1])
        return str(self.typestore.hash_rihs01(type_))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What a reader raises on a file that is no bag, or a damaged one -> BagError."""
        try:
            yield
        except FiffDepthError:
            raise
        except PermissionError as error:
            raise BagError(
                f"{self.path} cannot be read: no permission; change its mode, or copy it."
            ) from error
        except Exception as error:  # rosbags', its decompressors', SQLite's; a MemoryError for a wrong length
            raise BagError(
                f"{self.path} cannot be read as a {self.kind.called} "
                f"({shortened(error, 160).rstrip('.')}). If its recording was cut off: {self.kind.cure}; "
                "else it is damaged, or no bag."
            ) from error

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_rosbags() -> None:
    try:
        import rosbags.highlevel  # noqa: F401
    except ImportError as error:
        why = "which is not installed" if error.name == "rosbags" else f"which cannot be imported ({error})"
        raise BagError(f"Bags are read by rosbags, {why}: pip install 'fiffdepth-rt[robotics]'") from error


def _kind_of(path: Path) -> Kind:
    if not path.exists():
        raise BagError(f"{path} does not exist: name a bag: a folder of ROS 2, an .mcap, a .db3 or a .bag.")
    if path.is_dir():
        names = [entry.name for entry in path.iterdir()]
        kind = Kind.MCAP if any(".mcap" in name for name in names) else Kind.SQLITE3
        if "metadata.yaml" not in names:
            stored = any(name.endswith((".mcap", ".db3")) for name in names)
            raise BagError(
                f"{path} holds no metadata.yaml, "
                + (
                    "since its recording was cut off: `ros2 bag reindex` writes one; or name the file in it."
                    if stored
                    else "so it is no bag of ROS 2: name a bag's folder, an .mcap, a .db3 or a .bag."
                )
            )
        return kind
    kinds = {".bag": Kind.ROS1, ".db3": Kind.SQLITE3, ".mcap": Kind.MCAP}
    if path.suffix not in kinds:
        raise BagError(f"{path} is no bag by its name: name a folder of ROS 2, an .mcap, a .db3 or a .bag.")
    return kinds[path.suffix]


def _refuse_journals(path: Path) -> None:
    """Until a recorder ends, SQLite may keep the newest messages in a second file, which rosbags ignores."""
    for journal in path.glob("*.db3-wal") if path.is_dir() else [path.with_name(f"{path.name}-wal")]:
        # Path.exists raises where the name is too long.
        if os.path.exists(journal) and journal.stat().st_size:  # noqa: PTH110
            database = journal.with_name(journal.name.removesuffix("-wal"))
            raise BagError(
                f"The recording of {database} did not end: its last messages lie in {journal.name}. Put "
                f"them in, by sqlite3 {database} 'PRAGMA wal_checkpoint(TRUNCATE)'"
            )


def _typestore(kind: Kind) -> Typestore:
    """ROS's definitions. Those of the messages that are read here have been the same in all of ROS 2."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    if kind is not Kind.ROS1:
        return get_typestore(Stores.ROS2_HUMBLE)
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", TRANSFORMS))
    return store

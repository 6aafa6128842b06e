"""Promises of bags: a copy holds every message as it was, and what is no bag is told in one sentence."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader

from fiffdepth_rt.errors import BagError, OutputError
from fiffdepth_rt.ros.bag_writing import BagWriter
from fiffdepth_rt.ros.bags import IMAGES, Bag
from fiffdepth_rt.ros.plan import check_result
from tests.support.ros.bags import KINDS, SENSOR_QOS, Entry, image_entry, store_of, text_entry, write_bag


def name_for(kind: str, stem: str) -> str:
    return f"{stem}.bag" if kind == "ros1" else stem


def entries(kind: str) -> list[Entry]:
    return [make(number, kind=kind) for number in range(3) for make in (image_entry, text_entry)]


def copied(source: Path, out: Path) -> Path:
    with Bag(source) as bag, BagWriter(out, source=bag, like="/camera/image_rect") as writer:
        for record in bag.messages():
            writer.copy(record)
    return out


def contents(path: Path) -> list[tuple[str, str, int, bytes]]:
    with Bag(path) as bag:
        return [(r.topic, r.connection.msgtype, r.recorded_ns, bytes(r.data)) for r in bag.messages()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_holds_every_message_and_every_topic_as_they_were(kind: str, tmp_path: Path) -> None:
    quiet = ("/quiet", "std_msgs/msg/String")
    source = write_bag(
        tmp_path / name_for(kind, "in"), entries(kind), kind=kind, topics=[quiet], qos=(SENSOR_QOS,)
    )
    out = copied(source, tmp_path / name_for(kind, "out"))
    assert contents(out) == contents(source)
    assert len(contents(out)) == 6
    with Bag(source) as before, Bag(out) as after:
        assert after.topics == before.topics
        assert after.topics["/quiet"].count == 0
        for old, new in zip(before.connections, after.connections, strict=True):
            assert (new.msgdef, new.digest, new.ext) == (old.msgdef, old.digest, old.ext)


def test_another_reader_finds_the_copy_of_an_mcap_whole(tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in", entries("mcap"))
    out = copied(source, tmp_path / "out")
    with (out / "out.mcap").open("rb") as file:
        reader = make_reader(file)
        found = [(s.name, c.topic, m.log_time, m.data) for s, c, m in reader.iter_messages()]
        (metadata,) = reader.iter_metadata()
    assert found == [(type_, topic, at, data) for topic, type_, at, data in contents(source)]
    assert metadata.name == "rosbag2"


def test_another_reader_finds_the_copy_of_an_sqlite3_whole(tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in", entries("sqlite3"), kind="sqlite3", qos=(SENSOR_QOS,))
    out = copied(source, tmp_path / "out")
    with sqlite3.connect(out / "out.db3") as database:
        rows = database.execute(
            "SELECT name, type, timestamp, data FROM messages JOIN topics ON topic_id = topics.id ORDER BY "
            "timestamp"
        ).fetchall()
        profiles = {row[0] for row in database.execute("SELECT offered_qos_profiles FROM topics")}
    assert rows == contents(source)
    (profile,) = profiles
    assert "reliability: 2" in profile  # best effort, as rosbag2 wrote it before Jazzy


def test_types_that_nobody_knows_are_copied_without_being_looked_into(tmp_path: Path) -> None:
    # As rosbag2 of Humble stores them: no definitions.
    source = write_bag(tmp_path / "in", entries("sqlite3"), kind="sqlite3")
    with sqlite3.connect(source / "in.db3") as database:
        database.execute("UPDATE topics SET type = 'my_robot/msg/Secret' WHERE name = '/words'")
        database.execute("UPDATE topics SET type_description_hash = ''")
        database.execute("DELETE FROM message_definitions")
    database.close()
    (source / "metadata.yaml").unlink()
    out = copied(source / "in.db3", tmp_path / "out")
    assert contents(out) == contents(source / "in.db3")
    assert {type_ for _, type_, _, _ in contents(out)} == {"sensor_msgs/msg/Image", "my_robot/msg/Secret"}


def test_notes_lie_in_the_metadata(tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in", entries("mcap"))
    with Bag(source) as bag, BagWriter(tmp_path / "out", source=bag, like="/camera/image_rect") as writer:
        for record in bag.messages():
            writer.copy(record)
        writer.note("fiffdepth", json.dumps({"/relative_depth": "affine-invariant"}))
    assert "affine-invariant" in (tmp_path / "out" / "metadata.yaml").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_messages_come_in_the_order_of_recording_however_they_lie(kind: str, tmp_path: Path) -> None:
    shuffled = [image_entry(number, kind=kind) for number in (2, 0, 3, 1)]
    source = write_bag(tmp_path / name_for(kind, "in"), shuffled, kind=kind)
    times = [at for _, _, at, _ in contents(source)]
    assert times == sorted(times)
    with Bag(source) as bag:
        outer = bag.messages()
        next(outer)
        assert [r.recorded_ns for r in bag.recorded_at("/camera/image_rect", times[2])] == [times[2]]
        assert [r.recorded_ns for r in outer] == times[1:]  # the reading in its middle goes on


@pytest.mark.parametrize(
    ("kind", "said"), [("mcap", "`mcap recover`"), ("sqlite3", "reindex"), ("ros1", "`rosbag reindex`")]
)
def test_a_bag_that_was_cut_off_is_told_with_its_cure(kind: str, said: str, tmp_path: Path) -> None:
    source = write_bag(tmp_path / name_for(kind, "in"), entries(kind), kind=kind)
    file = {"mcap": source / "in.mcap", "sqlite3": source / "in.db3", "ros1": source}[kind]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match=f"recording was cut off: .*{said}"):
        contents(source)


def _foreign(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.mcap", b"", "seems to be empty"),
        ("x.mcap", b"PK\x03\x04" * 50, "magic is invalid"),
        ("x.bag", b"", "seems to be empty"),
        ("x.bag", b"#ROSBAG V1.2\n" * 20, "is not supported"),
        ("x.bag", bytes(range(256)) * 4, "or no bag"),
        ("x.db3", b"SQLite format 3\0" + bytes(600), "Cannot open database"),
        ("x.mp4", b"ftyp", "no bag by its name"),
    ],
    ids=["empty mcap", "zip", "empty bag", "version", "noise", "empty database", "video"],
)
def test_what_is_no_bag_is_told_in_one_sentence(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=said):
        Bag(_foreign(tmp_path, name, data))


def test_folders_that_are_no_bags_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        Bag(tmp_path / "nowhere")
    with pytest.raises(BagError, match=r"no metadata\.yaml, so it is no bag"):
        Bag(tmp_path)
    source = write_bag(tmp_path / "in", entries("mcap"))
    (source / "metadata.yaml").unlink()
    with pytest.raises(BagError, match="its recording was cut off: `ros2 bag reindex`"):
        Bag(source)
    assert len(contents(source / "in.mcap")) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_without_messages_is_told(kind: str, tmp_path: Path) -> None:
    topics = [("/camera/image_rect", "sensor_msgs/msg/Image")]
    source = write_bag(tmp_path / name_for(kind, "in"), [], kind=kind, topics=topics)
    with pytest.raises(BagError, match="holds no messages"):
        Bag(source)


def choose(bag: Bag, name: str | None) -> Any:
    return bag.choose(name, IMAGES, option="--image-topic", what="images")


def test_a_topic_that_is_not_there_is_told_with_those_that_would_do(tmp_path: Path) -> None:
    two = [image_entry(0), image_entry(0, topic="/rear/image_rect"), text_entry(0)]
    with Bag(write_bag(tmp_path / "two", two)) as bag:
        listed = (
            r"Those that would do:\n +sensor_msgs/msg/Image +/camera/image_rect \(1\)\n.* /rear/image_rect"
        )
        for name, said in [
            (None, "several topics of images: name one with --image-topic"),
            ("/camera/image", "holds no topic /camera/image"),
            ("/words", "is of std_msgs/msg/String, and --image-topic names a topic of images"),
        ]:
            with pytest.raises(BagError, match=f"{said}.*{listed}"):
                choose(bag, name)
        assert choose(bag, "/rear/image_rect").count == 1
    with (
        Bag(write_bag(tmp_path / "words", [text_entry(0)])) as bag,
        pytest.raises(
            BagError, match=r"no topic of images\. The bag's topics:\n +std_msgs/msg/String +/words"
        ),
    ):
        choose(bag, None)
    with Bag(write_bag(tmp_path / "one", [image_entry(0), text_entry(0)])) as bag:
        assert choose(bag, None).name == "/camera/image_rect"


def test_a_message_that_only_shares_its_name_with_ros_is_refused(tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in.bag", entries("ros1"), kind="ros1")
    ours = store_of("ros1").generate_msgdef("sensor_msgs/msg/Image")[1]
    source.write_bytes(source.read_bytes().replace(ours.encode(), b"0" * 32))
    with Bag(source) as bag, pytest.raises(BagError, match="its definition is not ROS's"):
        choose(bag, None)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("mcap", "in", "is the bag .* itself"),
        ("mcap", "in/more", "or around or in it"),
        ("mcap", "out.bag", "name a folder"),
        ("mcap", "out.db3", "name a folder"),
        ("sqlite3", "out.mcap", "name a folder"),
        ("ros1", "out", r"ends in \.bag"),
        ("mcap", "nowhere/out", "make it first"),
        ("mcap", "photos", "not one of a bag"),
    ],
)
def test_a_result_that_would_harm_or_is_no_bag_of_its_kind_is_refused(
    kind: str, name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    source = write_bag(tmp_path / name_for(kind, "in"), entries(kind), kind=kind)
    with Bag(source) as bag, pytest.raises(OutputError, match=said):
        check_result(tmp_path / name, bag, overwrite=True)


def test_what_is_there_is_kept_without_overwrite(tmp_path: Path) -> None:
    source, other = write_bag(tmp_path / "in", entries("mcap")), write_bag(tmp_path / "out", entries("mcap"))
    with Bag(source) as bag:
        with pytest.raises(OutputError, match="exists already"):
            check_result(other, bag, overwrite=False)
        check_result(other, bag, overwrite=True)
        check_result(tmp_path / "new.mcap", bag, overwrite=False)


def test_a_recording_whose_last_messages_lie_in_a_journal_is_not_read_in_part(tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in", entries("sqlite3"), kind="sqlite3")
    recorder = sqlite3.connect(source / "in.db3", isolation_level=None)
    recorder.execute("PRAGMA journal_mode = WAL")
    recorder.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, 5, x'00')")
    for path in (source, source / "in.db3"):
        with pytest.raises(BagError, match=r"last messages lie in in\.db3-wal\. Put them in, by sqlite3"):
            Bag(path)
    recorder.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    recorder.close()
    assert len(contents(source / "in.db3")) == 7


def test_names_that_sqlite_takes_for_more_than_a_name_are_refused(tmp_path: Path) -> None:
    source = write_bag(tmp_path / "in", entries("sqlite3"), kind="sqlite3")
    with Bag(source) as bag, pytest.raises(OutputError, match=r"misread by SQLite, for its \?"):
        check_result(tmp_path / "out?mode=memory", bag, overwrite=False)

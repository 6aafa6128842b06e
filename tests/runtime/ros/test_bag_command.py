"""Promises of `fiffdepth bag`: depth beside what was recorded, in metres where something says them."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from click.testing import CliRunner, Result
from mcap.reader import make_reader

import fiffdepth_rt
from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.program import program
from fiffdepth_rt.ros import partial
from fiffdepth_rt.ros.bags import Bag
from fiffdepth_rt.ros.cameras import intrinsics_of
from fiffdepth_rt.ros.clouds import to_points
from fiffdepth_rt.ros.images import to_metres
from fiffdepth_rt.ros.partial import PartialFolder
from tests.support.ros.bags import (
    CAMERA,
    FIRST_NS,
    KINDS,
    LIDAR_IN_CAMERA,
    STEP_NS,
    Entry,
    camera_info_entry,
    cloud_entry,
    drive,
    image_entry,
    photo,
    text_entry,
    true_m,
    write_bag,
)

NEW = "/camera/fiffdepth"


@pytest.fixture
def run(toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*words: object, engine: Path = toy_dir) -> Result:
        arguments = ["bag", *map(str, words), "--engine", str(engine), "--threads", "1"]
        return CliRunner().invoke(program, arguments, catch_exceptions=False)

    return call


def name_for(kind: str, stem: str) -> str:
    return f"{stem}.bag" if kind == "ros1" else stem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """A bag: (when it was recorded, message) by topic; and what our command did not add, byte by byte."""

    messages: Mapping[str, list[tuple[int, Any]]]
    originals: list[tuple[str, int, bytes]]


def read(path: Path | str) -> Read:
    messages, originals = defaultdict(list), []
    with Bag(Path(path)) as bag:
        for record in bag.messages():
            messages[record.topic].append((record.recorded_ns, bag.decode(record)))
            if "/fiffdepth/" not in record.topic:
                originals.append((record.topic, record.recorded_ns, bytes(record.data)))
    return Read(messages=messages, originals=originals)


@pytest.mark.parametrize("kind", KINDS)
def test_depth_lies_beside_every_message_that_was_recorded(
    kind: str, run: Any, depth: fiffdepth_rt.Depth
) -> None:
    recorded = [make(number, kind=kind) for number in range(3) for make in (image_entry, text_entry)]
    source, out = write_bag(Path(name_for(kind, "in")), recorded, kind=kind), name_for(kind, "out")
    result = run(source, out)
    assert result.exit_code == 0, result.stderr
    result_bag = read(out)
    assert result_bag.originals == read(source).originals
    found = result_bag.messages[f"{NEW}/relative_depth"]
    images = result_bag.messages["/camera/image_rect"]
    assert [(at, m.header) for at, m in found] == [(at, m.header) for at, m in images]
    for number, (_, message) in enumerate(found):
        np.testing.assert_array_equal(to_metres(message), depth.infer(photo(number)).values)
    assert f"{NEW}/relative_depth (3)" in result.stdout
    assert "relative, not metres" in result.stdout
    assert not list(Path.cwd().glob(".*.partial"))


@pytest.mark.parametrize(("kind", "most"), [("mcap", 250), ("sqlite3", 243)])
def test_a_folder_s_name_that_leaves_no_room_for_its_file_s_is_refused_before_any_work(
    kind: str, most: int, run: Any
) -> None:
    source = write_bag(Path("in"), [image_entry(0, kind=kind)], kind=kind)
    result = run(source, "n" * (most + 1))
    assert result.exit_code == 1
    assert f"at most {most} bytes" in result.stderr
    assert {path.name for path in Path.cwd().iterdir()} == {"in", "toy"}


@pytest.mark.parametrize(("kind", "ending"), [("ros1", ".bag"), ("mcap", ".mcap")])
def test_the_longest_name_that_a_file_can_have(kind: str, ending: str, run: Any) -> None:
    source = write_bag(Path(name_for(kind, "in")), [image_entry(0, kind=kind)], kind=kind)
    out = "n" * (255 - len(ending)) + ending
    result = run(source, out)
    assert result.exit_code == 0, result.stderr
    assert Path(out).is_file()
    assert len(read(out).messages[f"{NEW}/relative_depth"]) == 1
    assert not list(Path.cwd().glob(".*.partial"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lidar_gives_metres_and_points_in_colour(kind: str, run: Any, depth: fiffdepth_rt.Depth) -> None:
    source = write_bag(Path(name_for(kind, "in")), drive(depth, kind=kind), kind=kind)
    out = name_for(kind, "out")
    result = run(source, out, "--lidar-topic", "/lidar/points", "--point-stride", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    result_bag = read(out)
    assert result_bag.originals == read(source).originals
    for number, (at, message) in enumerate(result_bag.messages[f"{NEW}/depth_image"]):
        assert message.header.frame_id == "camera_optical"
        assert at == FIRST_NS + number * STEP_NS + 3_000_000
        np.testing.assert_allclose(to_metres(message), true_m(depth, number), rtol=1e-4)
    for number, (_, message) in enumerate(result_bag.messages[f"{NEW}/points"]):
        points = to_points(message)
        assert points.shape == (32 * 48, 3)
        np.testing.assert_allclose(points[:, 2].reshape(32, 48), true_m(depth, number), rtol=1e-4)
        np.testing.assert_allclose(points[0], points[0, 2] * np.array([-23.5 / 40, -15 / 42, 1]), rtol=1e-5)
        blue = message.data.reshape(-1, 16)[:, 12].reshape(32, 48)
        np.testing.assert_array_equal(blue, photo(number)[:, :, 2])
    for _, message in result_bag.messages[f"{NEW}/camera_info"]:
        assert intrinsics_of(message, (32, 48)) == CAMERA
    assert "Metres by /lidar/points, off by" in result.stdout


def test_another_reader_finds_metres_in_the_mcap(run: Any, depth: fiffdepth_rt.Depth) -> None:
    source = write_bag(Path("in"), drive(depth, 2))
    assert (
        run(source, "out.mcap", "--lidar-topic", "/lidar/points", "--depth-encoding", "16UC1").exit_code == 0
    )
    with Path("out.mcap").open("rb") as file:
        found = list(make_reader(file).iter_messages(topics=[f"{NEW}/depth_image"]))
    for number, (schema, channel, message) in enumerate(found):
        assert (schema.name, channel.message_encoding) == ("sensor_msgs/msg/Image", "cdr")
        millimetres = np.frombuffer(message.data[-32 * 48 * 2 :], "<u2").reshape(
            32, 48
        )  # data is its last field
        np.testing.assert_allclose(millimetres, 1000 * true_m(depth, number), atol=1.5)
    assert len(found) == 2


def test_a_calibration_gives_metres_without_a_lidar(run: Any, depth: fiffdepth_rt.Depth) -> None:
    first = depth.infer(photo(0))
    alignment = first.align(true_m(depth, 0))
    alignment.calibration.save("camera.json")
    source = write_bag(Path("in"), [*map(image_entry, range(3)), camera_info_entry(0)])
    result = run(source, "out", "--calibration", "camera.json")
    assert (result.exit_code, result.stderr) == (0, "")
    for number, (_, message) in enumerate(read("out").messages[f"{NEW}/depth_image"]):
        np.testing.assert_allclose(to_metres(message), true_m(depth, number), rtol=1e-4)
    found = read("out").messages[f"{NEW}/points"]
    assert [to_points(message).shape for _, message in found] == [(8 * 12, 3)] * 3  # every fourth pixel


def test_a_calibration_without_camera_info_gives_metres_and_no_points(
    run: Any, depth: fiffdepth_rt.Depth
) -> None:
    depth.infer(photo(0)).align(true_m(depth, 0)).calibration.save("camera.json")
    result = run(write_bag(Path("in"), [image_entry(0)]), "out", "--calibration", "camera.json")
    assert result.exit_code == 0
    with Bag(Path("out")) as bag:
        assert set(bag.topics) == {"/camera/image_rect", f"{NEW}/relative_depth", f"{NEW}/depth_image"}
    assert "no points" in result.stderr


def test_a_calibration_of_another_model_is_refused_before_the_work(
    run: Any, depth: fiffdepth_rt.Depth
) -> None:
    values = depth.infer(photo(0)).values
    other = DepthMap(values=values, space="depth", model="other", model_sha256="0" * 64)
    other.align(true_m(depth, 0)).calibration.save("camera.json")
    result = run(write_bag(Path("in"), map(image_entry, range(9))), "out", "--calibration", "camera.json")
    assert result.exit_code == 1
    assert "another model" in result.stderr
    assert len(list(Path(".out.partial/frames").glob("*.npy"))) < 9


def test_where_the_lidar_is_may_be_said_by_hand(run: Any, depth: fiffdepth_rt.Depth) -> None:
    source = write_bag(Path("in"), drive(depth, 2)[1:])  # without tf_static
    result = run(source, "out", "--lidar-topic", "/lidar/points")
    assert result.exit_code == 1
    assert "No static transforms join the frames 'lidar' and 'camera_optical'" in result.stderr
    assert "--lidar-to-camera" in result.stderr
    pose = ",".join(map(str, LIDAR_IN_CAMERA))
    assert run(source, "out", "--lidar-topic", "/lidar/points", "--lidar-to-camera", pose).exit_code == 0
    _, message = read("out").messages[f"{NEW}/depth_image"][1]
    np.testing.assert_allclose(to_metres(message), true_m(depth, 1), rtol=1e-4)


@pytest.mark.parametrize("pose", ["1,2,3", "a,b,c,d,e,f,g", "0,0,0,1,1,1,1"])
def test_a_pose_that_is_none_is_a_usage_error(run: Any, pose: str) -> None:
    result = run("in", "out", "--lidar-to-camera", pose)
    assert result.exit_code == 2
    assert "Say X,Y,Z,QX,QY,QZ,QW" in result.stderr


def test_a_lidar_that_lags_gives_metres_where_it_is_near_enough(run: Any, depth: fiffdepth_rt.Depth) -> None:
    # Clouds of the first two frames alone, 30 ms late; the others are 100 ms away and more.
    late = [entry for entry in drive(depth, 4, late_ns=30_000_000)]
    clouds = [entry for entry in late if entry.topic == "/lidar/points"]
    source = write_bag(Path("in"), [entry for entry in late if entry not in clouds[2:]])
    result = run(source, "out", "--lidar-topic", "/lidar/points", "--max-lag", "0.05")
    assert result.exit_code == 0
    assert len(read("out").messages[f"{NEW}/depth_image"]) == 2
    assert len(read("out").messages[f"{NEW}/relative_depth"]) == 4
    assert "2 frames have relative depth alone. The first one: The nearest cloud" in result.stderr
    assert "beyond --max-lag 0.05" in result.stderr


def test_images_meet_their_clouds_by_stamp_whatever_the_order_of_recording(
    run: Any, depth: fiffdepth_rt.Depth
) -> None:
    # All clouds are recorded after all images, the last one first.
    def moved(entry: Entry, number: int) -> Entry:
        at = FIRST_NS + (20 - number) * STEP_NS
        return Entry(topic=entry.topic, type=entry.type, message=entry.message, recorded_ns=at)

    recorded = drive(depth, 3)
    clouds = [entry for entry in recorded if entry.topic == "/lidar/points"]
    rest = [entry for entry in recorded if entry not in clouds]
    source = write_bag(Path("in"), [*rest, *(moved(one, number) for number, one in enumerate(clouds))])
    assert run(source, "out", "--lidar-topic", "/lidar/points").exit_code == 0
    found = read("out").messages[f"{NEW}/depth_image"]
    assert len(found) == 3
    for number, (_, message) in enumerate(found):
        np.testing.assert_allclose(to_metres(message), true_m(depth, number), rtol=1e-4)


def test_a_lidar_that_sees_something_else_gives_no_bag_and_loses_no_depth(
    run: Any, depth: fiffdepth_rt.Depth
) -> None:
    entries = [cloud_entry(0, np.full((32, 48), 3.0)), camera_info_entry(0), image_entry(0)]
    source = write_bag(Path("in"), [*drive(depth, 0), *entries])
    result = run(source, "out", "--lidar-topic", "/lidar/points")
    assert result.exit_code == 1
    assert "No frame has metres, so nothing was written. The first one: " in result.stderr
    assert "1 depth maps are kept" in result.stderr
    assert not Path("out").exists()
    assert run(source, "out").exit_code == 0  # relative depth, of what was kept
    assert not Path(".out.partial").exists()


def test_a_lidar_without_camera_info_is_told(run: Any, depth: fiffdepth_rt.Depth) -> None:
    recorded = [entry for entry in drive(depth, 1) if "camera_info" not in entry.topic]
    result = run(write_bag(Path("a"), recorded), "out", "--lidar-topic", "/lidar/points")
    assert (result.exit_code, "holds no topic of camera_info" in result.stderr) == (1, True)
    elsewhere = camera_info_entry(0, topic="/elsewhere/camera_info")
    source = write_bag(Path("b"), [*recorded, elsewhere])
    result = run(source, "out", "--lidar-topic", "/lidar/points")
    assert (result.exit_code, "name one with --camera-info-topic" in result.stderr) == (1, True)
    named = ("--camera-info-topic", "/elsewhere/camera_info")
    assert run(source, "out", "--lidar-topic", "/lidar/points", *named).exit_code == 0


def test_images_that_cannot_be_used_are_counted_and_named(run: Any) -> None:
    bad = image_entry(1)
    bad.message.encoding = "nv12"
    source = write_bag(Path("in"), [image_entry(0), bad, image_entry(2)])
    result = run(source, "out")
    assert result.exit_code == 1
    assert "Left out: the image recorded at 1700000000.103 s. An image of encoding 'nv12'" in result.stderr
    assert "1 images were left out" in result.stderr
    assert len(read("out").messages[f"{NEW}/relative_depth"]) == 2
    assert read("out").originals == read(source).originals


def test_a_bag_whose_images_are_all_bad_becomes_nothing(run: Any) -> None:
    depth_camera = [image_entry(number, pixels=np.zeros((32, 48), np.uint16)) for number in range(9)]
    for entry in depth_camera:
        entry.message.encoding = "16UC1"
    result = run(write_bag(Path("in"), depth_camera), "out")
    assert result.exit_code == 1
    assert "None of the 9 images of /camera/image_rect can be used" in result.stderr
    assert result.stderr.count("Left out") == 5
    assert not Path("out").exists()


def test_another_run_on_the_result_needs_a_namespace_of_its_own(run: Any) -> None:
    run(write_bag(Path("in"), [image_entry(0)]), "once")
    result = run("once", "twice", "--image-topic", "/camera/image_rect")
    assert (result.exit_code, "by --prefix" in result.stderr) == (1, True)
    result = run("once", "twice", "--image-topic", "/camera/image_rect", "--prefix", "/second/")
    assert result.exit_code == 0
    assert len(read("twice").messages["/second/relative_depth"]) == 1


def test_what_the_values_mean_lies_in_the_metadata(run: Any) -> None:
    run(write_bag(Path("in"), [image_entry(0)]), "out")
    text = Path("out/metadata.yaml").read_text()
    assert "affine-invariant depth: 0 = nearest, 1 = farthest; not metres" in text.replace("\n", " ")


def test_a_result_is_replaced_only_when_it_is_asked_for(run: Any) -> None:
    source = write_bag(Path("in"), [image_entry(0)])
    other = write_bag(Path("out"), [text_entry(0)])
    before = read(other).originals
    result = run(source, "out")
    assert (result.exit_code, "exists already" in result.stderr) == (1, True)
    assert read(other).originals == before
    assert run(source, "out", "--overwrite").exit_code == 0
    assert read("out").originals == read(source).originals
    assert not Path(".out.partial").exists()
    result = run("out", "out", "--overwrite")
    assert (result.exit_code, "itself" in result.stderr) == (1, True)


@pytest.fixture
def renaming(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Raise this error instead of the new bag's taking its name by a rename of its own."""
    rename = Path.replace

    def forbid(error: BaseException) -> None:
        def forbidden(path: Path, target: Path) -> Path:
            if path.parent.name == "bag" and path.name == "out":
                raise error
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", forbidden)

    return forbid


def test_the_new_bag_takes_the_place_of_the_old_one_in_one_step(run: Any, renaming: Any) -> None:
    source = write_bag(Path("in"), [image_entry(0)])
    write_bag(Path("out"), [text_entry(0)])
    renaming(KeyError("a second step"))
    assert run(source, "out", "--overwrite").exit_code == 0
    assert read("out").originals == read(source).originals and not Path(".out.partial").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_old_bag_is_back_where_two_steps_are_needed_and_the_second_never_came(
    run: Any, renaming: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """KeyboardInterrupt stands for a kill: the next run finds what it left."""
    source = write_bag(Path("in"), [image_entry(0)])
    old = read(write_bag(Path("out"), [text_entry(0)])).originals
    monkeypatch.setattr(partial, "exchange", lambda one, other: False)
    renaming(error)
    assert run(source, "out", "--overwrite").exit_code == 1
    assert Path("out").exists() == isinstance(error, OSError)
    with PartialFolder(Path("out"), {}, overwrite=True):
        assert read("out").originals == old


def test_frames_of_another_model_are_thrown_away_only_when_it_is_asked_for(run: Any, toy_dir: Path) -> None:
    folder = Path(".out.partial")
    (folder / "frames").mkdir(parents=True)
    (folder / "frames" / "old.npy").write_bytes(b"old")
    (folder / "made_of.json").write_text(json.dumps({"model": "another"}))
    source = write_bag(Path("in"), [image_entry(0)])
    result = run(source, "out")
    assert (result.exit_code, "made by another model" in result.stderr) == (1, True)
    assert (folder / "frames" / "old.npy").exists()
    assert run(source, "out", "--overwrite").exit_code == 0
    assert not folder.exists()


def test_points_of_a_camera_that_bends_lines_come_with_a_warning(run: Any, depth: fiffdepth_rt.Depth) -> None:
    depth.infer(photo(0)).align(true_m(depth, 0)).calibration.save("camera.json")
    bent = camera_info_entry(0)
    bent.message.d = np.array([-0.3, 0.1, 0, 0, 0])
    images = [image_entry(0, topic=f"/camera/image_{name}") for name in ("raw", "rect")]
    source = write_bag(Path("in"), [bent, *images])
    for name, warned in (("raw", True), ("rect", False)):
        words = ("--image-topic", f"/camera/image_{name}", "--calibration", "camera.json")
        result = run(source, name, *words)
        assert (result.exit_code, "bends straight lines" in result.stderr) == (0, warned)


def test_a_run_that_is_killed_goes_on_and_makes_the_same_bag(
    run: Any, toy_dir: Path, depth: fiffdepth_rt.Depth
) -> None:
    # 1024 px: slow enough to be killed in the middle.
    source = write_bag(Path("in"), drive(depth, 3) + [image_entry(number) for number in range(3, 12)])
    words = ["--lidar-topic", "/lidar/points", "--engine", str(toy_dir), "--threads", "1", "--size", "1024"]
    command = [sys.executable, "-m", "fiffdepth_rt", "bag", str(source), "killed", *words]
    frames = Path(".killed.partial/frames")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while child.poll() is None and len(list(frames.glob("*.npy"))) < 3:
            time.sleep(0.005)
        child.kill()
    assert child.returncode == -signal.SIGKILL, child.stderr
    before = len(list(frames.glob("*.npy")))
    assert 3 <= before < 12
    assert not Path("killed").exists()
    half = Path(".killed.partial/bag/killed")  # as a kill while the bag is written leaves it
    half.mkdir(exist_ok=True)
    (half / "killed.mcap").write_bytes(b"half")
    result = run(source, "killed", *words[:2], "--size", "1024")
    assert result.exit_code == 0
    assert f"{12 - before} frames" in result.stdout
    assert f"and {before} were there already" in result.stdout
    assert run(source, "whole", *words[:2], "--size", "1024").exit_code == 0
    with Bag(Path("killed")) as killed, Bag(Path("whole")) as whole:
        for ours, theirs in zip(killed.messages(), whole.messages(), strict=True):
            assert (ours.topic, ours.recorded_ns, ours.data) == (
                theirs.topic,
                theirs.recorded_ns,
                theirs.data,
            )
    assert not Path(".killed.partial").exists()


def test_two_processes_do_not_make_one_bag(run: Any) -> None:
    source = write_bag(Path("in"), [image_entry(0)])
    Path(".out.partial").mkdir()
    with filelock.FileLock(".out.partial/lock"):
        result = run(source, "out")
    assert (result.exit_code, "Another process is making out" in result.stderr) == (1, True)
    assert run(source, "out").exit_code == 0


@pytest.mark.parametrize("prefix", ["a b", "//", "/1st", "a-b"])
def test_a_prefix_that_ros_would_refuse_is_refused(run: Any, prefix: str) -> None:
    result = run(write_bag(Path("in"), [image_entry(0)]), "out", "--prefix", prefix)
    assert (result.exit_code, "is no namespace of ROS" in result.stderr) == (1, True)


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to measure memory")
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_bag(kind: str, toy_dir: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    code = """
import re, sys
from fiffdepth_rt.program import program
program(sys.argv[1:], standalone_mode=False)
print(re.search("VmHWM:.* ([0-9]+) kB", open("/proc/self/status").read())[1])
"""  # VmHWM: the peak since this program began; what getrusage says includes its parent's

    def peak_mb(frames: int) -> float:
        images = (image_entry(number, kind=kind, pixels=pixels ^ (number % 251)) for number in range(frames))
        source = write_bag(tmp_path / name_for(kind, f"in{frames}"), images, kind=kind)
        out = tmp_path / name_for(kind, f"out{frames}")
        words = ["bag", str(source), str(out), "--engine", str(toy_dir), "--threads", "1"]
        child = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        return int(child.stdout.splitlines()[-1]) / 1024

    short, long = peak_mb(20), peak_mb(240)  # 18 and 220 MB of images
    assert long - short < 20, f"{short:.0f} MB, then {long:.0f} MB"


def test_any_lag_may_be_allowed_and_none_that_is_no_number(run: Any, depth: fiffdepth_rt.Depth) -> None:
    source = write_bag(Path("in"), drive(depth, 1, late_ns=30 * STEP_NS))
    result = run(source, "out", "--lidar-topic", "/lidar/points", "--max-lag", "nan")
    assert (result.exit_code, "is not possible" in result.stderr) == (1, True)
    result = run(
        source, "out", "--lidar-topic", "/lidar/points", "--max-lag", "inf", "--point-stride", "1000"
    )
    assert result.exit_code == 0
    assert to_points(read("out").messages[f"{NEW}/points"][0][1]).shape == (0, 3)

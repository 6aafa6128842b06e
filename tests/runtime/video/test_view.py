"""Promises of `fiffdepth video --view`: what is in a recording, by Rerun's own reader; what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.geometry.calibration import Assumption, Calibration
from fiffdepth_rt.program import program
from fiffdepth_rt.video import convert, open_source, open_view
from tests.runtime.video.clips import lossless, picture, walk, write_clip

pytest.importorskip("rerun", reason="wants Rerun: pip install 'fiffdepth-rt[view]'")

TICKS = [0, 1, 2, 7, 8]  # tenths of a second: a pause is a pause
TIMES = [0.0, 0.1, 0.2, 0.7, 0.8]
CAMERA = "60,62,31.5,23.5"
HW = (48, 64)


def program_on(*words: object) -> Any:
    return CliRunner().invoke(program, ["video", *map(str, words)])


def recorded(path: Path) -> dict[str, dict[str, list[Any]]]:
    """entity -> column -> a value for each row, in the order of time; what was said without a time too."""
    from rerun.chunk import RrdReader

    columns: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for chunk in RrdReader(path).stream():
        for name, values in chunk.to_record_batch().to_pydict().items():
            columns[chunk.entity_path][name] += values
    return columns


def seconds(times: list[Any]) -> list[float]:
    return [time.total_seconds() for time in times]


def depth_images(rows: dict[str, list[Any]]) -> list[np.ndarray]:
    return [np.frombuffer(bytes(buffer[0]), np.float32).reshape(HW) for buffer in rows["DepthImage:buffer"]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lossless(tmp_path_factory.mktemp("clips") / "walk.mkv", walk(5), ticks=TICKS)


@pytest.fixture(scope="module")
def maps(depth: fiffdepth_rt.Depth) -> list[fiffdepth_rt.DepthMap]:
    return [depth.infer(pixels) for pixels in walk(5)]


def test_a_recording_holds_every_frame_and_its_depth_map_at_its_time(
    toy_dir: Path, clip: Path, maps: list[fiffdepth_rt.DepthMap], tmp_path: Path
) -> None:
    result = program_on(clip, "--view", tmp_path / "walk.rrd", "--engine", toy_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{clip} -> {tmp_path / 'walk.rrd'}: 5 frames, ")
    assert second == "Values are depth: 0 is the nearest; relative, not metres."
    found = recorded(tmp_path / "walk.rrd")
    assert set(found) == {"/camera/photo", "/camera/relative"}
    relative, photos = found["/camera/relative"], found["/camera/photo"]
    for rows in (relative, photos):
        assert seconds(rows["time"]) == TIMES
        assert rows["frame"] == [0, 1, 2, 3, 4]
    for values, expected in zip(depth_images(relative), maps, strict=True):
        assert np.array_equal(values, expected.values)
    for blob, pixels in zip(photos["EncodedImage:blob"], walk(5), strict=True):
        (tmp_path / "frame.jpg").write_bytes(bytes(blob[0]))
        assert np.abs(np.asarray(Image.open(tmp_path / "frame.jpg"), int) - pixels).mean() < 3


def test_without_metres_no_meter_is_said_and_no_pinhole_makes_points_of_it(
    toy_dir: Path, clip: Path, tmp_path: Path
) -> None:
    program_on(clip, "--view", tmp_path / "walk.rrd", "--engine", toy_dir)
    said = {name for rows in recorded(tmp_path / "walk.rrd").values() for name in rows}
    assert "DepthImage:buffer" in said
    assert not [name for name in said if "meter" in name or "Pinhole" in name or "Points3D" in name]


def test_a_calibration_and_a_camera_make_metres_a_pinhole_and_points(
    toy_dir: Path, clip: Path, maps: list[fiffdepth_rt.DepthMap], tmp_path: Path
) -> None:
    calibration = Calibration.of(maps[0], scale=3.0, shift=-0.5, assumption=Assumption.FITTED)
    calibration.save(tmp_path / "camera.json")
    words = ["--calibration", tmp_path / "camera.json", "--intrinsics", CAMERA, "--engine", toy_dir]
    result = program_on(clip, "--view", tmp_path / "walk.rrd", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == [
        f"In metres by {tmp_path / 'camera.json'}. Scale and shift both follow from the distances."
    ]
    found = recorded(tmp_path / "walk.rrd")
    depth, points, camera = (found[name] for name in ("/camera/depth", "/points", "/camera"))
    assert "/camera/relative" not in found
    assert depth["DepthImage:meter"] == [[1.0]] * 5
    assert seconds(depth["time"]) == seconds(points["time"]) == TIMES
    # Rerun counts from a pixel's corner, and by columns.
    assert camera["Pinhole:image_from_camera"] == [[[60.0, 0, 0, 0, 62.0, 0, 32.0, 24.0, 1.0]]]
    assert camera["Pinhole:resolution"] == [[[64.0, 48.0]]]
    intrinsics = fiffdepth_rt.Intrinsics(fx=60, fy=62, cx=31.5, cy=23.5, photo_hw=HW)
    gone = 0
    for index, (values, depth_map) in enumerate(zip(depth_images(depth), maps, strict=True)):
        depth_m = calibration.apply(depth_map)
        assert np.array_equal(values, depth_m, equal_nan=True)
        every = fiffdepth_rt.to_points(depth_m, intrinsics).reshape(-1, 3)
        known = np.isfinite(every[:, 2])
        gone += np.count_nonzero(~known)
        assert np.array_equal(np.array(points["Points3D:positions"][index], np.float32), every[known])
        colors = np.array(points["Points3D:colors"][index], np.uint32)  # 0xRRGGBBAA
        assert np.array_equal(colors >> 24, walk(5)[index].reshape(-1, 3)[known, 0])
    assert gone > 0  # nearer than the shift: no point


def test_a_view_beside_a_folder_shows_every_frame_though_pictures_are_there_already(
    toy_dir: Path, clip: Path, tmp_path: Path
) -> None:
    engine = ["--engine", toy_dir]
    assert program_on(clip, "-o", tmp_path / "out", *engine).exit_code == 0
    (tmp_path / "out" / "000003_depth.png").unlink()
    result = program_on(clip, "-o", tmp_path / "out", "--view", tmp_path / "walk.rrd", *engine)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"out and {tmp_path / 'walk.rrd'}: 1 frames, " in result.stdout
    assert "and 4 were there already\n" in result.stdout
    assert recorded(tmp_path / "walk.rrd")["/camera/relative"]["frame"] == [0, 1, 2, 3, 4]


def test_points_of_a_large_frame_are_thinned_evenly() -> None:
    from fiffdepth_rt.video.view import MOST_POINTS, _thinned

    points = np.dstack([*np.meshgrid(np.arange(640.0), np.arange(480.0)), np.ones((480, 640))])
    thinned, colors = _thinned(points.astype(np.float32), np.zeros((480, 640, 3), np.uint8))
    assert MOST_POINTS / 2 < len(thinned) == len(colors) <= MOST_POINTS
    assert {tuple(point[:2]) for point in thinned[:2]} == {(0, 0), (3, 0)}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--view", "rerun"], 1, "There is no display to open a window on: record instead"),
        (["--view", "walk.rdd"], 1, "walk.rdd is no view: say rerun for a window"),
        (["--view", "there.rrd"], 1, "there.rrd exists already"),
        (["-o", "c.mp4", "--intrinsics", CAMERA], 2, "--calibration and --intrinsics are for a view"),
        (["--view", "a.rrd", "--intrinsics", CAMERA], 2, "--intrinsics place points, and without metres"),
        (["--view", "nowhere/a.rrd"], 1, "Cannot write nowhere/a.rrd: No such file or directory."),
    ],
)
def test_it_says_what_is_wrong_before_it_works(
    words: list[str],
    status: int,
    said: str,
    toy_dir: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")  # elsewhere there is a display
    (tmp_path / "there.rrd").write_text("precious")
    result = program_on(clip, *words, "--engine", toy_dir)
    assert (result.exit_code, said in result.stderr) == (status, True), result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.rrd", "toy"]
    assert (tmp_path / "there.rrd").read_text() == "precious"


def test_without_rerun_it_says_what_to_install(
    toy_dir: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)  # as where it is not installed
    result = program_on(clip, "--view", tmp_path / "walk.rrd", "--engine", toy_dir)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Views are Rerun's, which ")
    assert result.stderr.endswith("pip install 'fiffdepth-rt[view]'\n")


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a file's size")
def test_a_full_disk_leaves_nothing_and_says_so(toy_dir: Path, tmp_path: Path) -> None:
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from fiffdepth_rt.program import main
sys.argv = ["fiffdepth", *sys.argv[1:]]
main()
"""
    clip = write_clip(tmp_path / "walk.mp4", walk(300))
    words = ["video", str(clip), "--view", str(tmp_path / "walk.rrd"), "--engine", str(toy_dir)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Error: Cannot write {tmp_path / 'walk.rrd'}: Rerun's writer has stopped" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", "walk.mp4"]


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_long_video_needs_no_more_memory_than_a_short_one(toy_dir: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mp4", (picture(n, 64, 64) for n in range(10_000)))
    seen = {}
    with fiffdepth_rt.Depth(toy_dir, size=64, threads=1) as depth, open_source(str(clip)) as source:
        view = open_view(tmp_path / "long.rrd", source=source)
        for done in convert(depth, source, view):
            if done in (2000, 10_000):
                seen[done] = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    assert seen[10_000] - seen[2000] < 12, seen  # 8 for the footer, which lists what the file holds
    assert len(recorded(tmp_path / "long.rrd")["/camera/relative"]["frame"]) == 10_000

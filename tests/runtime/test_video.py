"""Promises of video: any source in, playable files out, whatever the weather."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.errors import DamagedVideoError, OutputError, SourceError, SourceLostError
from fiffdepth_rt.program import program
from fiffdepth_rt.video import Result, Source, convert, open_result, open_source
from tests.support.paths import ROOT

FPS = 12.5


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey bar that walks over a ramp, BGR; what a lossy codec leaves of it still tells its number."""
    pixels = np.repeat(np.linspace(40, 120, width)[None, :, None], height, axis=0).repeat(3, axis=2)
    pixels[:, (index * 3) % (width - 8) : (index * 3) % (width - 8) + 8] = 230
    return pixels.astype(np.uint8)


def write_clip(path: Path, count: int, *, height: int = 48, width: int = 64, codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), FPS, (width, height))
    for index in range(count):
        writer.write(picture(index, height, width))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "walk.mp4", 20)


def read(path: Path, *, raw: bool = False) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if raw:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    pictures = []
    while (got := capture.read())[0]:
        pictures.append(got[1])
    capture.release()
    return pictures


def run(depth: fiffdepth_rt.Depth, clip: Path, out: Path, **options: object) -> Result:
    smooth = options.pop("smooth", None)
    with open_source(str(clip)) as source:
        result = open_result(out, fps=source.fps, **options)  # type: ignore[arg-type]
        assert list(convert(depth, source, result, smooth=smooth)) == list(range(1, result.frames + 1))  # type: ignore[arg-type]
    return result


def item(index: int, values: np.ndarray) -> fiffdepth_rt.StreamItem:
    depth_map = fiffdepth_rt.DepthMap(values=values, space=fiffdepth_rt.Space.DEPTH)
    return fiffdepth_rt.StreamItem(
        index=index, photo=np.zeros((*values.shape, 3), np.uint8), depth_map=depth_map
    )


def expected(depth: fiffdepth_rt.Depth, clip: Path) -> list[fiffdepth_rt.DepthMap]:
    return [depth.infer(frame, color="bgr") for frame in read(clip)]


def program_on(*words: object) -> click.testing.Result:
    return CliRunner().invoke(program, ["video", *map(str, words)])


# --- what comes out ---


def test_a_16_bit_video_holds_exactly_the_depth_maps(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    run(depth, clip, tmp_path / "d.mkv")
    values = read(tmp_path / "d.mkv", raw=True)
    assert [value.dtype for value in values] == [np.uint16] * 20
    np.testing.assert_array_equal(values, [np.rint(d.values * 65535) for d in expected(depth, clip)])


def test_a_colour_video_shows_the_depth_maps(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    run(depth, clip, tmp_path / "c.mp4")
    capture = cv2.VideoCapture(str(tmp_path / "c.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == FPS
    capture.release()
    shown = read(tmp_path / "c.mp4")
    colors = [d.colors()[:, :, ::-1] for d in expected(depth, clip)]
    assert len(shown) == 20
    assert np.abs(np.subtract(shown, colors, dtype=np.float32)).mean() < 8  # what the codec costs


def test_side_by_side_the_video_is_on_the_left(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    run(depth, clip, tmp_path / "c.mp4", side_by_side=True)
    shown, frames = read(tmp_path / "c.mp4"), read(clip)
    assert shown[0].shape == (48, 128, 3)
    assert np.abs(np.subtract([s[:, :64] for s in shown], frames, dtype=np.float32)).mean() < 8


def test_a_folder_gets_a_16_bit_picture_for_each_frame(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    run(depth, clip, tmp_path / "new" / "folder")
    pictures = sorted((tmp_path / "new" / "folder").iterdir())
    assert [p.name for p in pictures] == [f"{index:06d}_depth.png" for index in range(20)]
    for path, d in zip(pictures, expected(depth, clip), strict=True):
        with Image.open(path) as stored:
            np.testing.assert_array_equal(np.asarray(stored), np.rint(d.values * 65535))
            assert (stored.text["Space"], stored.text["Model"]) == ("depth", "toy")  # type: ignore[attr-defined]


def test_of_an_odd_size_nothing_is_cut_off(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    result = open_result(tmp_path / "d.mkv", fps=25)
    d = np.random.default_rng(0).random((33, 47), dtype=np.float32)
    result.write(item(0, d))
    result.close()
    (value,) = read(tmp_path / "d.mkv", raw=True)
    assert value.shape == (34, 48)
    np.testing.assert_array_equal(value[:33, :47], np.rint(d * 65535))


@pytest.mark.parametrize("fps", [0.5, 23.976023976, 29.97002997, 59.94005994, 119.88011988, 240.0])
def test_the_frame_rate_of_the_source_is_kept(fps: float, tmp_path: Path) -> None:
    for name in ("c.mp4", "d.mkv"):
        result = open_result(tmp_path / name, fps=fps)
        for index in range(4):
            result.write(item(index, np.full((32, 32), 0.5, np.float32)))
        result.close()
        capture = cv2.VideoCapture(str(tmp_path / name))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-3)
        capture.release()


def test_a_frame_stands_in_for_the_dropped_ones_before_it(tmp_path: Path) -> None:
    result = open_result(tmp_path / "d.mkv", fps=25)
    for index in (7, 8, 11):  # the recording starts with the first frame that was taken
        result.write(item(index, np.full((32, 32), index / 100, np.float32)))
    result.close()
    assert result.frames == 3
    assert [round(int(v[0, 0]) * 100 / 65535) for v in read(tmp_path / "d.mkv", raw=True)] == [
        7,
        8,
        11,
        11,
        11,
    ]


def test_smoothing_is_passed_on(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    run(depth, clip, tmp_path / "d.mkv", smooth=5)
    values = read(tmp_path / "d.mkv", raw=True)
    streamed = [item.depth_map.values for item in depth.stream(read(clip), color="bgr", smooth=5)]
    np.testing.assert_array_equal(values, [np.rint(d * 65535) for d in streamed])
    assert not np.array_equal(streamed, [d.values for d in expected(depth, clip)])


def test_a_live_source_is_taken_latest_frame_first(
    depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path
) -> None:
    """A file that plays as a camera: it never waits, ends by disappearing, and what was taken is kept."""
    with Source(cv2.VideoCapture(str(clip)), "Camera 0", live=True) as camera:
        result = open_result(tmp_path / "pictures", fps=camera.fps)
        with pytest.raises(SourceLostError, match=r"Camera 0 gives no more frames after 20.*Plug it in"):
            list(convert(depth, camera, result))
    kept = {int(path.name[:6]): path for path in (tmp_path / "pictures").iterdir()}
    assert 19 in kept  # the latest
    assert len(kept) == result.frames
    frames = read(clip)
    for index, path in kept.items():
        with Image.open(path) as stored:
            d = depth.infer(frames[index], color="bgr")
            np.testing.assert_array_equal(np.asarray(stored), np.rint(d.values * 65535))


# --- bad weather ---


def test_a_video_that_is_cut_off_is_reported_and_its_frames_are_kept(
    depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    whole = write_clip(tmp_path / "whole.avi", 60, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedVideoError, match=r"Only \d+ of 60 frames of .*cut.avi.*repair"):
        run(depth, tmp_path / "cut.avi", tmp_path / "d.mkv")
    assert 10 < len(read(tmp_path / "d.mkv", raw=True)) < 50


def test_a_video_with_broken_frames_is_reported(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.mp4", 60, height=64, width=96).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    (tmp_path / "broken.mp4").write_bytes(data)
    with pytest.raises(DamagedVideoError, match=r"Only \d+ of 60 frames"):
        run(depth, tmp_path / "broken.mp4", tmp_path / "c.mp4")
    assert len(read(tmp_path / "c.mp4")) > 10


def test_a_whole_mkv_is_not_taken_for_a_damaged_one(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "walk.mkv", 33)
    assert run(depth, clip, tmp_path / "d.mkv").frames == 33


def test_a_cut_mkv_is_reported(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv", 60, codec="FFV1").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedVideoError, match=r"Only \d+ of 60"):
        run(depth, tmp_path / "cut.mkv", tmp_path / "d.mkv")


def test_a_frame_of_another_size_leaves_a_playable_file(depth: fiffdepth_rt.Depth, tmp_path: Path) -> None:
    class Changing:
        live, fps, frames, name = False, 25.0, None, "changing"

        def __iter__(self) -> Iterator[np.ndarray]:
            yield from (picture(0), picture(1), picture(2, 64, 48))

    result = open_result(tmp_path / "c.mp4", fps=25)
    with pytest.raises(fiffdepth_rt.errors.FrameSizeError, match="Frame 2 has 64×48 px"):
        list(convert(depth, Changing(), result))  # type: ignore[arg-type]
    assert len(read(tmp_path / "c.mp4")) == 2


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("99", "Camera 99 cannot be opened: plug it in"),
        ("nowhere.mp4", "does not exist: name a video file"),
        (".", "is not a file"),
        ("rtsp://someone:secret@127.0.0.1:9/live", r"rtsp://127\.0\.0\.1:9/live gives no video"),
    ],
)
def test_a_source_that_cannot_be_opened_says_what_to_do(name: str, advice: str) -> None:
    with pytest.raises(SourceError, match=advice) as caught:
        open_source(name)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(SourceError, match="cannot be read as a video"):
        open_source(str(tmp_path / "notes.mp4"))


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("at 12:30.mp4").write_bytes(clip.read_bytes())
    with open_source("at 12:30.mp4") as source:
        assert source.frames == len(list(source)) == 20


@pytest.mark.parametrize("name", ["d.mkv", "c.mp4"])
def test_a_result_that_is_there_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        open_result(tmp_path / name, fps=25)
    assert (tmp_path / name).read_text() == "precious"


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.mp4 .*\.mkv .*folder"):
        open_result(tmp_path / "out.webm", fps=25)


def test_side_by_side_is_for_colours(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.mp4"):
        open_result(tmp_path / "d.mkv", fps=25, side_by_side=True)


def test_a_folder_that_is_not_there_is_refused(depth: fiffdepth_rt.Depth, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name a folder that is there"):
        run(depth, clip, tmp_path / "nowhere" / "c.mp4")


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits a file's size with the shell's ulimit"
)
@pytest.mark.parametrize("name", ["d.mkv", "c.mp4"])
def test_a_full_disk_is_noticed(toy_dir: Path, clip: Path, tmp_path: Path, name: str) -> None:
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from fiffdepth_rt.program import main
sys.argv = ["fiffdepth", *sys.argv[1:]]
main()
"""
    words = ["video", str(clip), "-o", str(tmp_path / name), "--engine", str(toy_dir)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the disk may be full" in done.stderr
    assert not list(tmp_path.glob("*.m*")) and not list(tmp_path.glob(".*.tmp*"))


def test_closing_a_source_waits_for_the_frame_being_read() -> None:
    """Releasing OpenCV's capture while it reads would crash the process."""
    reading, finish, released = threading.Event(), threading.Event(), []

    class SlowCamera:
        def get(self, _: int) -> float:
            return 0.0

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return not released

        def read(self) -> tuple[bool, np.ndarray]:
            reading.set()
            finish.wait(10)
            assert not released
            return True, picture(0)

        def release(self) -> None:
            released.append(True)

    source = Source(SlowCamera(), "Camera 0", live=True)  # type: ignore[arg-type]
    reader = threading.Thread(target=lambda: next(iter(source)))
    reader.start()
    assert reading.wait(10)
    closer = threading.Thread(target=source.close)
    closer.start()
    time.sleep(0.02)
    assert not released
    finish.set()
    reader.join(10)
    closer.join(10)
    assert released


# --- the program ---


def test_the_program_says_what_it_did(toy_dir: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.mkv"
    result = program_on(clip, "-o", out, "--engine", toy_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{clip} -> {out}: 20 frames, ") and first.endswith(" per second")
    assert second == "Values are depth: 0 is the nearest; relative, not metres."


def test_the_program_keeps_what_it_has_when_a_video_is_damaged(toy_dir: Path, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", 40, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    result = program_on(tmp_path / "cut.avi", "-o", tmp_path / "c.mp4", "--engine", toy_dir)
    assert result.exit_code == 1
    count = len(read(tmp_path / "c.mp4"))
    assert f"c.mp4 holds the {count} frames so far." in result.stderr
    assert "Error: Only" in result.stderr


def test_the_video_libraries_add_nothing_to_what_the_program_says(toy_dir: Path, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", 40, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    for name, lines in (
        ("cut.avi", [r"c\.mp4 holds the \d+ frames so far\.", "Error: Only .*"]),
        ("text.mp4", ["Error: text.mp4 cannot be read as a video.*"]),
    ):
        words = ["video", name, "-o", "c.mp4", "--engine", str(toy_dir), "--overwrite"]
        done = subprocess.run(
            [sys.executable, "-m", "fiffdepth_rt", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1
        assert re.fullmatch("\n".join(lines), done.stderr.rstrip()), done.stderr


def test_the_program_refuses_before_it_works(toy_dir: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "c.mp4").write_text("precious")
    result = program_on(clip, "-o", tmp_path / "c.mp4", "--engine", toy_dir)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert program_on(clip, "-o", tmp_path / "c.mp4", "--engine", toy_dir, "--overwrite").exit_code == 0
    assert len(read(tmp_path / "c.mp4")) == 20


def test_the_program_says_where_the_result_s_name_belongs(clip: Path) -> None:
    result = program_on(clip, "out.mp4")
    assert result.exit_code == 2
    assert "video [OPTIONS] IN -o OUT\n" in result.stderr and "Missing option '-o' / '--out'" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("name", ["d.mkv", "c.mp4"])
def test_ctrl_c_leaves_a_playable_file(toy_dir: Path, tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / "long.avi", 2000, height=32, width=32, codec="MJPG")
    command = [sys.executable, "-m", "fiffdepth_rt", "video", str(clip), "-o", str(tmp_path / name)]
    running = subprocess.Popen(
        [*command, "--engine", str(toy_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while running.poll() is None and not list(tmp_path.glob(f".{name[0]}.*.tmp*")):
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    count = len(read(tmp_path / name, raw=name == "d.mkv"))
    assert 0 < count < 2000
    assert f"holds the {count} frames so far." in said
    assert not list(tmp_path.glob(".*.tmp*"))


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["d.mkv", "c.mp4"])
def test_a_long_video_needs_no_more_memory_than_a_short_one(toy_dir: Path, tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / "long.avi", 10_000, height=64, width=64, codec="MJPG")
    seen = {}
    with fiffdepth_rt.Depth(toy_dir, size=64, threads=1) as depth, open_source(str(clip)) as source:
        result = open_result(tmp_path / name, fps=source.fps)
        for done in convert(depth, source, result):
            if done in (2000, 10_000):
                seen[done] = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    assert seen[10_000] - seen[2000] < 8
    assert len(read(tmp_path / name, raw=name == "d.mkv")) == 10_000

"""Promises of `fiffdepth video`: what it says, its exit status, and what it leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.program import program
from fiffdepth_rt.video import convert, open_result, open_source
from tests.runtime.video.clips import lossless, picture, read, walk, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "walk.mp4", walk(20))


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    return write_clip(path, (picture(n, 32, 32) for n in range(3000)))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    whole = lossless(tmp_path / "whole.mkv", walk(40)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "cut.mkv"


def program_on(*words: object) -> click.testing.Result:
    return CliRunner().invoke(program, ["video", *map(str, words)])


def test_it_says_what_it_did(toy_dir: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.mkv"
    result = program_on(clip, "-o", out, "--engine", toy_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{clip} -> {out}: 20 frames, ") and first.endswith(" per second")
    assert second == "Values are depth: 0 is the nearest; relative, not metres."


def test_what_was_done_to_the_frames_is_said_once(toy_dir: Path, tmp_path: Path) -> None:
    interlaced = {"preset": "ultrafast", "x264-params": "tff=1"}
    clip = write_clip(tmp_path / "camcorder.mp4", walk(9), options=interlaced)
    result = program_on(clip, "-o", tmp_path / "c.mp4", "--engine", toy_dir)
    assert result.exit_code == 0
    assert result.stderr == "The video is interlaced: whole frames are made of it (FFmpeg's bwdif).\n"


def test_pictures_have_the_rate_that_is_said(toy_dir: Path, tmp_path: Path) -> None:
    for n in range(4):
        Image.fromarray(picture(n)).save(tmp_path / f"shot_{n}.png")
    pattern = tmp_path / "shot_%d.png"
    result = program_on(pattern, "-o", tmp_path / "c.mp4", "--engine", toy_dir, "--fps", 4)
    assert result.exit_code == 0
    assert read(tmp_path / "c.mp4").times == [0, 0.25, 0.5, 0.75]


def test_a_damaged_video_is_done_as_far_as_it_goes_and_ends_in_status_1(
    toy_dir: Path, damaged: Path, tmp_path: Path
) -> None:
    result = program_on(damaged, "-o", tmp_path / "c.mp4", "--engine", toy_dir)
    assert result.exit_code == 1
    count = len(read(tmp_path / "c.mp4").pictures)
    assert f"c.mp4 holds {count} frames." in result.stderr
    assert f"Error: {damaged} breaks off at " in result.stderr


def test_it_refuses_before_it_works(toy_dir: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "c.mp4").write_text("precious")
    result = program_on(clip, "-o", tmp_path / "c.mp4", "--engine", toy_dir)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert program_on(clip, "-o", tmp_path / "c.mp4", "--engine", toy_dir, "--overwrite").exit_code == 0
    assert len(read(tmp_path / "c.mp4").pictures) == 20


def test_it_says_where_the_result_s_name_belongs(clip: Path) -> None:
    result = program_on(clip, "out.mp4")
    assert result.exit_code == 2
    assert "video [OPTIONS] IN -o OUT\n" in result.stderr and "unexpected extra argument" in result.stderr
    result = program_on(clip)
    assert result.exit_code == 2
    assert "There is nothing to make: name a result after -o, or pass --view rerun." in result.stderr


def test_an_unset_variable_is_no_name(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = program_on(clip, "-o", "")
    assert (result.exit_code, "'' is no name: name a file or a folder." in result.stderr) == (2, True)
    assert "Error: '' does not exist" in program_on("", "-o", "c.mp4").stderr
    assert not list(tmp_path.iterdir())


def test_without_pyav_it_says_what_to_install(toy_dir: Path, clip: Path, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["av"] = None  # as where it is not installed
from fiffdepth_rt.program import main
sys.argv = ["fiffdepth", *sys.argv[1:]]
main()
"""
    words = ["video", str(clip), "-o", str(tmp_path / "c.mp4"), "--engine", str(toy_dir)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Videos are read and written by PyAV, which ")
    assert done.stderr.endswith("pip install 'fiffdepth-rt[video]'\n")


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits a file's size with the shell's ulimit"
)
@pytest.mark.parametrize("name", ["d.mkv", "c.mp4", "c.webm"])
def test_a_full_disk_leaves_nothing_and_says_so(toy_dir: Path, clip: Path, tmp_path: Path, name: str) -> None:
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from fiffdepth_rt.program import main
sys.argv = ["fiffdepth", *sys.argv[1:]]
main()
"""
    words = ["video", str(clip), "-o", str(tmp_path / name), "--engine", str(toy_dir)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No frame was written." in done.stderr
    assert f"Error: Cannot write {tmp_path / name} (File too large): no file was written." in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def started(clip: Path, out: Path, toy_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fiffdepth_rt", "video", str(clip), "-o", str(out)]
    return subprocess.Popen(
        [*command, "--engine", str(toy_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(
    ("name", "number"), [("d.mkv", "SIGINT"), ("c.mp4", "SIGINT"), ("c.mp4", "SIGTERM"), ("c.webm", "SIGHUP")]
)
def test_a_signal_leaves_a_playable_file(
    toy_dir: Path, long_clip: Path, tmp_path: Path, name: str, number: str
) -> None:
    running = started(long_clip, tmp_path / name, toy_dir)
    while running.poll() is None and not list(tmp_path.glob(".*.tmp")):
        time.sleep(0.005)
    running.send_signal(getattr(signal, number))
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    count = len(read(tmp_path / name).pictures)
    assert 0 < count < 3000
    assert f"holds {count} frame{'s' * (count > 1)}." in said and said.endswith("Aborted!\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "toy"])


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_folder_goes_on_after_a_kill(toy_dir: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "walk.mp4", walk(300))
    running = started(clip, tmp_path / "out", toy_dir)
    while running.poll() is None and len(list(tmp_path.glob("out/*.png"))) < 20:
        time.sleep(0.005)
    running.kill()
    running.communicate()
    there = len(list((tmp_path / "out").glob("[0-9]*.png")))
    assert 20 <= there < 300
    result = program_on(clip, "-o", tmp_path / "out", "--engine", toy_dir)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f": {300 - there} frames, " in result.stdout
    assert f"{there} were there already\n" in result.stdout
    assert len(list((tmp_path / "out").glob("[0-9]*.png"))) == 300


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["d.mkv", "c.mp4", "c.webm"])
def test_a_long_video_needs_no_more_memory_than_a_short_one(toy_dir: Path, tmp_path: Path, name: str) -> None:
    clip = write_clip(
        tmp_path / "long.mp4", (picture(n, 64, 64) for n in range(10_000)), tone_hz=440, sound_s=1000
    )
    seen = {}
    with fiffdepth_rt.Depth(toy_dir, size=64, threads=1) as depth, open_source(str(clip)) as source:
        result = open_result(tmp_path / name, source=source)
        for done in convert(depth, source, result):
            if done in (2000, 10_000):
                seen[done] = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    assert seen[10_000] - seen[2000] < 8
    assert len(read(tmp_path / name).pictures) == 10_000


def test_what_was_done_to_pictures_is_said_and_damage_each_time(
    toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a home folder too, and by a file's address."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(4):
        Image.fromarray(np.full((32, 32, 3), 40 * index, np.uint8)).save(frames / f"{index}.jpg")
    for index in (1, 2):
        (frames / f"{index}.jpg").write_bytes((frames / f"{index}.jpg").read_bytes()[:-2])
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".0a1b2c3d.tmp").write_bytes(b"left by a killed run")
    for index, source in enumerate(("~/frames", frames.as_uri())):
        words = ["video", source, "-o", str(tmp_path / f"{index}.mkv"), "--engine", str(toy_dir)]
        result = CliRunner().invoke(program, words)
        assert result.exit_code == 0, result.output
        assert result.stderr.count("lacks its end marker") == 2
    assert not (tmp_path / ".0a1b2c3d.tmp").exists()

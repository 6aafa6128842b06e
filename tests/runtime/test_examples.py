"""The examples of examples/python run as their first lines say, and say what is right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import fiffdepth_rt
from tests.runtime.video.clips import picture, walk, write_clip

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "python"
COFFEE = ROOT / "examples" / "coffee.jpg"


@pytest.fixture(scope="module")
def d() -> fiffdepth_rt.DepthMap:
    with fiffdepth_rt.Depth(threads=1) as depth:
        return depth.infer(COFFEE)


def run(name: str, folder: Path, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_every_example_has_a_test_and_is_short() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"}
    files = (Path(__file__), Path(__file__).with_name("gpu") / "test_on_a_gpu.py")
    tested = "".join(file.read_text() for file in files)
    assert names and all(f'("{name}"' in tested for name in names)
    assert max(len((EXAMPLES / name).read_text().splitlines()) for name in names) <= 30


def test_five_lines(tmp_path: Path, d: fiffdepth_rt.DepthMap) -> None:
    (said,) = run("five_lines.py", tmp_path, COFFEE)
    assert said.startswith("(400, 600), depth: 0 = nearest, 1 = farthest; on average ")
    assert float(said.split()[-1]) == pytest.approx(d.values.mean(), abs=2e-3)
    assert (tmp_path / "depth.png").stat().st_size > 10_000


def test_a_camera(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "walk.mp4", walk(4))
    said = run("camera.py", tmp_path, clip)
    assert [line.partition(":")[0] for line in said] == [f"frame {i}" for i in range(4)]


def test_a_loop_of_opencv(tmp_path: Path) -> None:
    frames = [np.full((48, 64, 3), (200, 30, 30), np.uint8), picture(3)]
    with fiffdepth_rt.Depth(threads=1) as depth:
        red, bars = (depth.infer(frame).values.mean() for frame in frames)
    cv2.imwrite(str(tmp_path / "0001.png"), frames[0][..., ::-1])
    cv2.imwrite(str(tmp_path / "0002.png"), frames[1][..., ::-1])
    said = run("opencv_loop.py", tmp_path, tmp_path / "%04d.png")
    assert [line.partition(":")[0] for line in said] == ["64x48", "64x48"]
    assert [float(line.split()[1]) for line in said] == pytest.approx([red, bars], abs=2e-3)


def test_several_cameras(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{i}.mp4", walk(3)) for i in range(2)]
    said = run("several_cameras.py", tmp_path, *clips)
    assert [line.partition(":")[0] for line in said] == [str(clip) for clip in clips]
    assert len({line.partition(":")[2] for line in said}) == 1  # the same frames, the same depth


def test_asyncio(tmp_path: Path, d: fiffdepth_rt.DepthMap) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copyfile(COFFEE, tmp_path / name)
    said = run("with_asyncio.py", tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert [line.partition(",")[0] for line in said] == [f"{name}.jpg: 600x400 px" for name in "abc"]
    median = float(np.median(d.values))
    assert all(float(line.split()[-1]) == pytest.approx(median, abs=2e-3) for line in said)

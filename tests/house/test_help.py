"""Promises about the help: frozen in tests/house/help, and its examples run.

After a change that is meant: `python -m tests.house.test_help`, and read the difference.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from benchmarks import latency, report
from fiffdepth_rt import Calibration, depth
from fiffdepth_rt.backends.tensorrt import here as tensorrt_here
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX
from fiffdepth_rt.engine_dir import manifest as engine_dir
from fiffdepth_rt.geometry.calibration import Assumption
from fiffdepth_rt.program import program
from tests.runtime.geometry.scene import as_seen, scene_m
from tests.support.ros import bags
from tests.support.toy import write_toy_engine_dir

FROZEN = Path(__file__).parent / "help"
WIDTH = 100


def helps() -> dict[str, str]:
    """Help by command, as a terminal of WIDTH columns shows it; "fiffdepth" is the program itself."""
    arguments = {"fiffdepth": ["--help"]} | {name: [name, "--help"] for name in program.commands}
    return {name: help_of(program, "fiffdepth", words) for name, words in arguments.items()} | {
        "benchmarks.latency": help_of(latency.main, "python -m benchmarks.latency", ["--help"])
    }


def help_of(command: click.Command, name: str, words: list[str]) -> str:
    result = CliRunner().invoke(command, words, prog_name=name, terminal_width=WIDTH)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def examples() -> list[str]:
    """Every line of the help that a reader may copy."""
    return [
        line.strip()
        for text in helps().values()
        for line in text.splitlines()
        if re.match(r" +(fiffdepth|python -m benchmarks\.latency)( |$)", line)
    ]


@pytest.mark.parametrize("name", ["fiffdepth", *program.commands, "benchmarks.latency"])
def test_the_help_is_the_frozen_one(name: str) -> None:
    frozen = FROZEN / f"{name}.txt"
    assert helps()[name] == frozen.read_text(), "If it is meant: python -m tests.house.test_help"


def test_no_help_is_frozen_for_a_command_that_is_gone() -> None:
    assert {path.stem for path in FROZEN.glob("*.txt")} == set(helps())


def test_every_command_teaches_with_examples() -> None:
    for name, text in helps().items():
        assert "Examples:\n" in text or "Start here:\n" in text, name


@pytest.fixture
def desk(tmp_path: Path, toy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the examples name; the toy stands in for the bundled model."""
    brightness = np.random.default_rng(0).integers(0, 9, (48, 64, 3)) + 2 * np.arange(64)[:, None]
    picture = Image.fromarray(brightness.astype(np.uint8))  # what is bright is far to the toy
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for name in ("kitchen.jpg", "hall.png", "photos/lake.jpg", "photos/trip/sea.jpg"):
        picture.save(tmp_path / name)
    ground = as_seen(scene_m(box=False), "depth").values * 255  # to the toy, a floor and a wall
    Image.fromarray(np.rint(ground).astype(np.uint8)).convert("RGB").save(tmp_path / "ground.png")
    walk = cv2.VideoWriter(str(tmp_path / "walk.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    walk.write(np.asarray(picture))
    walk.release()
    (tmp_path / "engines").mkdir()
    write_toy_engine_dir(tmp_path / "engines" / "fiffdepth", precisions=("fp32", "fp16"))
    (tmp_path / "photos.txt").write_text("photos/lake.jpg\n")
    np.save(tmp_path / "points.npy", [[4.0, 40.0, 1.5], [30.0, 20.0, 2.0], [60.0, 10.0, 2.5]])
    with fiffdepth_rt.Depth(toy_dir) as toy:
        seen = toy.infer(np.asarray(picture))
    Calibration.of(seen, scale=2.0, shift=1.0, assumption=Assumption.FITTED).save(tmp_path / "camera.json")
    monkeypatch.setattr(engine_dir, "BUNDLED", toy_dir)
    monkeypatch.setattr(depth, "BUNDLED", toy_dir)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_walk() -> None:
    """The bags that examples name, and a calibration."""
    with depth.Depth() as toy:
        recorded = {kind: bags.drive(toy, 1, kind=kind) for kind in ("mcap", "ros1")}
        toy.infer(bags.photo(0)).align(bags.true_m(toy, 0)).calibration.save("camera.json", overwrite=True)
    walk = bags.write_bag(Path("walk"), recorded["mcap"])
    shutil.copyfile(walk / "walk.mcap", "walk.mcap")
    bags.write_bag(Path("walk.bag"), recorded["ros1"], kind="ros1")


def measures(example: str) -> bool:
    """A latency table, whose rows are processes of their own."""
    return example.startswith("python -m benchmarks.latency")


def waits(example: str) -> bool:
    """A page, a service or a window: tests/runtime/demo, serving and video/test_viewer.py start them."""
    return example.startswith(("fiffdepth demo", "fiffdepth serve")) or "--view rerun" in example


def wants_a_cluster(example: str) -> bool:
    """Or an object store, or eight hundred shards: tests/runtime/batch has them as far as they fit."""
    return "--ray" in example


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(one, marks=[pytest.mark.soak] if measures(one) else [])
        for one in examples()
        if not waits(one) and not wants_a_cluster(one)
    ],
)
def test_every_example_in_the_help_runs(desk: Path, example: str) -> None:
    words = shlex.split(example)
    command, arguments = (program, words[1:]) if words[0] == "fiffdepth" else (latency.main, words[3:])
    if "bench" in example:
        arguments += ["--runs", "1", "--warm-up", "1"]
    if words[:2] == ["fiffdepth", "bag"]:
        record_walk()
    result = CliRunner().invoke(command, arguments)
    rtx = "rtx" in words
    if rtx and "--warm" not in words:
        builds = importlib.util.find_spec("tensorrt_rtx") is not None
    else:
        builds = tensorrt_here.usable(TENSORRT_RTX if rtx else TENSORRT).usable
    if words[:2] == ["fiffdepth", "build"] and not builds:
        library = "TensorRT for RTX" if rtx else "TensorRT"
        assert (result.exit_code, f"{library} cannot be used: " in result.stderr) == (1, True)
    else:
        assert (result.exit_code, result.stderr) == (0, "")


def test_the_program_says_its_version() -> None:
    from fiffdepth_rt import __version__

    assert CliRunner().invoke(program, ["--version"]).stdout == f"fiffdepth, version {__version__}\n"


if __name__ == "__main__":
    FROZEN.mkdir(exist_ok=True)
    for name, text in helps().items():
        (FROZEN / f"{name}.txt").write_text(text)

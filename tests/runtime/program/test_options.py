"""Promises about options that several commands of the program share."""

from __future__ import annotations

import argparse
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.program import program
from fiffdepth_rt.program.options import EngineChoice, named_path, path_or_name, too_long


@pytest.mark.parametrize("name", ["infer", "video", "calibrate", "bench", "verify"])
def test_every_command_that_opens_an_engine_lets_one_choose_it(name: str) -> None:
    options = {word for option in program.commands[name].params for word in option.opts}
    assert {"--backend", "--device", "--precision", "--threads"} <= options


def test_one_meaning_of_size_and_of_overwrite() -> None:
    for word in ("--size", "--overwrite", "--engine"):
        helps = {
            option.help
            for command in program.commands.values()
            for option in command.params
            if isinstance(option, click.Option) and word in option.opts
        }
        assert len(helps) == 1, word


def test_a_choice_opens_the_engine_that_it_names(toy_dir: Path) -> None:
    choice = EngineChoice(backend="openvino", device="cpu", precision="bf16", threads=1)
    with choice.open(toy_dir, size=(128, 192)) as depth:
        said = depth.describe()
        assert (said["backend"], said["device"], said["precision"]) == ("openvino", "cpu", "bf16")
        assert said["engine"]["threads"] == 1
        assert depth.grid_for((64, 64)) == (128, 192)


def test_bf16_on_openvino_can_be_asked_for_on_the_command_line(toy_dir: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(toy_dir.parent / "hall.png")
    words = ["--engine", str(toy_dir), "--backend", "openvino", "--precision", "bf16", "--format", "npy"]
    result = CliRunner().invoke(program, ["infer", str(toy_dir.parent / "hall.png"), *words])
    assert (result.exit_code, result.stderr) == (0, "")
    with fiffdepth_rt.Depth(toy_dir, backend="openvino", precision="bf16") as depth:
        np.testing.assert_array_equal(np.load(toy_dir.parent / "hall_depth.npy"), depth.infer(photo))


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--host", ""],  # all networks, to a socket
        ["demo", "--host", ""],
        ["serve", "--ray", ""],
        ["batch", "photos", "depth", "--ray", ""],
        ["infer", "hall.png", "--device", ""],
        ["bag", "walk.bag", "walk_depth.bag", "--prefix", ""],
    ],
)
def test_an_unset_variable_is_no_value_of_an_option(words: list[str]) -> None:
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 2
    assert f"'{words[-2]}': '' says nothing: was it an unset variable of the shell?" in result.stderr


@pytest.mark.parametrize(
    "words", [["bag", "n" * 256, "out"], ["video", "in.mp4", "-o", f"a/{'n' * 256}/b.mp4"]]
)
def test_a_path_with_a_name_that_is_too_long_is_refused_as_it_is_read(words: list[str]) -> None:
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 2
    assert "is longer than a name may be, 255 bytes" in result.stderr


def test_argparse_s_paths_are_refused_alike() -> None:
    assert named_path(f"a/{'n' * 255}") == Path("a", "n" * 255)
    for read in (named_path, path_or_name):
        with pytest.raises(argparse.ArgumentTypeError, match="is longer than a name may be, 255 bytes"):
            read(f"a/{'n' * 256}")
        with pytest.raises(argparse.ArgumentTypeError, match="is longer than a path may be, 4096 bytes"):
            read("a/" * 2049)


def test_a_pattern_may_be_longer_than_the_names_it_stands_for() -> None:
    pattern = f"shards/{{{','.join(f'{i:05d}' for i in range(99))}}}.tar"
    assert len(pattern) > 255 and path_or_name(pattern) == pattern
    assert too_long(pattern, pattern=True) is None
    assert too_long(pattern) is not None

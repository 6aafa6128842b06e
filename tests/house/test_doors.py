"""Promises of structure: one door for paths that come from a command line, and one for what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from export import build_engines
from tests.support.paths import ROOT
from training.data import command as data
from training.labelling import command as labelling
from training.weights.random import main as random_checkpoint


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_path_of_every_command_goes_through_the_type_that_refuses_an_empty_one() -> None:
    """An unset variable of the shell would be the current folder."""
    others = re.compile(r"click\.Path\(|\btype=Path\b")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sources("fiffdepth_rt", "export", "training", "benchmarks")
        if others.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    result = CliRunner().invoke(random_checkpoint, [""])
    assert result.exit_code == 2 and "'' is no name" in result.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (build_engines.main, [""]),
        (build_engines.main, ["x.safetensors", "--vae", ""]),
        (build_engines.main, ["x.safetensors", "--text-encoder", ""]),
        (labelling.main, ["--images", "photos", "--teacher", ""]),
        (data.program, ["check", "shards", ""]),
    ],
)
def test_what_may_be_a_path_or_a_name_is_not_empty_either(command: click.Command, words: list[str]) -> None:
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 2 and "'' says nothing: was it an unset variable" in result.stderr


def test_a_licence_that_is_not_there_is_said_before_the_work(tmp_path: Path) -> None:
    words = [str(tmp_path), "--licence-file", str(tmp_path / "LICENCE.txt")]
    result = CliRunner().invoke(build_engines.main, words)
    assert result.exit_code == 2 and "LICENCE.txt' does not exist" in result.stderr


def test_the_program_prints_through_the_door_that_makes_control_characters_visible() -> None:
    found = [
        path.name
        for path in sources("fiffdepth_rt/program")
        if re.search(r"click\.s?echo\(|\bprint\(", path.read_text(encoding="utf-8"))
    ]
    assert found == ["terminal.py"]


def test_so_do_the_tools_that_show_what_strangers_wrote() -> None:
    """Names of graphs, photos and shards; and a full standard output is a sentence there, too."""
    own = {"export/models/__main__.py", "training/weights/random.py"}  # these show what we wrote
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources("export", "training", "benchmarks")
        if re.search(r"click\.s?echo\(", path.read_text(encoding="utf-8"))
    }
    assert found == own

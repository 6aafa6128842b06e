"""Promises of docs/inspect.md: its commands for a CPU run as they stand, and find what they say they find."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.documents import POLYGRAPHY_OPTIONS
from tests.support.paths import ROOT
from tests.support.toy import write_toy_engine_dir

pytest.importorskip("polygraphy")
TEXT = (ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
POLYGRAPHY = [sys.executable, "-c", "import sys, polygraphy.tools; sys.exit(polygraphy.tools.main())"]


def blocks(language: str) -> list[list[str]]:
    """The words of every command in the blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)
    lines = "".join(found).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    assert words[0] == "polygraphy"
    return subprocess.run([*POLYGRAPHY, *words[1:]], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with engines/fiffdepth: the toy stands in for a model, in fp32 and fp16."""
    write_toy_engine_dir(tmp_path / "engines" / "fiffdepth", precisions=("fp32", "fp16"))
    return tmp_path


def test_every_command_for_a_cpu_runs_as_it_stands(desk: Path) -> None:
    said = {}
    for words in blocks("console"):
        ended = run(words, desk)
        assert ended.returncode == 0, ended.stdout
        said[" ".join(words)] = ended.stdout
    inspected, listed, _, compared, kept, bisected = said.values()
    assert "{latent [dtype=float32, shape=('batch', 4, 'height/8', 'width/8')]}" in inspected
    assert "[Op: Mul]" in listed and "Initializer | shift" in listed
    assert "PASSED | Output: 'scaled'" in compared and "PASSED | Output: 'depth_latent'" in compared
    assert "scaled [dtype=float32, shape=(1, 4, 48, 64)]" in kept
    assert "Pass Rate: 100.00%" in bisected


@pytest.mark.soak
def test_the_first_layer_that_departs_is_named_and_those_before_it_pass(desk: Path) -> None:
    graph = desk / "engines" / "fiffdepth" / "graphs" / "fp16" / "unet.onnx"
    model = onnx.load(graph)
    (shift,) = (one for one in model.graph.initializer if one.name == "shift")
    values = numpy_helper.to_array(shift)
    shift.CopyFrom(numpy_helper.from_array(np.asarray(values + 1, values.dtype), "shift"))
    onnx.save(model, graph)
    first, *_, bisection = [words for words in blocks("console") if words[1] == "run"]
    assert run(first, desk).returncode == 0
    ended = run(bisection, desk)
    assert ended.returncode == 1
    assert "PASSED | Output: 'scaled'" in ended.stdout
    assert re.search(r"FAILED \| Output: .depth_latent.", ended.stdout)


@functools.cache
def help_of(*tool: str) -> str:
    return run(["polygraphy", *tool, "--help"], ROOT).stdout


def has(option: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){option}(?![\w-])", text) is not None


def test_options_that_need_a_gpu_exist() -> None:
    for words in blocks("sh"):
        if words[0] == "polygraphy":
            known = help_of(*words[1 : 2 if words[1] == "run" else 3])
            known += help_of("run") if "--check" in words else ""  # what follows it is a command of its own
            missing = [word for word in words if word.startswith("--") and not has(word, known)]
            assert missing == [], words
    assert [option for option in sorted(POLYGRAPHY_OPTIONS) if not has(option, help_of("run"))] == []

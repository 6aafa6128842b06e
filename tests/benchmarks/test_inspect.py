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
from click.testing import CliRunner
from onnx import numpy_helper

from benchmarks import compare_engines
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import BUNDLED, read_manifest
from tests.support.paths import ROOT
from tests.support.plans import edit
from tests.support.toy import write_toy_engine_dir

pytest.importorskip("polygraphy")
TEXT = (ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
POLYGRAPHY = [sys.executable, "-c", "import sys, polygraphy.tools; sys.exit(polygraphy.tools.main())"]


def blocks(language: str) -> list[list[str]]:
    """The words of every command in the blocks of a language, without variables before it."""
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)
    lines = "".join(found).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ ")) for line in lines]
    return [line[1:] if "=" in line[0] else line for line in words]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    assert words[0] == "polygraphy"
    return subprocess.run([*POLYGRAPHY, *words[1:]], cwd=folder, capture_output=True, text=True)


def compare(*words: str | Path) -> tuple[int, str]:
    """Exit status and what `python -m benchmarks.compare_engines` prints."""
    result = CliRunner().invoke(compare_engines.main, [str(word) for word in words])
    assert result.stderr == "" or result.exit_code, result.stderr
    return result.exit_code, result.stdout or result.stderr


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with engines/fiffdepth: the toy stands in for a model, in fp32 and fp16."""
    write_toy_engine_dir(tmp_path / "engines" / "fiffdepth", precisions=("fp32", "fp16"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_for_a_cpu_runs_as_it_stands(desk: Path) -> None:
    of_polygraphy, listed, compared = blocks("console")
    ended = [run(words, desk) for words in (of_polygraphy, listed)]
    assert [one.returncode for one in ended] == [0, 0]
    assert "{latent [dtype=float32, shape=('batch', 4, 'height/8', 'width/8')]}" in ended[0].stdout
    assert "[Op: Mul]" in ended[1].stdout and "Initializer | shift" in ended[1].stdout
    assert compared[:3] == ["python", "-m", "benchmarks.compare_engines"]
    status, said = compare(*compared[3:])
    assert status == 0
    assert re.findall(r"^(\w+): none of (\d+) layers is beyond 0.02", said, re.M) == [
        ("encoder", "1"),
        ("unet", "1"),
        ("decoder", "2"),
    ]


def change(directory: Path, graph: str, weights: str, by: float) -> None:
    """Add to one initializer of a graph of an engine directory."""
    path = directory / graph
    model = onnx.load(path)
    (found,) = (one for one in model.graph.initializer if one.name == weights)
    values = numpy_helper.to_array(found)
    found.CopyFrom(numpy_helper.from_array(np.asarray(values + by, values.dtype), weights))
    onnx.save(model, path)
    edit(directory, files={**read_manifest(directory).files, graph: hash_file(path)})


def test_the_first_layer_that_departs_is_named_and_those_before_it_are_not(desk: Path) -> None:
    directory = desk / "engines" / "fiffdepth"
    change(directory, "graphs/fp16/unet.onnx", "shift", 1.0)
    status, said = compare(directory, "--stage", "unet", "--every")
    assert status == 1
    assert "unet: 1 of 2 layers are beyond 0.02. The first:" in said
    (row,) = (line for line in said.splitlines() if line.startswith("| unet"))
    stage, node, operator, output, mean, p999 = (cell.strip() for cell in row.strip("|").split("|"))
    assert (stage, node, operator, output) == ("unet", "1", "Add", "depth_latent")
    expected = 1 / reference_deviation(directory)
    assert float(mean) == pytest.approx(expected, rel=0.05) and float(p999) == pytest.approx(
        expected, rel=0.05
    )
    assert compare(directory, "--stage", "unet", "--every", "--beyond", str(2 * expected))[0] == 0


def reference_deviation(directory: Path) -> float:
    """Of the toy UNet's output on its first golden photo."""
    with np.load(directory / "golden.npz") as golden:
        return float(golden["photo0/unet/output"].std())


def test_values_that_are_not_finite_are_beyond_any_distance(desk: Path) -> None:
    directory = desk / "engines" / "fiffdepth"
    change(directory, "graphs/fp16/unet.onnx", "scale", float("inf"))
    status, said = compare(directory, "--stage", "unet", "--beyond", "1000000", "--every")
    assert status == 1 and "2 of 2 layers are beyond" in said and "inf" in said


def test_a_graph_set_that_is_not_there_is_named_with_those_that_are(desk: Path) -> None:
    status, said = compare(desk / "engines" / "fiffdepth", "--precision", "bf16")
    assert status == 1 and "holds no graph set bf16, but fp16, fp32." in said


BUILD = """
import sys
from pathlib import Path
from benchmarks.compare_engines import mark_layers
from benchmarks.polygraphy_runners import plan_loader, polygraphy_for

graph, folder = map(Path, sys.argv[1:])
with polygraphy_for("tensorrt-rtx"):
    marked = mark_layers(graph, folder, every=False)
    plan = bytes(plan_loader("tensorrt-rtx", marked, "image", (1, 128, 128, 3), for_this_gpu=False)())
print(plan[:4], b"conv2d_18" in plan, b"latent" in plan)
"""


def test_tensorrt_for_rtx_builds_a_graph_whose_layers_are_outputs(tmp_path: Path) -> None:
    """Through polygraphy, for real: a process of its own, since polygraphy settles on one library."""
    pytest.importorskip("tensorrt_rtx")
    graph = BUNDLED / "graphs" / "fp32" / "encoder.onnx"
    command = [sys.executable, "-c", BUILD, str(graph), str(tmp_path / "marked")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout.splitlines()[-1] == "b'vtrt' True True"


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

"""Promises about advice: a command that an error of the runtime or `fiffdepth doctor` names is right.

Every string of fiffdepth_rt is looked through, so a new piece of advice is tested, or fails here until its
words are known. What cannot be run here is checked as far as it goes:

- `pip …` would change this environment, and wants an index: its requirements are parsed, their names must be
  those that pyproject.toml knows, and so must their extras.
- `fiffdepth build` wants TensorRT, `python -m export.build_engines` a checkpoint and minutes: their arguments
  are parsed. Both run for real in tests/runtime/gpu and tests/export.
- `nvidia-smi` and `sudo apt install` are other people's, and for machines with a GPU.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from PIL import Image

from export import build_engines
from fiffdepth_rt import Depth
from fiffdepth_rt.geometry.calibration import CALIBRATE
from fiffdepth_rt.program import program
from tests.house.test_packaging import PROJECT
from tests.support.documents import problems
from tests.support.paths import ROOT

# A command goes on until a sentence does.
_COMMAND = re.compile(
    rf"(?:pip (?:un)?install|fiffdepth (?:{'|'.join(program.commands)})\b|python -m [a-z]|cp -rL|nvidia-smi"
    r"|sudo apt)"
    r".*?(?=`|; |\. |\.$| \(|\)|, |  |$)",
    re.DOTALL,
)

# What stands in the holes of f-strings, by the expression: one value that is possible.
_HOLES = {
    "directory": "DIR", "path": "DIR", "self._path": "DIR", "extra": "cpu", "flavour.name": "tensorrt-rtx",
    "wheel": "numpy", "major": "11", "major + 1": "12", "rtx": " --flavour rtx", "wanted": "fp32",
    "precision": "fp32", "precisions[0]": "fp32", "plan.precision": "fp32", "height": "480", "width": "640",
    "' '.join(_WHEELS)": "onnxruntime onnxruntime-gpu", "' '.join(found)": "onnxruntime onnxruntime-gpu",
    "CALIBRATE": CALIBRATE, "extra.name": "view", "_DRIVERS[scheme]": "s3fs",
}  # fmt: skip


def _text(node: ast.expr) -> str:
    """A string with its holes filled; a hole that is not known stands as «expression»."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value)
    if isinstance(node, ast.IfExp) and isinstance(node.body, ast.Constant | ast.JoinedStr):
        return _text(node.body)
    return _HOLES.get(ast.unparse(node), f"«{ast.unparse(node)}»")


def _strings(file: Path) -> Iterator[str]:
    """Every string of a file but its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    pieces = {
        id(piece)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for piece in ast.walk(node)
        if isinstance(piece, ast.Constant)
    }
    for node in ast.walk(tree):
        text = isinstance(node, ast.JoinedStr | ast.Constant) and isinstance(getattr(node, "value", ""), str)
        if text and id(node) not in docstrings | pieces:
            yield _text(node)


def advice(*folders: str) -> list[str]:
    """Commands that a reader may copy, each once."""
    found = {
        part.strip().strip("`'") if part.count("'") % 2 else part.strip().strip("`")
        for folder in folders
        for file in sorted((ROOT / folder).rglob("*.py"))
        for text in _strings(file)
        for command in _COMMAND.findall(text)
        for part in command.split(" && ")
    }
    # Help texts show examples, which tests/house/test_help.py runs.
    return sorted(one for one in found if not one.startswith("fiffdepth infer") and "\n" not in one)


ADVICE = advice("fiffdepth_rt")
OF_TOOLS = advice("export", "training", "benchmarks")


def test_advice_is_found_in_all_its_forms() -> None:
    firsts = {one.split()[0] for one in ADVICE}
    assert firsts == {"pip", "fiffdepth", "python", "cp", "nvidia-smi", "sudo"}
    assert "pip install 'fiffdepth-rt[photos]'" in ADVICE and "fiffdepth doctor" in ADVICE
    assert len(ADVICE) > 20


@pytest.mark.parametrize("command", [one for one in ADVICE if one.startswith("pip ")])
def test_pip_is_told_to_install_what_pyproject_knows(command: str) -> None:
    known = {
        Requirement(one).name
        for some in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for one in some
    }
    others = {"onnxruntime", "onnxruntime-gpu", "opencv-python-headless"}  # what overwrites one another
    others |= {"s3fs"}  # and drivers, each for those who have such a store
    _, verb, *words = shlex.split(command.split("   ")[0])
    options = {word for word in words if word.startswith("-")}
    assert options <= {"--force-reinstall", "--no-deps", "-y"} and ("-y" in options) == (verb == "uninstall")
    requirements = [Requirement(word) for word in words if word not in options]
    assert requirements
    for requirement in requirements:
        assert requirement.name in known | others | {"fiffdepth-rt"}
        assert requirement.extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("command", [one for one in ADVICE if one.startswith("fiffdepth ")])
def test_a_command_of_fiffdepth_runs_or_where_it_wants_tensorrt_is_parsed(
    command: str, toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_dir.parent)
    toy_dir.rename("DIR")
    name, *words = shlex.split(command)[1:]
    if name == "build":
        words = words if "DIR" in words else ["DIR", *words]
        words += ["512x512"] if words[-1] == "--grid" else []
        program.commands["build"].make_context("build", words)
        return
    if name == "calibrate":
        Image.new("RGB", (640, 480), (90, 90, 90)).save(words[0])
        words = ["DIR", *words]
    if name == "verify":
        words = ["DIR"]  # the backend that is named is TensorRT's
    result = CliRunner().invoke(program, [name, *words])
    assert result.exit_code == 0 or name == "doctor", result.output
    assert "Usage:" not in result.output and "bug of fiffdepth" not in result.output


@pytest.mark.parametrize("command", [one for one in ADVICE if one.startswith("python -m ")])
def test_an_export_is_asked_for_with_options_that_it_has(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CHECKPOINT").touch()
    words = shlex.split(command)
    assert words[2] == "export.build_engines"
    main = build_engines.main
    assert isinstance(main, click.Command)
    main.make_context("build_engines", words[3:])


def test_the_tools_name_programs_options_and_extras_that_exist() -> None:
    """What their own tests run (from_pickle, the export) is not run again here."""
    named = [re.sub("«.*?»", "X", one) for one in OF_TOOLS]
    assert "python -m training.weights.from_pickle IN.bin OUT.safetensors" in named and len(named) > 15
    assert {one: wrong for one in named if (wrong := problems(f"`{one}`"))} == {}


def test_a_plain_copy_of_a_linked_directory_opens(toy_dir: Path) -> None:
    assert [one for one in ADVICE if one.startswith("cp ")] == ["cp -rL"]
    blobs, linked, plain = (toy_dir.parent / name for name in ("blobs", "linked", "plain"))
    toy_dir.rename(blobs)
    linked.mkdir()
    for entry in blobs.iterdir():
        (linked / entry.name).symlink_to(entry)
    subprocess.run(["cp", "-rL", linked, plain], check=True)
    assert not any(path.is_symlink() for path in plain.rglob("*"))
    Depth(plain, verify=True).close()


def test_what_cannot_be_tried_here_is_known_by_name() -> None:
    others = {one for one in ADVICE if not one.startswith(("pip ", "fiffdepth ", "python -m ", "cp "))}
    assert others == {"nvidia-smi", "sudo apt install python3-libnvinfer"}

"""What a document names (commands, options, make targets, extras, modules, files), and whether it exists.

START HERE: `problems`. Options are looked up in the parsers that the programs make, not in their help.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.util
import inspect
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.paths import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PACKAGES = ("fiffdepth_rt", "training", "export", "benchmarks")
# Options of other people's programs that our documents name alone.
FOREIGN_OPTIONS = {"--system-site-packages"}  # of python -m venv
FOREIGN_FILES = {"contrib/99991/download.py"}  # in Hypersim's repository

STARTS = re.compile(r"(\$ )?(fiffdepth|python|make|pip|accelerate) ")
OPTION = re.compile(r"--[a-z]|-[a-zA-Z]\b(?!-)")

Program = argparse.ArgumentParser | click.Command


def problems(text: str) -> list[str]:
    """Everything that `text` (Markdown) names and that does not exist, each as one sentence."""
    found = []
    for line in command_lines(text):
        for words in commands(line):
            found += [f"{line}: {problem}" for problem in _wrong_in_command(words)]
    for code in inline_codes(text):
        found += [f"`{code}`: {problem}" for problem in _wrong_in_name(code)]
    return found


# --- a document -> what it names ---


def command_lines(text: str) -> Iterator[str]:
    """Lines that a reader may type: of blocks marked console, sh or text, and inline code."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            typed = language == "sh" or (language == "text" and STARTS.match(line))
            if typed or (language == "console" and line.startswith("$ ")):
                yield line.removeprefix("$ ")
    yield from inline_codes(text)


def inline_codes(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands(line: str) -> Iterator[list[str]]:
    """The words of each command in a line of shell; a comment and what is no shell are left out."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe: prose or another language
        return
    command: list[str] = []
    for word in words:
        if word in ("&&", ";"):
            yield command
            command = []
        elif command or not re.fullmatch(r"[A-Z_]+=\S*", word):  # FIFFDEPTH_CACHE=off fiffdepth ...
            command.append(word)
    if command:
        yield command


# --- commands and options ---


def _wrong_in_command(words: list[str]) -> list[str]:
    first, rest = words[0], words[1:]
    wrong = [f"there is no {word}" for word in rest if _is_file_of_ours(word) and not _exists(word)]
    if first == "fiffdepth":
        return wrong + _wrong_in_arguments("fiffdepth_rt", rest)
    if first in ("python", "python3") and rest:
        return wrong + _wrong_in_python(rest)
    if first == "accelerate" and rest[:1] == ["launch"] and len(rest) > 1:
        return wrong + _wrong_in_accelerate(rest[1:])
    if first == "make":
        return wrong + _wrong_in_make(rest)
    if first == "pip":
        return wrong + [problem for word in rest for problem in _wrong_in_extras(word)]
    if first == "pytest" and "-m" in rest:
        marker = rest[rest.index("-m") + 1]
        return wrong if marker in _markers() else [*wrong, f"there is no marker {marker}"]
    if re.fullmatch(r"(training|export|benchmarks)(\.\w+)+", first) and rest:
        return wrong + _wrong_in_arguments(first, rest)
    if OPTION.match(first):
        known = first.partition("=")[0] in _every_option()
        return wrong if known else [*wrong, f"no program of ours has an option {first}"]
    return wrong


def _wrong_in_python(words: list[str]) -> list[str]:
    """The words after `python`."""
    if words[0] == "-m" and len(words) > 1:
        module = words[1]
        if module.partition(".")[0] in PACKAGES:
            return _wrong_in_arguments(module, words[2:])
        return _wrong_in_command(words[1:])  # python -m pip, python -m pytest
    if _is_file_of_ours(words[0]) and _exists(words[0]):
        return _wrong_in_arguments(words[0].removesuffix(".py").replace("/", "."), words[1:])
    return []


def _wrong_in_accelerate(words: list[str]) -> list[str]:
    """The words after `accelerate launch`: its own options, then what it starts."""
    from accelerate.commands.launch import launch_command_parser

    own = _options(launch_command_parser())
    for i, word in enumerate(words):
        if word == "-m":
            unknown = [word for word in words[:i] if OPTION.match(word) and word not in own]
            return [f"accelerate has no {word}" for word in unknown] + _wrong_in_python(words[i:])
    return ["accelerate launch starts no module: say -m"]


def _wrong_in_make(words: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    variables = set(re.findall(r"^([A-Z_]+) *\?=", makefile, re.M))
    variables |= set(re.findall(r"\$\((?:if \$\()?([A-Z_]+)\)", makefile))
    named = [word for word in words if re.fullmatch(r"[a-z-]+", word)]
    given = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
    wrong = [f"there is no target {name}" for name in named if name not in targets]
    return wrong + [f"the Makefile knows no {name}" for name in given if name not in variables]


def _wrong_in_extras(word: str) -> list[str]:
    """`.[cpu]`, `fiffdepth-rt[cpu,tensorrt]` or `[cpu]`."""
    match = re.fullmatch(r"(?:\.|fiffdepth-rt)?\[([a-z,-]+)\]", word)
    named, extras = match.group(1).split(",") if match else [], _project()["optional-dependencies"]
    return [f"there is no extra {name}" for name in named if name not in extras]


def _wrong_in_arguments(module: str, words: list[str]) -> list[str]:
    """The words after the program that `module` starts: its commands and options, and choices of options."""
    whole = program_of(module)
    if whole is None:
        return [f"there is no program {module}"]
    program, wrong, words = whole, [], list(words)
    while words:
        word = words.pop(0)
        if word == "|":  # `python -m training.data prepare | check`: either
            program = whole
        elif OPTION.match(word):
            name, _, value = word.partition("=")
            option = _options(program).get(name)
            if option is None:
                wrong.append(f"{module} has no option {name}")
            elif _takes_a_value(option) and (value or words):
                value = value or words.pop(0)
                choices = _choices(option)
                if choices and re.fullmatch(r"[a-z0-9_.-]+", value) and value not in choices:
                    wrong.append(f"{name} is one of {', '.join(choices)}")
        elif _subcommands(program):
            if word in _subcommands(program):
                program = _subcommands(program)[word]
            elif re.fullmatch(r"[a-z-]+", word):
                wrong.append(f"{module} has no command {word}")
    return wrong


class _Parsing(BaseException):
    """Carries the parser of a program that was about to parse its command line."""


@functools.cache
def program_of(module: str) -> Program | None:
    """What `python -m MODULE` parses its command line with. None: no such module, or it has no program."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except ModuleNotFoundError:
        return None

    def stop(self: Program, *_: Any, **__: Any) -> None:
        raise _Parsing(self)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runpy's, of a module that is imported already
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patch.setattr(click.Command, "main", stop)
        patch.setattr(sys, "argv", [module])
        patch.setattr(sys, "path", list(sys.path))
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except _Parsing as parsing:
            program: Program = parsing.args[0]
            return program
    return None


def _options(program: Program) -> dict[str, Any]:
    """Option as it is typed -> what the parser knows of it."""
    if isinstance(program, argparse.ArgumentParser):
        return {name: action for action in program._actions for name in action.option_strings}
    options = [p for p in program.get_params(click.Context(program)) if isinstance(p, click.Option)]
    return {name: option for option in options for name in (*option.opts, *option.secondary_opts)}


def _takes_a_value(option: Any) -> bool:
    if isinstance(option, argparse.Action):
        return option.nargs != 0
    return not (option.is_flag or option.count)


def _choices(option: Any) -> list[str]:
    if isinstance(option, argparse.Action):
        return [str(choice) for choice in option.choices or ()]
    return [str(choice) for choice in option.type.choices] if isinstance(option.type, click.Choice) else []


def _subcommands(program: Program) -> dict[str, Any]:
    if isinstance(program, click.Group):
        return program.commands
    for action in getattr(program, "_actions", ()):
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@functools.cache
def _every_option() -> set[str]:
    """The options of all programs of the repository, and of `accelerate launch`, which starts some."""
    from accelerate.commands.launch import launch_command_parser

    names = set(_options(launch_command_parser())) | FOREIGN_OPTIONS
    for program in filter(None, map(program_of, _programs())):
        names |= set(_options(program))
        for command in _subcommands(program).values():
            names |= set(_options(command))
    return names


def _programs() -> Iterator[str]:
    """The modules of the repository that start as programs with options."""
    for name in tracked():
        if name.split("/")[0] in PACKAGES and name.endswith(".py"):
            text = (ROOT / name).read_text(encoding="utf-8")
            parses = re.search(r"^(import|from) (argparse|click)\b", text, re.M)
            if name.endswith("/__main__.py") or ("\nif __name__ == " in text and parses):
                yield name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    yield "fiffdepth_rt"


# --- calls of the library ---


def wrong_calls(code: str) -> list[str]:
    """Calls of names of fiffdepth_rt and of methods of `depth` that are missing or take no such argument."""
    import fiffdepth_rt

    wrong = []
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or not isinstance(call.func.value, ast.Name):
            continue
        attribute = call.func.attr
        if call.func.value.id == "fiffdepth_rt":
            owner, name = fiffdepth_rt, "fiffdepth_rt"
        elif call.func.value.id == "depth":
            owner, name = fiffdepth_rt.Depth, "Depth"
        else:
            continue
        if not hasattr(owner, attribute):
            wrong.append(f"{name} has no {attribute}")
            continue
        called = attribute if owner is fiffdepth_rt else f"Depth.{attribute}"
        takes = inspect.signature(getattr(owner, attribute)).parameters
        wrong += [f"{called} takes no {given.arg}" for given in call.keywords if given.arg not in takes]
    return wrong


# --- modules, functions, files ---


def _wrong_in_name(code: str) -> list[str]:
    name = re.sub(r"\(.*\)$", "", code)
    if re.fullmatch(r"(fiffdepth_rt|training|export|benchmarks|tests)(\.[A-Za-z_]\w*)+", name):
        return [] if _resolves(name) or _is_logger(name) else ["there is no such module or name"]
    if re.fullmatch(r"\[[a-z,-]+\]", code):
        return _wrong_in_extras(code)
    if re.fullmatch(r"[\w./-]+", code) and (code.endswith(".py") or _is_file_of_ours(code)):
        return [] if _exists(code) or code in FOREIGN_FILES else ["there is no such file"]
    return []


def _resolves(name: str) -> bool:
    """Whether a dotted name is a module, or reached from one by its attributes."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[i:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def _is_logger(name: str) -> bool:
    """Whether a module of ours logs under this name."""
    ours = (ROOT / path for path in tracked() if path.startswith(PACKAGES) and path.endswith(".py"))
    return any(f'getLogger("{name}")' in path.read_text(encoding="utf-8") for path in ours)


def _is_file_of_ours(word: str) -> bool:
    """Whether a word is a path into a folder of the repository."""
    top, slash, _ = word.partition("/")
    return bool(slash) and re.fullmatch(r"[\w./-]+", word) is not None and top in _folders()


def _exists(path: str) -> bool:
    """Whether a path exists, from the repository's root or, as prose names it, as the end of one."""
    if (ROOT / path).exists():
        return path.startswith(tuple(f"{top}/" for top in _folders())) or "/" not in path
    return any(name.endswith(f"/{path}") for name in tracked() if not name.startswith("tests/"))


@functools.cache
def _folders() -> frozenset[str]:
    return frozenset(name.split("/")[0] for name in tracked() if "/" in name and not name.startswith("."))


@functools.cache
def tracked() -> frozenset[str]:
    """The files of the repository. Those that git does not know yet but does not ignore count too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return frozenset(name for name in out.split("\0") if name and (ROOT / name).exists())


@functools.cache
def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = _pyproject()["project"]
    return project


def _markers() -> set[str]:
    return {marker.partition(":")[0] for marker in _pyproject()["tool"]["pytest"]["ini_options"]["markers"]}


def documents() -> list[Path]:
    """What users read: README, CONTRIBUTING, ARCHITECTURE and the guides. CHANGELOG may name what is gone."""
    ours = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
    return sorted([*ours, *(ROOT / "docs").glob("*.md")])

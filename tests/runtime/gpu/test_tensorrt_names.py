"""Promises about names of TensorRT 10.3 to 11.4 and TensorRT for RTX 1.7: each that we use is there, or asked
for first.

No GPU and no TensorRT needed: tests/support/tensorrt_names.json holds the public names of the real bindings
of each version, written by tests/support/make_tensorrt_names.py.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS, TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.versions import (
    RTX_CAPABILITIES,
    Release,
    builder_flags,
    check_supported,
    network_flags,
    parse_version,
    parser_flags,
    tactic_sources,
)
from fiffdepth_rt.engine_dir.manifest import HARDWARE_COMPATIBILITIES
from tests.support.paths import ROOT

PACKAGE = Path(fiffdepth_rt.__file__).parent
NAMES: dict[str, dict[str, str]] = json.loads(
    (ROOT / "tests" / "support" / "tensorrt_names.json").read_text()
)
RTX = "1.7.1.116"
FOR_RTX_ALONE = ("runtime_cache.py",)


def release(version: str) -> Release:
    number = parse_version(version)
    flavour = next(one for one in FLAVOURS if one.oldest <= number < one.newest)
    return Release(flavour=flavour, version=number)


MEMBERS = {version: {m for names in tree.values() for m in names.split()} for version, tree in NAMES.items()}

# Members of some TensorRT class that came or went, and are attributes of something else in our files.
OURS = {
    "metadata": "importlib's; also engines', from 10.16",
    "precision": "a PlanRecord's; also ILayer's, until 11",
    "write": "a file's; also IStreamWriter's, from 10.14",
}


def files_with_tensorrt() -> list[Path]:
    """Files of ours that import TensorRT, not our module of that name."""
    ours = (*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").rglob("*.py"))
    return sorted(path for path in ours if re.search(r"\btrt = load\(|\btrt: Any\b", path.read_text()))


def faults(source: str, versions: Sequence[str] = tuple(NAMES)) -> list[str]:
    """Source -> "line: name absent in versions", for each TensorRT name that not all `versions` have.

    A chain `trt.A.B` is looked up as such; of other attributes only the name is known. What stands in an `if`
    (or conditional expression) whose condition calls `hasattr`, or asks for the flavour, is guarded.
    """
    return [
        f"{line}: {name} absent in {', '.join(absent)}"
        for line, name in sorted(set(used(ast.parse(source), guarded=False)))
        if (absent := [version for version in versions if not is_in(name, version)])
    ]


def used(node: ast.AST, *, guarded: bool) -> Iterator[tuple[int, str]]:
    """(line, "A.B" of a chain or ".member") of every unguarded name under `node`."""
    if isinstance(node, ast.Attribute) and not guarded:
        names = chain(node)
        if names and names[0] in ("trt", "tensorrt"):
            yield node.lineno, ".".join(names[1:])
            return
        yield node.lineno, f".{node.attr}"
    guards = ("hasattr", ".portable", ".has_timing_cache")
    if isinstance(node, ast.If | ast.IfExp) and any(guard in ast.unparse(node.test) for guard in guards):
        inside, outside = [node.test, node.body], [node.orelse]
    else:
        inside, outside = [], list(ast.iter_child_nodes(node))
    for group, under_guard in ((inside, True), (outside, guarded)):
        for entry in group:
            for child in entry if isinstance(entry, list) else [entry]:
                yield from used(child, guarded=under_guard)


def chain(node: ast.AST) -> list[str]:
    """`trt.A.B` -> ["trt", "A", "B"]; empty where the root is no plain name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def is_in(name: str, version: str) -> bool:
    tree, (owner, _, member) = NAMES[version], name.rpartition(".")
    if name.startswith("."):  # a member of who knows what: a fault only where some version has it
        return member in OURS or member in MEMBERS[version] or not any(member in m for m in MEMBERS.values())
    return name in tree or member.startswith("__") or member in tree.get(owner, "").split()


def test_the_table_holds_what_is_promised() -> None:
    assert sorted(NAMES) == [RTX, "10.16.1.11", "10.3.0", "11.4.0.106"]
    for version, tree in NAMES.items():
        check_supported(version, release(version).flavour)
        assert len(tree) > 100 and "build_serialized_network" in tree["Builder"].split()


def test_the_files_that_touch_tensorrt_are_found() -> None:
    names = {path.name for path in files_with_tensorrt()}
    assert names == {"builder.py", "log.py", "opened.py", "plan_layers.py", *FOR_RTX_ALONE}


@pytest.mark.parametrize("path", files_with_tensorrt(), ids=lambda path: path.name)
def test_every_name_is_there_in_every_version(path: Path) -> None:
    assert faults(path.read_text(), [RTX] if path.name in FOR_RTX_ALONE else tuple(NAMES)) == []


@pytest.mark.parametrize("path", files_with_tensorrt(), ids=lambda path: path.name)
def test_tensorrt_is_loaded_inside_functions_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [node for node in tree.body if isinstance(node, ast.Assign) and "load(" in ast.unparse(node)]


def test_no_file_imports_either_library_past_load() -> None:
    imports = re.compile(r"^\s*(import|from) tensorrt(_rtx)?\b", re.M)
    ours = (*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").rglob("*.py"))
    assert [path.name for path in ours if imports.search(path.read_text())] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", ["1: BuilderFlag.FP16 absent in 1.7.1.116, 11.4.0.106"]),
        ("x = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
         ["1: HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY absent in 10.3.0"]),
        ("trt.NoSuchThing()", ["1: NoSuchThing absent in 1.7.1.116, 10.16.1.11, 10.3.0, 11.4.0.106"]),
        ("engine.device_memory_size", ["1: .device_memory_size absent in 1.7.1.116, 11.4.0.106"]),
        ("if hasattr(trt.BuilderFlag, 'FP16'):\n    config.set_flag(trt.BuilderFlag.FP16)", []),
        ("if hasattr(a, 'b'):\n    pass\nelse:\n    trt.NoSuchThing()",
         ["4: NoSuchThing absent in 1.7.1.116, 10.16.1.11, 10.3.0, 11.4.0.106"]),
        ("trt.BuilderFlag.TF32; trt.Builder(trt.ILogger()); trt.ILogger.Severity.ERROR; path.name", []),
    ],
)  # fmt: skip
def test_a_name_that_came_or_went_is_a_fault_unless_asked_for(source: str, found: list[str]) -> None:
    assert faults(source) == found


@pytest.mark.parametrize("version", NAMES)
def test_names_that_are_looked_up_by_text_are_there(version: str) -> None:
    """versions.py decides by number; what it names must be in that version."""
    number, tree = release(version), NAMES[version]
    looked_up = {
        "NetworkDefinitionCreationFlag": network_flags(number),
        "OnnxParserFlag": parser_flags(number),
        "BuilderFlag": builder_flags(number, "fp16", stripped=True),
        "TacticSource": tactic_sources(number) or (),
    }
    for owner, names in looked_up.items():
        assert set(names) <= set(tree[owner].split()), owner


def test_every_compute_capability_has_its_name_in_tensorrt_for_rtx() -> None:
    names = {f"SM{capability.replace('.', '')}" for capability in RTX_CAPABILITIES}
    assert names == set(NAMES[RTX]["ComputeCapability"].split()) - {"CURRENT", "NONE", "name", "value"}
    assert set(NAMES[RTX]) >= {"EngineValidity", "EngineInvalidityDiagnostics"}
    assert release(RTX).flavour is TENSORRT_RTX


def test_every_hardware_compatibility_is_a_level_of_tensorrt() -> None:
    for version in ("10.16.1.11", "11.4.0.106"):
        levels = NAMES[version]["HardwareCompatibilityLevel"].split()
        assert {name.upper() for name in HARDWARE_COMPATIBILITIES} <= set(levels)

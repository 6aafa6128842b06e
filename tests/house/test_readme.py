"""Promises of the documents: code that runs, a tree that is there, links that lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import tracked, wrong_calls
from tests.support.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def _blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)


def _python(document: Path, *languages: str) -> str:
    """The document's blocks of Python as one program: a reader types them one after the other."""
    return "\n".join(block for language in languages for block in _blocks(document, language))


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if _blocks(d, "python")], ids=lambda path: path.name
)
def test_python_in_the_documents_runs(document: Path, tmp_path: Path) -> None:
    photo = (ROOT / "examples" / "coffee.jpg").read_bytes()
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for name in ("photo.jpg", "photos/trip/sea.jpg"):
        (tmp_path / name).write_bytes(photo)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _python(document, "python")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # as from a clone: training and export are not installed
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if _python(d, "python", "py")], ids=lambda path: path.name
)
def test_python_in_the_documents_calls_what_there_is(document: Path) -> None:
    """Blocks marked py need a GPU and run in tests/runtime/gpu; here their calls are checked."""
    assert wrong_calls(_python(document, "python", "py")) == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("depth.infre(photo)", "Depth has no infre"),
        ("with fiffdepth_rt.Depth(engine='tensorrt') as depth: pass", "Depth takes no engine"),
        ("fiffdepth_rt.colourize(d)", "fiffdepth_rt has no colourize"),
        ("depth.infer(photo, stream=side)", "Depth.infer takes no stream"),
    ],
)
def test_calls_of_what_there_is_not_are_found(code: str, wrong: str) -> None:
    assert wrong_calls(code) == [wrong]


def test_the_readme_has_a_snippet() -> None:
    assert _blocks(ROOT / "README.md", "python")


def _tree() -> dict[str, str]:
    """README's tree as path -> caption. Two blanks per level; folders end with "/"."""
    (block,) = [b for b in _blocks(ROOT / "README.md", "text") if "fiffdepth_rt/" in b]
    parents, found = [""], {}
    for line in block.splitlines():
        entry, _, caption = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        path = parents[depth] + entry
        parents[depth + 1 :] = [path]
        found[path] = caption.strip()
    return found


def test_every_entry_of_the_readme_tree_exists_and_has_a_caption() -> None:
    for path, caption in _tree().items():
        assert (ROOT / path).exists(), path
        assert (ROOT / path).is_dir() == path.endswith("/"), path
        assert caption, path


def test_every_room_and_every_module_of_the_runtime_is_in_the_readme_tree() -> None:
    """A room (a folder of modules) stands for its files; the runtime's own files are named one by one."""
    tree, missing = _tree(), set()
    for name in tracked():
        path = Path(name)
        hidden = path.parts[0].startswith(".")
        if hidden or path.name == "__init__.py" or path.parts[0] in ("tests", "README.md"):
            continue
        top = path.parts[0] + "/" * (len(path.parts) > 1)
        if top not in tree and not any(part in tree for part in (name, top)):
            missing.add(top)
        if path.suffix == ".py" and path.parts[0] in ("fiffdepth_rt", "export", "training", "benchmarks"):
            in_runtime = path.parent == Path("fiffdepth_rt")
            rooms = ["/".join(path.parts[: i + 1]) + "/" for i in range(len(path.parts) - 1)]
            if name not in tree and (in_runtime or not any(room in tree for room in rooms[:2][-1:])):
                missing.add(name)
    assert not missing, f"not in README's tree: {sorted(missing)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target

"""The folder in which an engine directory grows: what was done is found again, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.partial_folder import PartialFolder
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME


class Work:
    """A piece that writes its name into a file, and counts how often it was made."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.times = folder, name, 0

    def __call__(self) -> tuple[dict[str, str], list[str]]:
        self.times += 1
        file = f"graphs/{self.name}"
        (self.folder / "graphs").mkdir(exist_ok=True)
        (self.folder / file).write_text(self.name)
        return {"made": self.name}, [file]


def opened(target: Path, *, key: str = "k", resume: bool = True) -> PartialFolder:
    return PartialFolder(target, key=key, overwrite=False, resume=resume)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where an export stopped after its first piece."""
    target = tmp_path / "engines" / "x"
    first = opened(target)
    first.piece("first", Work(first.folder, "first"))
    return target


def test_what_was_done_is_not_done_again(target: Path) -> None:
    again = opened(target)
    assert again.pieces_found == ("first",)
    first, second = Work(again.folder, "first"), Work(again.folder, "second")
    assert again.piece("first", first) == {"made": "first"}
    assert again.piece("second", second) == {"made": "second"}
    assert (first.times, second.times) == (0, 1)


@pytest.mark.parametrize("how", ["another key", "damaged", "gone", "restart"])
def test_what_cannot_be_trusted_is_done_again(target: Path, how: str) -> None:
    file = target.with_name(".x.partial") / "graphs" / "first"
    if how == "damaged":
        file.write_text("FIRST")
    elif how == "gone":
        file.unlink()
    again = opened(target, key="other" if how == "another key" else "k", resume=how != "restart")
    assert again.pieces_found == ()
    work = Work(again.folder, "first")
    again.piece("first", work)
    assert work.times == 1


def test_the_finished_directory_holds_this_runs_files_alone(target: Path) -> None:
    again = opened(target)
    again.piece("second", Work(again.folder, "second"))
    (again.folder / MANIFEST_NAME).write_text("{}")
    assert not target.exists()
    again.finish()
    assert {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()} == {
        "graphs/second",
        MANIFEST_NAME,
    }
    assert [p.name for p in target.parent.iterdir()] == ["x"]

"""The folder in which an engine directory grows: what was done is found again, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export import partial_folder
from export.partial_folder import PartialFolder, only_export
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME
from fiffdepth_rt.errors import OutputError
from tests.support.paths import ROOT


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


def test_pieces_that_are_left_out_are_in_no_result_and_are_made_again(target: Path) -> None:
    first = opened(target)
    for name in ("first", "fp16/graph", "last"):
        first.piece(name, Work(first.folder, name.replace("/", "-")))
        first.leave_out("fp16/")
    assert set(first.files()) == {"graphs/first", "graphs/last"}
    assert opened(target).pieces_found == ("first", "last")
    assert not (first.folder / "graphs" / "fp16-graph").exists()
    (first.folder / MANIFEST_NAME).write_text("{}")
    first.finish()
    left = [path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()]
    assert sorted(left) == ["graphs/first", "graphs/last", MANIFEST_NAME]


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


# --- the last step ---


def exported(target: Path) -> int:
    """An export of one piece, with --overwrite -> how often the piece was made."""
    with only_export(target):
        folder = PartialFolder(target, key="k", overwrite=True, resume=True)
        work = Work(folder.folder, "a")
        folder.piece("a", work)
        (folder.folder / MANIFEST_NAME).write_text("{}")
        folder.finish()
    return work.times


KILLED = """
import os, signal, sys
from pathlib import Path
from export import partial_folder
from tests.export.test_partial_folder import exported

changes = {"os.rename", "os.remove", "os.rmdir", "ctypes.dlsym"}
number, can_exchange, finish = int(sys.argv[2]), sys.argv[3] == "True", partial_folder.PartialFolder.finish

def watched(self):
    global number
    def count(event, args):
        global number
        number -= event in changes
        if number == 0:
            number = -1
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    finish(self)
    number = -1

partial_folder.PartialFolder.finish = watched
if not can_exchange:
    partial_folder.exchange = lambda one, other: False
exported(Path(sys.argv[1]))
"""


def export_killed(target: Path, number: int, *, can_exchange: bool) -> bool:
    """The same in a process that is killed before the last step's number-th change to the disk.

    False where that step makes fewer.
    """
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(target), str(number), str(can_exchange)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, -signal.SIGKILL), run.stderr
    return run.returncode != 0


def what_is_there(target: Path) -> str:
    assert (target / MANIFEST_NAME).is_file()
    return "new" if (target / "graphs" / "a").is_file() else "old"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_in_the_last_step_leaves_the_old_or_the_new_and_the_same_command_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    """At every change to the disk that the last step makes, one after another."""
    if not can_exchange:
        monkeypatch.setattr(partial_folder, "exchange", lambda one, other: False)
    seen = []
    for number in range(1, 100):
        target = tmp_path / str(number) / "x"
        target.mkdir(parents=True)
        (target / MANIFEST_NAME).write_text("{}")
        if not export_killed(target, number, can_exchange=can_exchange):
            break
        if can_exchange:
            seen.append(what_is_there(target))
        assert exported(target) == 0, f"the piece was made again after a kill before change {number}"
        assert what_is_there(target) == "new"
        assert [p.name for p in target.parent.iterdir()] == ["x"]
        assert sorted(p.name for p in target.iterdir()) == ["graphs", MANIFEST_NAME]
    assert number > 3
    assert not can_exchange or (seen[0], seen[-1]) == ("old", "new")


def test_directories_change_places_in_one_step_here(tmp_path: Path) -> None:
    """On Linux and macOS; where it is False, the last step takes two renames."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert partial_folder.exchange(tmp_path / "one", tmp_path / "other") is (sys.platform != "win32")
    assert (tmp_path / "one" / "other").is_file() and (tmp_path / "other" / "one").is_file()
    with pytest.raises(FileNotFoundError):
        partial_folder.exchange(tmp_path / "one", tmp_path / "nowhere")


def test_a_result_that_is_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / MANIFEST_NAME).write_text("{}")
    (tmp_path / "x").symlink_to(real)
    folder = PartialFolder(tmp_path / "x", key="k", overwrite=True, resume=True)
    folder.piece("first", Work(folder.folder, "first"))
    (folder.folder / MANIFEST_NAME).write_text("{}")
    folder.finish()
    assert (tmp_path / "x" / "graphs" / "first").is_file() and not (tmp_path / "x").is_symlink()
    assert [p.name for p in real.iterdir()] == [MANIFEST_NAME]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["real", "x"]


def test_two_exports_to_one_place_at_once_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "engines" / "x"
    with only_export(target):
        refused = pytest.raises(OutputError, match=r"Another export to .*x is at work\. Wait for its end")
        with refused, only_export(target):
            pass
        with only_export(target.with_name("y")):
            pass
    assert list(tmp_path.iterdir()) == []  # nor a folder that was made for the lock
    with only_export(target):
        pass


def test_the_lock_of_a_killed_export_is_none(tmp_path: Path) -> None:
    target = tmp_path / "x"
    words = (
        "import os, signal, sys; from pathlib import Path; from export.partial_folder import only_export\n"
    )
    words += "with only_export(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", words, str(target)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / ".x.lock").exists()
    with only_export(target):
        pass
    assert list(tmp_path.iterdir()) == []

"""Promises about files that are whole or not there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from fiffdepth_rt.atomic import beside, remove_leftovers, replacing
from fiffdepth_rt.errors import OutputError

WRITES_AND_WAITS = """
import sys
from pathlib import Path
from fiffdepth_rt.atomic import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_every_name_that_is_legal_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")  # 255 bytes, where a directory entry ends
    with replacing(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES_AND_WAITS]
    writers = [
        subprocess.Popen([*command, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("killed.png", "living.png")
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
    (tmp_path / ".0123abcd.tmp.mine").write_text("somebody else's")
    killed, living = writers
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    living.communicate(b"")
    assert {path.name for path in tmp_path.iterdir()} == {"living.png", ".0123abcd.tmp.mine"}
    assert (tmp_path / "living.png").read_bytes() == b"half"
    remove_leftovers(tmp_path / "nowhere")


def test_what_another_file_refuses_is_said_of_that_file(tmp_path: Path) -> None:
    """An OutputError is an OSError: it was told again as if it were of the outer file."""
    with (
        pytest.raises(OutputError) as caught,
        replacing(tmp_path / "outer"),
        replacing(tmp_path / "no folder" / "inner"),
    ):
        pass
    assert str(caught.value).count("Cannot write") == 1
    assert "inner" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 246, "n" * 247, "ä" * 127 + "n", "n" * 255])
def test_what_is_kept_beside_a_result_has_a_legal_name_of_its_own(tmp_path: Path, name: str) -> None:
    place = beside(tmp_path / name, "partial", hidden=True)
    place.mkdir()
    assert place.parent == tmp_path and place.name.startswith(".") and place.suffix == ".partial"
    assert place == beside(tmp_path / name, "partial", hidden=True)
    assert place != beside(tmp_path / f"m{name[1:]}", "partial", hidden=True)
    assert (place.name == f".{name}.partial") == (len(name.encode()) <= 246)


def test_a_name_that_is_too_long_itself_is_not_made_shorter(tmp_path: Path) -> None:
    """What is computed for it could never take its name."""
    assert beside(tmp_path / ("n" * 256), "partial", hidden=True).name == f".{'n' * 256}.partial"


def test_folders_do_not_count_in_a_name() -> None:
    long = PurePosixPath("n" * 200, "m" * 200)
    assert str(beside(long, "npz")) == f"{long}.npz"
    assert len(beside(PurePosixPath("n/" + "m" * 253), "npz").name) < 40

"""Promises about `fiffdepth infer`, on the toy engine."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.program import main, program
from tests.support.paths import ROOT


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, toy_dir: Path) -> Path:
    """The current folder of the test: kitchen.jpg (portrait), hall.png, and the engine directory toy."""
    Image.fromarray(photo).save(tmp_path / "kitchen.jpg", quality=95)
    Image.fromarray(255 - photo[:, ::-1]).save(tmp_path / "hall.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer(*arguments: str) -> Result:
    """What `fiffdepth infer` does with these arguments on the toy engine."""
    return CliRunner().invoke(program, ["infer", "--engine", "toy", *arguments])


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_a_photo_becomes_a_depth_picture_and_a_color_picture_beside_it(
    work: Path, depth: fiffdepth_rt.Depth
) -> None:
    result = infer("kitchen.jpg")
    assert (result.exit_code, result.stderr) == (0, "")
    assert files_in(work) == {"kitchen.jpg", "hall.png", "kitchen_depth.png", "kitchen_color.png"}
    expected = depth.infer(work / "kitchen.jpg")
    levels = cv2.imread(str(work / "kitchen_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(levels, np.asarray(expected, np.float64) * 65535, rtol=0, atol=0.51)
    with Image.open(work / "kitchen_depth.png") as picture:
        assert picture.text["Space"] == "depth" and picture.text["Model"] == "toy"
    colors = np.asarray(Image.open(work / "kitchen_color.png"))
    np.testing.assert_array_equal(colors, expected.colors())


def test_it_says_where_the_pictures_are_and_how_long_inference_took(work: Path) -> None:
    one = infer("kitchen.jpg", "-o", "out").stdout
    assert "kitchen.jpg -> kitchen_depth.png, kitchen_color.png in out\n" in one
    assert "Values are depth: 0 is the nearest; relative, not metres.\n" in one
    assert re.search(r"Inference took \d+\.\d\d s per photo \(toy, onnxruntime on cpu, 256 px\)\.\n", one)
    assert "2 photos -> 4 files in both\n" in infer("kitchen.jpg", "hall.png", "-o", "both").stdout


def test_npy_holds_what_the_library_gives(work: Path, depth: fiffdepth_rt.Depth) -> None:
    assert infer("hall.png", "--format", "npy", "--size", "128").exit_code == 0
    assert files_in(work) == {"kitchen.jpg", "hall.png", "hall_depth.npy", "hall_depth.npy.json"}
    expected = depth.infer(work / "hall.png", size=128)
    np.testing.assert_array_equal(np.load(work / "hall_depth.npy"), expected)
    assert json.loads((work / "hall_depth.npy.json").read_text()) == {
        "Space": "depth",
        "Convention": "affine-invariant depth: 0 = nearest, 1 = farthest; not metres",
        "Model": "toy",
    }


def test_size_may_be_a_grid(work: Path, depth: fiffdepth_rt.Depth) -> None:
    assert infer("hall.png", "--format", "npy", "--size", "192x128").exit_code == 0
    expected = depth.infer(work / "hall.png", size=(192, 128))
    np.testing.assert_array_equal(np.load(work / "hall_depth.npy"), expected)


def test_many_photos_of_different_sizes_give_what_each_gives_alone(
    work: Path, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    sizes = [(height, 40 + 7 * height % 90) for height in range(30, 110, 10)]
    for height, width in sizes:
        Image.fromarray(photo[:height, :width]).save(work / f"p{height:03d}.png")
    assert infer("p*.png", "--format", "npy", "-o", "out").exit_code == 0
    for height, width in sizes:
        values = np.load(work / "out" / f"p{height:03d}_depth.npy")
        assert values.shape == (height, width)
        np.testing.assert_array_equal(values, depth.infer(photo[:height, :width]))


def test_a_turned_phone_photo_gives_an_upright_depth_map(work: Path, photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be shown standing
    Image.fromarray(np.rot90(photo).copy()).save(work / "phone.png", exif=exif)
    Image.fromarray(photo).save(work / "upright.png")
    assert infer("phone.png", "upright.png", "--format", "npy").exit_code == 0
    turned, upright = np.load("phone_depth.npy"), np.load("upright_depth.npy")
    assert turned.shape == photo.shape[:2]
    np.testing.assert_array_equal(turned, upright)


def test_a_grey_photo_in_16_bits_equals_the_same_in_color(work: Path, photo: np.ndarray) -> None:
    grey = photo[:, :, 0]
    cv2.imwrite("deep.png", grey.astype(np.uint16) * 257)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save("color.png")
    assert infer("deep.png", "color.png", "--format", "npy").exit_code == 0
    np.testing.assert_array_equal(np.load("deep_depth.npy"), np.load("color_depth.npy"))


def test_a_folder_twice_takes_no_results_for_photos(work: Path) -> None:
    assert infer(".").exit_code == 0
    before = files_in(work)
    assert before == {
        f"{stem}{end}" for stem in ("kitchen", "hall") for end in ("_depth.png", "_color.png")
    } | {
        "kitchen.jpg",
        "hall.png",
    }
    assert infer(".", "--overwrite").exit_code == 0
    assert files_in(work) == before


def test_a_quoted_pattern_is_expanded(work: Path) -> None:
    assert infer("*.jpg", "-o", "out").exit_code == 0
    assert files_in(work / "out") == {"kitchen_depth.png", "kitchen_color.png"}


@pytest.mark.parametrize("name", ["my kitchen", "küche 厨房", "hall [1]", "*", os.fsdecode(b"caf\xe9")])
def test_every_file_name_works(work: Path, name: str) -> None:
    (work / "kitchen.jpg").rename(work / f"{name}.jpg")
    result = infer(f"{name}.jpg", "-o", "out")
    assert result.exit_code == 0, result.output
    assert files_in(work / "out") == {f"{name}_depth.png", f"{name}_color.png"}


def test_bad_photos_are_skipped_and_counted_and_the_others_done(work: Path) -> None:
    (work / "notes.jpg").write_text("not a photo")
    (work / "cut.jpg").write_bytes((work / "kitchen.jpg").read_bytes()[:900])
    result = infer("notes.jpg", "nowhere.jpg", "kitchen.jpg", "cut.jpg", "hall.png", "-o", "out")
    assert result.exit_code == 1
    assert files_in(work / "out") == {
        f"{stem}{end}" for stem in ("kitchen", "hall") for end in ("_depth.png", "_color.png")
    }
    *reports, count = result.stderr.splitlines()
    assert [line.split()[:2] for line in reports] == [
        ["Skipped:", "nowhere.jpg"],
        ["Skipped:", "notes.jpg"],
        ["Skipped:", "cut.jpg:"],
    ]
    assert count == "3 of 5 skipped, for the reasons above."
    assert "2 photos -> 4 files" in result.stdout


def test_results_that_are_there_are_kept_unless_overwrite_is_said(work: Path) -> None:
    assert infer("kitchen.jpg").exit_code == 0
    (work / "kitchen_depth.png").write_bytes(b"precious")
    result = infer("kitchen.jpg", "hall.png")
    assert result.exit_code == 1
    assert "kitchen_depth.png exists already: pass --overwrite" in result.stderr
    assert (work / "kitchen_depth.png").read_bytes() == b"precious"
    assert (work / "hall_depth.png").exists()
    assert infer("kitchen.jpg", "--overwrite").exit_code == 0
    assert (work / "kitchen_depth.png").read_bytes() != b"precious"


def test_of_a_photo_with_some_of_its_results_the_missing_ones_are_made(
    work: Path, depth: fiffdepth_rt.Depth
) -> None:
    """As a kill between two results leaves it, with a temporary file besides."""
    (work / "kitchen_depth.png").write_bytes(b"precious")
    (work / ".0a1b2c3d.tmp").write_bytes(b"half")
    result = infer("kitchen.jpg")
    assert result.exit_code == 0
    assert result.stderr == "kitchen_depth.png was there already and is kept; --overwrite replaces it.\n"
    assert "kitchen.jpg -> kitchen_color.png in ." in result.stdout
    assert (work / "kitchen_depth.png").read_bytes() == b"precious"
    colors = np.asarray(Image.open(work / "kitchen_color.png"))
    np.testing.assert_array_equal(colors, depth.infer(work / "kitchen.jpg").colors())
    assert not (work / ".0a1b2c3d.tmp").exists()


def test_photos_that_differ_in_their_ending_are_both_done(work: Path, photo: np.ndarray) -> None:
    Image.fromarray(255 - photo).save(work / "kitchen.png")
    for _ in range(2):
        assert infer("kitchen.png", "kitchen.jpg", "--format", "color", "--overwrite").exit_code == 0
        assert {"kitchen_color.png", "kitchen_png_color.png"} <= files_in(work)
    assert infer("kitchen.png", "--format", "color").exit_code == 1  # done already, under the same name


def test_a_photo_without_its_end_is_done_and_counted_and_refused_by_strict(work: Path) -> None:
    (work / "cut.jpg").write_bytes((work / "kitchen.jpg").read_bytes()[:-2])
    result = infer("cut.jpg", "kitchen.jpg", "-o", "out")
    assert result.exit_code == 0
    assert result.stderr == "cut.jpg: It lacks its end marker, so it was cut off; no row is missing.\n"
    assert "Without an end marker, and read as far as they go: 1.\n" in result.stdout
    assert (work / "out" / "cut_depth.png").exists()
    refused = infer("cut.jpg", "--strict", "-o", "strict")
    assert refused.exit_code == 1 and "Skipped: cut.jpg: It lacks its end marker" in refused.stderr
    assert not (work / "strict" / "cut_depth.png").exists()


def test_what_many_photos_have_in_common_is_said_once_and_counted(work: Path) -> None:
    for index in range(3):
        values = np.linspace(0, 100 + index, 1024, dtype=np.float32).reshape(32, 32)
        Image.fromarray(values).save(work / f"t{index}.tif")
    result = infer("t*.tif", "-o", "out")
    assert result.stderr == "t0.tif: Its values go from 0 to 100, which became black and white.\n"
    assert "Of values without a range of their own, stretched to black and white: 3.\n" in result.stdout


@pytest.mark.parametrize("argument", ["-", "/dev/stdin", "/dev/fd/0"])
def test_a_photo_comes_through_a_pipe(work: Path, depth: fiffdepth_rt.Depth, argument: str) -> None:
    command = [sys.executable, "-m", "fiffdepth_rt", "infer", argument, "--engine", "toy", "--format", "npy"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        command, input=(work / "kitchen.jpg").read_bytes(), capture_output=True, env=environment, check=True
    )
    assert answer.stdout.startswith(f"{argument} -> stdin_depth.npy in .\n".encode())
    np.testing.assert_array_equal(np.load("stdin_depth.npy"), depth.infer(work / "kitchen.jpg"))


def test_a_terminal_obeys_no_name(work: Path) -> None:
    """ESC ] 52 writes the clipboard; the last one turns the direction of writing round."""
    for name in ("\x1b]52;c;aGk=\x07.jpg", "\x9b2J.jpg", "\u202egpj.exe.jpg"):
        (work / name).write_bytes((work / "kitchen.jpg").read_bytes())
        (work / f"bad{name}").write_text("no photo")
        for arguments in ((name,), (name,), (f"bad{name}",), ("nowhere" + name,), (name, "--size", name)):
            output = infer(*arguments).output
            assert ascii(name[0])[1:-1] in output
            assert not set(output) & set("\x1b\x07\x9b\u202e")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_standard_output_is_said_and_the_files_are_there(work: Path) -> None:
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "fiffdepth_rt", "infer", "kitchen.jpg", "--engine", "toy"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert answer.returncode == 1
    assert answer.stderr == (
        "Error: Standard output cannot be written (No space left on device). The files that were written are "
        "whole; only what would have been said about them is lost.\n"
    )
    assert (work / "kitchen_color.png").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_full_standard_output_has_no_room_for_help_either(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["fiffdepth", option])
        with pytest.raises(SystemExit, match=r"Error: Standard output cannot be written .No space left"):
            main()


def test_a_name_does_not_pretend_to_be_a_line_of_its_own(work: Path) -> None:
    (work / "x\nError: run evil.jpg").write_text("no photo")
    (line, _) = infer("x\nError: run evil.jpg").stderr.splitlines()
    assert line.startswith("Skipped: x\\nError: run evil.jpg is not a photo")


@pytest.mark.parametrize(
    "arguments",
    [
        ("infer", ""), ("infer", "kitchen.jpg", "-o", ""), ("infer", "kitchen.jpg", "--engine", ""),
        ("video", "", "-o", "x"), ("video", "kitchen.jpg", "-o", ""),
        ("video", "kitchen.jpg", "-o", "x", "--engine", ""),
        ("info", ""), ("build", ""), ("verify", ""), ("bench", ""),
    ],
)  # fmt: skip
def test_an_unset_variable_is_an_error_wherever_a_path_stands(work: Path, arguments: tuple[str, ...]) -> None:
    before = sorted(work.rglob("*"))
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code in (1, 2)
    assert "''" in result.stderr or "Missing option" in result.stderr
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("kitchen.jpg", "toy/../kitchen.jpg", "toy/kitchen.jpg", "-o", "o"), "would both become o/kitchen_"),
        (("kitchen.jpg", "-o", "out.png"), "-o names a folder"),
        (("kitchen.jpg", "-o", "kitchen.jpg/out"), "cannot be made .*: name another one after -o"),
        (("kitchen.jpg", "--size", "4096"), "takes whole numbers from 16 to 1024 px"),
        (("kitchen.jpg", "--size", "large"), "'large' is no size: say px along the longer side"),
        (("kitchen.jpg", "--size", "100x100"), "100x100 .*64"),
        (("kitchen.jpg", "--backend", "abacus"), "backend='abacus' is not known"),
        (("kitchen.jpg", "--precision", "fp64"), "precision='fp64' is not here"),
        (("kitchen.jpg", "--precision", "bf16", "--backend", "onnxruntime"), "onnxruntime cannot run bf16"),
        (("kitchen.jpg", "--threads", "0"), "'--threads': 0 is not in the range"),
        (("kitchen.jpg", "--device", "toaster"), "device='toaster' is not known"),
        (("kitchen.jpg", "--engine", "nowhere"), "nowhere is not an engine directory"),
        (("kitchen.jpg", "--format", "jpg"), "'jpg' is no format"),
        (("kitchen.jpg", "--format", ""), "'' is no format"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence_before_any_work(
    work: Path, photo: np.ndarray, arguments: tuple[str, ...], complaint: str
) -> None:
    Image.fromarray(photo).save(work / "toy" / "kitchen.jpg")
    before = sorted(work.rglob("*"))
    result = infer(*arguments)
    assert result.exit_code in (1, 2)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and re.search(complaint, last)
    assert "Traceback" not in result.output
    assert sorted(work.rglob("*")) == before


def test_a_damaged_engine_directory_is_refused_before_any_photo(work: Path) -> None:
    graph = work / "toy" / "graphs" / "fp32" / "unet.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    result = infer("kitchen.jpg", "-o", "out")
    assert result.exit_code == 1 and "unet.onnx is not the file that was exported" in result.stderr
    assert not (work / "out").exists()


def test_only_photos_that_cannot_be_used_start_no_engine(work: Path) -> None:
    (work / "toy" / "manifest.json").unlink()
    result = infer("nowhere.jpg")
    assert result.exit_code == 1
    assert result.stderr.endswith("1 of 1 skipped, for the reasons above.\n")


def test_the_traceback_comes_with_v_v_and_only_then(work: Path) -> None:
    (work / "notes.jpg").write_text("not a photo")
    for arguments in (("notes.jpg",), ("kitchen.jpg", "--engine", "nowhere")):
        assert "Traceback" not in infer(*arguments, "-v").output
        assert "Traceback (most recent call last)" in infer(*arguments, "-v", "-v").stderr


def test_logging_is_left_as_it_was(work: Path) -> None:
    logger = logging.getLogger("fiffdepth_rt")
    before = (logger.level, list(logger.handlers))
    infer("kitchen.jpg", "-v", "-v")
    assert (logger.level, list(logger.handlers)) == before


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`fiffdepth` in an interpreter of its own."""
    command = [sys.executable, "-m", "fiffdepth_rt", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, text=True, capture_output=True, env=environment, **options)


def test_a_disk_that_is_full_leaves_no_half_picture(work: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise.repeat(8, axis=0).repeat(8, axis=1)).save(work / "noise.png")

    def small_disk() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    answer = run("infer", "noise.png", "--engine", "toy", "-o", "out", preexec_fn=small_disk)
    assert answer.returncode == 1
    assert re.search(r"Skipped: .*noise_depth\.png.*File too large", answer.stderr)
    assert "Traceback" not in answer.stderr
    assert list((work / "out").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_whole_files_only(work: Path, photo: np.ndarray) -> None:
    (work / "photos").mkdir()
    large = np.tile(photo, (5, 5, 1))  # a tenth of a second each: the signal comes long before the last one
    Image.fromarray(large).save(work / "photos" / "000.png", compress_level=0)
    for index in range(1, 400):
        (work / "photos" / f"{index:03d}.png").hardlink_to(work / "photos" / "000.png")
    words = ["infer", "photos", "-o", "out", "--engine", "toy", "--size", "1024"]
    running = subprocess.Popen(
        [sys.executable, "-m", "fiffdepth_rt", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in `… &`
    )
    while running.poll() is None and not list((work / "out").glob("*_color.png")):
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1 and said.strip() == "Aborted!"
    results = sorted(path.name for path in (work / "out").iterdir())
    assert 0 < len(results) < 800
    for name in results:
        assert re.fullmatch(r"\d{3}_(depth|color)\.png", name)
        with Image.open(work / "out" / name) as picture:
            picture.load()
            assert picture.size == large.shape[1::-1]


def test_a_read_only_place_is_reported(work: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here, the one place where not even root may make files")
    result = infer("kitchen.jpg", "-o", "/proc/self")
    assert result.exit_code == 1
    assert re.search(r"Skipped: .*/proc/self/kitchen_depth\.png", result.stderr)


def test_a_terminal_sees_a_progress_bar_and_a_pipe_does_not(work: Path) -> None:
    (work / "notes.jpg").write_text("not a photo")
    arguments = ("infer", "kitchen.jpg", "notes.jpg", "hall.png", "--engine", "toy", "--overwrite")
    assert "Photos" not in run(*arguments).stderr

    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # rows, columns
    command = [sys.executable, "-m", "fiffdepth_rt", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(main, 4096):
                shown += part
        except OSError:  # how Linux says that nobody writes any more
            pass
        os.close(main)
        assert process.stdout is not None and b"Photos" not in process.stdout.read()
    assert b"Photos" in shown and b"0/3" in shown and b"1/3" in shown
    assert b"\rSkipped: notes.jpg is not a photo" in shown  # where the bar was


def test_a_western_terminal_shows_other_letters_by_their_codes(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    (work / "hall.png").rename(work / "厨.png")
    answer = run("infer", "厨.png", "--engine", "toy")
    assert answer.returncode == 0 and answer.stdout.startswith(r"\u53a8.png -> \u53a8_depth.png")


def test_a_name_that_is_too_long_is_no_bug(tmp_path: Path) -> None:
    group = type(program)("group")

    @group.command()
    def write() -> None:
        (tmp_path / ("n" * 300)).write_bytes(b"")

    result = CliRunner().invoke(group, ["write"])
    assert result.exit_code == 1
    assert "is too long: a file's name may have 255 bytes" in result.stderr


def test_a_bug_too_is_said_in_one_sentence() -> None:
    group = type(program)("group")

    @group.command()
    def divide() -> None:
        1 / 0  # noqa: B018

    result = CliRunner().invoke(group, ["divide"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: This is a bug of fiffdepth (ZeroDivisionError: division by zero): "
        "run the command again with -v -v, and report what it prints.\n"
    )


def test_without_arguments_it_says_what_is_missing() -> None:
    result = CliRunner().invoke(program, ["infer"])
    assert result.exit_code == 2 and "Missing argument 'IMAGE...'" in result.stderr


@pytest.mark.skipif(
    not (Path(fiffdepth_rt.__file__).parent / "nano" / "manifest.json").exists(),
    reason="the bundled model is not there yet",
)
def test_a_photo_needs_nothing_but_its_name(work: Path) -> None:
    result = CliRunner().invoke(program, ["infer", "kitchen.jpg"])
    assert (result.exit_code, result.stderr) == (0, "")
    levels = cv2.imread("kitchen_depth.png", cv2.IMREAD_UNCHANGED)
    assert levels.shape == (320, 200) and levels.max() > levels.min()

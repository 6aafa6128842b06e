"""Promises of docs/troubleshooting.md: each message that it quotes is the program's; some are provoked."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fiffdepth_rt.program import program
from tests.support.documents import PACKAGES
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def quoted() -> list[str]:
    """The messages: the first cell of every row."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.M)


def pattern(message: str) -> re.Pattern[str]:
    """What differs, `…`, may be anything; spaces at the ends do not count."""
    return re.compile(".*?".join(map(re.escape, message.strip("… ").split("…"))), re.S)


def _flat(node: ast.AST) -> str:
    """A text of the source; what is put in stands as `…`."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_flat(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _flat(node.left) + _flat(node.right)
    return "…"


@functools.cache
def said_by_the_source() -> tuple[str, ...]:
    """Every text in the packages, but for those of a word or two."""
    texts = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)
                    and len(text := _flat(node)) > 15
                ):
                    texts.append(text)
    return tuple(texts)


def test_there_are_entries_and_each_message_stands_once() -> None:
    assert len(quoted()) >= 50
    assert len(set(quoted())) == len(quoted())


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_one_that_the_program_has(message: str) -> None:
    wanted = pattern(message)
    assert any(wanted.search(text) for text in said_by_the_source()), message


def test_a_message_that_no_program_has_is_found() -> None:
    assert not any(pattern("The moon is …, not here").search(text) for text in said_by_the_source())


PROVOKED: dict[str, Sequence[str]] = {
    "does not exist: name a photo": ["infer", "nowhere.jpg"],
    "is not a photo in a format": ["infer", "text.jpg"],
    "is damaged or cut off (": ["infer", "cut.png"],
    "px is too small": ["infer", "small.png"],
    "exists already: pass --overwrite": ["infer", "photo.png", "--format", "png16"],
    "Cannot write": ["infer", "photo.png", "--format", "png16", "-o", "locked"],
    "is not an engine directory": ["infer", "photo.png", "-o", "out", "--engine", "."],
    "bytes where": ["infer", "photo.png", "-o", "out", "--engine", "toy"],
    "precision=": ["infer", "photo.png", "-o", "out", "--precision", "fp8"],
    "holds metres, and a depth map": ["infer", "photo.png", "--format", "mm"],
    "holds points, and where a pixel": ["infer", "photo.png", "--format", "ply", "--calibration", "c.json"],
    "do not tell a scale": ["infer", "photo.png", "-o", "out", "--format", "mm", "--sparse", "even.npy"],
    "has an unknown ending": ["video", ".", "-o", "out.avi"],
    "cannot be read as a video": ["video", "text.jpg", "-o", "out.mkv"],
    "is a list of other files": ["video", "list.m3u8", "-o", "out.mkv"],
    "Camera": ["video", "99", "-o", "out.mkv"],
}


@pytest.mark.parametrize("part", PROVOKED)
def test_a_quoted_message_is_what_is_printed(
    part: str, toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (message,) = (message for message in quoted() if part in message)
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")
    Image.fromarray(noise[:8]).save("small.png")
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:2000])
    Path("photo_depth.png").write_bytes(b"precious")
    Path("text.jpg").write_text("a letter")
    Path("list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nphoto.png\n")
    np.save("even.npy", [[3.0, 4.0, 2.0], [30.0, 20.0, 2.0]])
    Path("locked").mkdir()
    Path("locked/photo_depth.png").mkdir()
    words = list(PROVOKED[part])
    if "--engine" not in words:
        words += ["--engine", str(toy_dir)]
    elif part == "bytes where":
        with (toy_dir / "graphs/fp32/unet.onnx").open("ab") as graph:
            graph.write(b"!")
    if part == "Cannot write":
        words += ["--overwrite"]
    result = CliRunner().invoke(program, words)
    assert result.exit_code in (1, 2)
    assert pattern(message).search(" ".join(result.stderr.split())), result.stderr

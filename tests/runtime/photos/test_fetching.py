"""Promises about photos that come from an address: fetched when it was typed, within bounds."""

from __future__ import annotations

import http.server
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fiffdepth_rt
from fiffdepth_rt.errors import ImageError, OutputError
from fiffdepth_rt.photos import fetching
from fiffdepth_rt.photos.loading import load_photo_bytes
from fiffdepth_rt.program import program
from fiffdepth_rt.program.inputs import find_photos
from tests.support.paths import ROOT

COFFEE = ROOT / "examples" / "coffee.jpg"


BROKEN = {
    "/ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "/headers": b"HTTP/1.0 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    "/line": b"HTTP/1.0 200 OK\r\nx: " + b"y" * 2**17 + b"\r\n\r\n",
    "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "/short": b"HTTP/1.0 200 OK\r\nContent-Length: 9000\r\n\r\n" + bytes(4000),
}
"""Answers that are none."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/coffee.jpg")
        elif self.path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", COFFEE.as_uri())
        elif self.path == "/to-ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1:1/coffee.jpg")
        elif self.path in BROKEN:
            self.wfile.write(BROKEN[self.path])
            return
        elif self.path.startswith("/coffee.jpg"):
            self.send_response(200)
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            while True:
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
                time.sleep(0.01)
        else:
            self.send_response(404)
        self.end_headers()
        if self.path.startswith("/coffee.jpg"):
            self.wfile.write(COFFEE.read_bytes())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as opened:
        opened.daemon_threads = True
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_port}"
        opened.shutdown()


def test_a_photo_at_an_address_is_done_as_if_it_lay_here(
    server: str, toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: fiffdepth_rt.Depth
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["infer", f"{server}/coffee.jpg?w=9", "--engine", str(toy_dir), "--format", "npy"]
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{server}/coffee.jpg?w=9 -> coffee_depth.npy in .")
    np.testing.assert_array_equal(np.load("coffee_depth.npy"), depth.infer(COFFEE))


def fetched(address: str) -> bytes:
    (photo,) = find_photos([address]).photos
    with photo.file() as path:
        return path.read_bytes()


def test_a_redirection_is_followed_and_never_to_a_file_here(server: str) -> None:
    assert fetched(f"{server}/moved") == COFFEE.read_bytes()
    with pytest.raises(ImageError, match=r"to-a-file answers 302 .*: check the address"):
        fetched(f"{server}/to-a-file")
    with pytest.raises(ImageError, match=r"to-ftp cannot be fetched \(unknown url type: ftp\)"):
        fetched(f"{server}/to-ftp")


@pytest.mark.parametrize("path", sorted(BROKEN))
def test_an_answer_that_is_none_is_said(server: str, path: str) -> None:
    short = "breaks off, 5000 bytes before its end"
    why = short if path == "/short" else r"cannot be fetched \(\S.*\): check"
    with pytest.raises(ImageError, match=f"^{server}{path} {why}"):
        fetched(f"{server}{path}")


def test_what_an_address_lacks_is_said(server: str) -> None:
    with pytest.raises(ImageError, match=r"/nowhere\.jpg answers 404 Not Found: check the address"):
        fetched(f"{server}/nowhere.jpg")
    with pytest.raises(ImageError, match=r"cannot be fetched \(.*\): check the address and the network"):
        fetched("http://127.0.0.1:1/a.jpg")


def test_size_and_time_are_bounded(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_BYTES", 1_000)
    with pytest.raises(ImageError, match=r"^\S+/coffee\.jpg gives more than 0 MB: save it as a file"):
        fetched(f"{server}/coffee.jpg")
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.1)
    with pytest.raises(ImageError, match=r"^\S+/drip is too slow \(0\.1 s\)"):
        fetched(f"{server}/drip")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_room_for_a_copy_is_no_fault_of_the_address(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"^There is no room for temporary files \(.*\): make some, or set TMPDIR"
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OutputError, match=said):
        fetching._fetch(f"{server}/coffee.jpg", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=said):
        fetched(f"{server}/coffee.jpg")
    with pytest.raises(OutputError, match=said):
        load_photo_bytes(COFFEE.read_bytes(), name="coffee")


def test_the_copy_goes_when_it_was_read(server: str) -> None:
    (photo,) = find_photos([f"{server}/coffee.jpg"]).photos
    with photo.file() as path:
        assert path.exists()
    assert not path.parent.exists()

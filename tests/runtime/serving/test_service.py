"""Promises of the service to its clients, over real connections and with a toy engine."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import io
import json
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.files import to_16_bits
from fiffdepth_rt.program import program
from fiffdepth_rt.serving.limits import Limits
from fiffdepth_rt.serving.listening import listening
from tests.runtime.serving.client import ask, connect, form, get, hear, post

if any(
    importlib.util.find_spec(name) is None for name in ("uvicorn", "prometheus_client", "python_multipart")
):
    pytest.skip("wants the service: pip install 'fiffdepth-rt[serve]'", allow_module_level=True)

from fiffdepth_rt.serving.forms import Form
from fiffdepth_rt.serving.replies import Reply
from tests.runtime.serving.running import Running, run_service

SMALL = Limits(upload_bytes=2 * 2**20, pixels=1_000_000, json_pixels=70_000, waiting=2, connections=40)
HASTY = Limits(patience_s=0.6, slower_bytes_per_s=10**9, held_bytes=4 * 2**20, waiting=0, connections=8)


@pytest.fixture(scope="module")
def running(depth: fiffdepth_rt.Depth) -> Iterator[Running]:
    with run_service(depth, SMALL) as found:
        yield found


@pytest.fixture(scope="module")
def hasty(depth: fiffdepth_rt.Depth) -> Iterator[Running]:
    """A service that waits for nobody."""
    with run_service(depth, HASTY) as found:
        yield found


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A header that claims so many pixels, and nothing of them."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT", b"IEND")
    whole = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def said(body: bytes) -> tuple[str, str]:
    """The kind and the sentence of a refusal."""
    told = json.loads(body)
    assert sorted(told) == ["error", "kind"]
    return told["kind"], told["error"]


# --- what it answers ---


@pytest.mark.parametrize(
    "wanted", [{}, {"path": "/depth?format=png"}, {"accept": "image/*;q=0.9, */*;q=0.1"}]
)
def test_a_photo_becomes_a_png_of_16_bits(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth, wanted: dict[str, str]
) -> None:
    heard = ask(running.address, post(encoded(photo), **wanted))
    d = depth.infer(photo)
    assert heard.status == 200 and heard.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(heard.body))
    assert np.array_equal(np.asarray(picture), to_16_bits(d.values))
    assert heard.headers["depth-space"] == picture.text["Space"] == "depth"  # type: ignore[attr-defined]
    convention = "affine-invariant depth: 0 = nearest, 65535 = farthest; not metres"
    assert heard.headers["depth-convention"] == convention == picture.text["Convention"]  # type: ignore[attr-defined]
    assert heard.headers["depth-model"] == "toy"
    assert heard.headers["depth-model-sha256"] == d.model_sha256


@pytest.mark.parametrize(
    "wanted", [{"path": "/depth?format=npy"}, {"accept": "text/html, application/x-npy"}]
)
def test_npy_holds_the_values_bit_for_bit(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth, wanted: dict[str, str]
) -> None:
    heard = ask(running.address, post(encoded(photo), **wanted))
    assert heard.status == 200 and heard.headers["content-type"] == "application/x-npy"
    assert np.array_equal(np.load(io.BytesIO(heard.body)), depth.infer(photo).values)
    assert (
        heard.headers["depth-convention"] == "affine-invariant depth: 0 = nearest, 1 = farthest; not metres"
    )


@pytest.mark.parametrize("wanted", [{"path": "/depth?format=json"}, {"accept": "application/json"}])
def test_json_is_kserves_response_and_gives_the_same_values(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth, wanted: dict[str, str]
) -> None:
    heard = ask(running.address, post(encoded(photo), **wanted))
    assert heard.status == 200 and heard.headers["content-type"] == "application/json"
    told = json.loads(heard.body)
    (output,) = told["outputs"]
    assert told["model_name"] == "toy"
    assert (output["name"], output["datatype"], output["shape"]) == ("depth", "FP32", [320, 200])
    values = np.array(output["data"], np.float32).reshape(output["shape"])
    assert np.array_equal(values, depth.infer(photo).values)
    assert output["parameters"] == {
        "space": "depth",
        "convention": "affine-invariant depth: 0 = nearest, 1 = farthest; not metres",
    }


@pytest.mark.parametrize(
    "name", ["room.png", "../../../etc/cron.d/x", "C:\\x\\con", "a\u202e\x00gnp.tga", ""]
)
def test_a_form_with_a_file_of_any_name_is_the_same_photo(
    running: Running, photo: np.ndarray, name: str
) -> None:
    image = encoded(photo)
    parts = (('name="size"', b"9999"), (f'name="photo"; filename="{name}"', image), ('name="x"', b""))
    heard = ask(running.address, post(form(*parts), content_type="multipart/form-data; boundary=b0undary"))
    assert heard.status == 200
    assert heard.body == ask(running.address, post(image)).body


def test_a_place_that_cannot_be_is_said_with_what_would_help() -> None:
    with (
        listening("127.0.0.1", 0) as taken,
        pytest.raises(OutputError, match="name another port after --port"),
    ):
        taken.listen()
        listening("127.0.0.1", taken.getsockname()[1])
    for host in ("192.0.2.1", "a..b"):  # an address of nobody (RFC 5737), no name of a host
        with pytest.raises(OutputError, match="name an address of this machine after --host"):
            listening(host, 0)


def test_a_body_in_chunks_is_the_same_photo(running: Running, photo: np.ndarray) -> None:
    image = encoded(photo)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (image[:1], image[1:99], image[99:]))
    head = b"POST /depth HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    assert ask(running.address, head + chunks + b"0\r\n\r\n").body == ask(running.address, post(image)).body


def test_what_was_done_to_a_photo_is_said(running: Running, photo: np.ndarray) -> None:
    cut = encoded(photo, "JPEG", quality=95)[:-30]
    heard = ask(running.address, post(cut))
    assert heard.status == 200
    assert heard.headers["depth-notes"].startswith("It lacks its end marker, so it was cut off")


def test_health_readiness_and_metrics_are_told(running: Running, photo: np.ndarray) -> None:
    for path in ("/health", "/ready"):
        assert ask(running.address, get(path)).body == b"ok\n"
        assert ask(running.address, get(path, method="HEAD")).status == 200
    before = counted(running)
    ask(running.address, post(encoded(photo)))
    ask(running.address, post(b"no photo"))
    after = counted(running)
    for row in ('fiffdepth_requests_total{kind="ok",status="200"}', "fiffdepth_request_seconds_count"):
        assert after[row] == before.get(row, 0) + 1
    refused = 'fiffdepth_requests_total{kind="no_photo",status="415"}'
    assert after[refused] == before.get(refused, 0) + 1
    assert after["fiffdepth_photos"] == after["fiffdepth_held_bytes"] == 0


def counted(running: Running) -> dict[str, float]:
    lines = ask(running.address, get("/metrics")).body.decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


# --- what it refuses ---


def part(what: str, content: bytes = b"x") -> bytes:
    return form((what, content))


FORM = {"content_type": "multipart/form-data; boundary=b0undary"}
REFUSED = {
    "no photo": (post(b"hello"), 415, "no_photo", "The photo is not a photo in a format that is read here"),
    "an empty body": (post(b""), 400, "empty", "The request holds no photo"),
    "deep JSON": (post(b"[" * 100_000, content_type="application/json"), 415, "no_photo", "The photo is not"),
    "too many bytes": (post(b"x" * (2 * 2**20 + 1)), 413, "too_many_bytes", "At most 2 MiB are taken"),
    "a length beyond all": (post(b"", content_length="9" * 20), 413, "too_many_bytes", "At most 2 MiB"),
    "too many pixels": (
        post(huge_png(1001, 1000)),
        413,
        "too_many_pixels",
        "The photo: A photo of 1000×1001 px is too large: at most 1 million pixels.",
    ),
    "a bomb": (post(huge_png(2**31 - 1, 2**31 - 1)), 413, "too_many_pixels", "The photo"),
    "a side too small": (post(huge_png(8, 4000)), 422, "unusable_photo", "The photo: A photo of 4000×8 px"),
    "a damaged photo": (post(huge_png(64, 64)), 422, "unusable_photo", "The photo is damaged or cut off"),
    "JSON of a large photo": (
        post(huge_png(300, 300), accept="application/json"),
        413,
        "too_many_pixels",
        "The photo: A photo of 300×300 px is too large: at most 0.07 million pixels.",
    ),
    "a compressed body": (post(b"x", content_encoding="gzip"), 415, "compressed", "Send the photo as it is"),
    "an unknown format": (
        post(b"x", path="/depth?format=exr"),
        400,
        "no_such_parameter",
        "The one parameter",
    ),
    "an unknown parameter": (post(b"x", path="/depth?size=9"), 400, "no_such_parameter", "The one parameter"),
    "no format that is made": (post(b"x", accept="text/html"), 406, "no_such_format", "Accept image/png"),
    "a form without a file": (post(part('name="a"'), **FORM), 400, "damaged_form", "The form cannot be used"),
    "a form with two files": (
        post(form(*[('name="a"; filename="a"', b"x")] * 2), **FORM),
        400,
        "damaged_form",
        "The form cannot be used (it has more than one file)",
    ),
    "a form of very many parts": (
        post(form(*[('name="a"', b"x")] * 17), **FORM),
        400,
        "damaged_form",
        "The form cannot be used (it has more than 16 parts)",
    ),
    "a form that is cut off": (
        post(part('name="a"; filename="a"')[:-9], **FORM),
        400,
        "damaged_form",
        "The form cannot be used (it is cut off)",
    ),
    "a form without a boundary": (
        post(b"x", content_type="multipart/form-data"),
        400,
        "damaged_form",
        "The form cannot be used (it is not multipart/form-data with a boundary)",
    ),
    "another address": (get("/"), 404, "no_such_address", "Send a photo to /depth"),
    "another method": (get("/depth"), 405, "another_method", "/depth takes POST."),
    "another method of a health check": (
        post(b"", path="/health"),
        405,
        "another_method",
        "/health takes GET.",
    ),
    "another site's name": (post(b"x", host="evil.example"), 421, "another_name", "The service is asked for"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "damaged_request", "This is no HTTP/1.1 request."),
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_with_its_reason(
    running: Running, request_: tuple[bytes, int, str, str]
) -> None:
    words, status, kind, sentence = request_
    heard = ask(running.address, words)
    assert heard.status == status, heard
    assert said(heard.body)[0] == kind and said(heard.body)[1].startswith(sentence), heard.body
    assert ask(running.address, get("/ready")).status == 200


def test_an_upload_is_refused_by_its_length_before_it_is_sent(running: Running) -> None:
    with connect(running.address) as connection:
        connection.sendall(post(b"", content_length=str(10**12)))
        assert hear(connection).status == 413


def test_a_chunked_upload_ends_where_it_becomes_too_long(running: Running) -> None:
    head = b"POST /depth HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    assert ask(running.address, head + chunk * 33).status == 413
    assert counted(running)["fiffdepth_held_bytes"] == 0


def test_a_failure_of_the_service_is_told_without_its_traceback(depth: fiffdepth_rt.Depth) -> None:
    class Broken:
        async def answer(self, photo: bytes, form: Form) -> Reply:
            raise RuntimeError("/home/somebody/secret.py failed")

    with run_service(depth, SMALL, workers=Broken()) as broken:
        heard = ask(broken.address, post(b"x"))
    assert heard.status == 500
    assert said(heard.body) == ("broken", "The service failed on this request; its log says why.")


def test_an_engine_directory_that_cannot_be_opened_is_said_before_ray_starts(toy_dir: Path) -> None:
    (toy_dir / "manifest.json").write_text("{}")
    result = CliRunner().invoke(program, ["serve", "--engine", str(toy_dir), "--port", "0"])
    assert result.exit_code == 1 and "manifest.json" in result.stderr and "Traceback" not in result.stderr


def test_a_library_that_is_missing_is_said_with_its_extra(
    toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(program, ["serve", "--engine", str(toy_dir), "--port", "0"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The service wants uvicorn, not installed here: pip install 'fiffdepth-rt[serve]'\n"
    )


# --- how much it takes at once ---


class Held:
    """Workers that answer when they are told to."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.cancelled = 0

    async def answer(self, photo: bytes, form: Form) -> Reply:
        try:
            while not self.let_go.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Reply(status=200, kind="ok", body=photo, headers=())


def wait_until(true: object) -> None:
    assert callable(true)
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_photos_wait_up_to_a_limit_and_then_a_503_says_when_to_come_back(depth: fiffdepth_rt.Depth) -> None:
    workers = Held()
    with run_service(depth, SMALL, workers=workers) as service, ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(ask, service.address, post(b"%d" % n)) for n in range(3)
        ]  # one works, two wait
        wait_until(lambda: counted(service)["fiffdepth_photos"] == 3)
        heard = ask(service.address, post(b"x"))
        assert heard.status == 503 and said(heard.body)[0] == "busy"
        assert heard.headers["retry-after"] == "3"
        workers.let_go.set()
        assert [done.result().body for done in waiting] == [b"0", b"1", b"2"]


def test_a_client_that_leaves_frees_its_place(depth: fiffdepth_rt.Depth) -> None:
    workers = Held()
    with run_service(depth, SMALL, workers=workers) as service:
        for _ in range(5):
            with connect(service.address) as connection:
                connection.sendall(post(b"x"))
                wait_until(lambda: counted(service)["fiffdepth_photos"] == 1)
            wait_until(lambda: counted(service)["fiffdepth_photos"] == 0)
        assert workers.cancelled == 5
        assert counted(service)["fiffdepth_lost_clients_total"] == 5
        workers.let_go.set()
        assert ask(service.address, post(b"x")).body == b"x"


def test_a_client_that_sends_slowly_is_told_and_holds_nobody(hasty: Running, photo: np.ndarray) -> None:
    with connect(hasty.address) as slow:
        slow.sendall(post(b"x", content_length="1000"))
        assert ask(hasty.address, post(encoded(photo))).status == 200  # meanwhile
        heard = hear(slow)
    assert heard.status == 408 and said(heard.body)[0] == "too_slow"
    assert counted(hasty)["fiffdepth_held_bytes"] == 0


def test_a_client_that_begins_no_request_is_left(hasty: Running) -> None:
    for begun in (b"", b"POST /depth HTTP/1.1\r\nhost: local"):
        with connect(hasty.address) as silent:
            silent.sendall(begun)
            assert hear(silent).status is None  # closed


def test_a_client_that_does_not_read_holds_no_reply(depth: fiffdepth_rt.Depth) -> None:
    class Large:
        async def answer(self, photo: bytes, form: Form) -> Reply:
            return Reply(status=200, kind="ok", body=bytes(48 * 2**20), headers=())  # no kernel holds so much

    limits = dataclasses.replace(HASTY, held_bytes=64 * 2**20)
    with run_service(depth, limits, workers=Large()) as service, connect(service.address) as deaf:
        deaf.sendall(post(b"x"))
        wait_until(lambda: counted(service)["fiffdepth_lost_clients_total"] == 1)
        assert counted(service)["fiffdepth_held_bytes"] == 0


def test_no_more_bytes_are_held_than_the_limit_says(hasty: Running) -> None:
    with connect(hasty.address) as first, connect(hasty.address) as second:
        for connection in (first, second):
            connection.sendall(post(b"x" * (3 * 2**20), content_length=str(4 * 2**20)))
        statuses = [hear(second).status, hear(first).status]
    assert sorted(map(str, statuses)) == ["408", "503"]
    assert counted(hasty)["fiffdepth_held_bytes"] == 0


def test_more_connections_than_the_limit_are_told(hasty: Running) -> None:
    idle = [connect(hasty.address) for _ in range(8)]
    try:
        heard = ask(hasty.address, get("/health"))
        assert heard.status == 503 and heard.headers["retry-after"] == "5"
    finally:
        for connection in idle:
            connection.close()


def test_the_end_answers_what_was_accepted(depth: fiffdepth_rt.Depth) -> None:
    workers = Held()
    with ThreadPoolExecutor(3) as pool:
        with run_service(depth, SMALL, workers=workers) as service:
            sending = connect(service.address)
            waiting = [pool.submit(ask, service.address, post(b"%d" % n)) for n in range(2)]
            sending.sendall(post(b"la", content_length="4"))
            wait_until(lambda: counted(service)["fiffdepth_photos"] == 2)

            def go_on() -> None:
                wait_until(lambda: not service.service.ready)  # the end has begun
                sending.sendall(b"te")
                workers.let_go.set()

            ended = pool.submit(go_on)
            late = pool.submit(hear, sending)
        ended.result()
        assert [done.result().body for done in waiting] == [b"0", b"1"]
        assert late.result().body == b"late"
        sending.close()
    with pytest.raises(ConnectionError):
        connect(service.address)

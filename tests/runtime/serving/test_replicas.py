"""`fiffdepth serve` as people start it, on a Ray cluster of this machine. Soaks, since Ray takes a while."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.files import to_16_bits
from tests.runtime.serving.client import Heard, ask, connect, get, hear, post
from tests.support.paths import ROOT

psutil = pytest.importorskip("psutil")
if any(
    importlib.util.find_spec(name) is None
    for name in ("ray", "grpc_reflection", "uvicorn", "python_multipart")
):
    pytest.skip("wants the service: pip install 'fiffdepth-rt[serve]'", allow_module_level=True)

pytestmark = pytest.mark.soak


class Running(NamedTuple):
    address: str
    process: subprocess.Popen[str]
    temporary: Path


@contextlib.contextmanager
def run_serve(
    engine_dir: Path, temporary: Path, *options: str, asked_to_end: bool = False
) -> Iterator[Running]:
    """From start to SIGTERM, after which nothing is left. asked_to_end: the block sends SIGTERM itself."""
    temporary.mkdir()
    words = [sys.executable, "-m", "fiffdepth_rt", "serve", "--engine", str(engine_dir), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    with (
        temporary.with_suffix(".log").open("w") as log,
        subprocess.Popen(
            [*words, "--threads", "1", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"Photos go to (http://127\.0\.0\.1:\d+)/depth\. Ctrl-C ends it\.\n", line)
            assert found is not None, (line, temporary.with_suffix(".log").read_text())
            yield Running(found[1], process, temporary)
            if not asked_to_end:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=180) == 0
        finally:
            process.kill()
    said = temporary.with_suffix(".log").read_text().splitlines()
    assert [line for line in said if "Set ray log level from environment variable" not in line] == []
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def running(_toy: Path) -> Iterator[Running]:
    with short_folder() as folder, run_serve(_toy, folder, "--replicas", "2", "--waiting", "4") as found:
        yield found


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Sockets lie in it, whose names have a limited length: pytest's own folders are too long."""
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        yield Path(folder) / "t"


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def is_right(heard: Heard, photo: np.ndarray, depth: fiffdepth_rt.Depth) -> bool:
    picture = np.asarray(Image.open(io.BytesIO(heard.body)))
    return heard.status == 200 and np.array_equal(picture, to_16_bits(depth.infer(photo).values))


def resident_mib(running: Running) -> float:
    """Of the service and all that it started."""
    processes = [psutil.Process(running.process.pid)]
    processes += processes[0].children(recursive=True)
    return sum(one.memory_info().rss for one in processes) / 2**20


def test_replicas_give_the_bits_of_a_direct_call(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    photos = [np.roll(photo, n * 10, axis=0) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        heard = list(pool.map(lambda one: ask(running.address, post(encoded(one))), photos))
    assert all(is_right(one, pixels, depth) for one, pixels in zip(heard, photos, strict=True))
    assert ask(running.address, get("/ready")).status == 200
    assert ask(running.address, post(b"no photo")).status == 415


def test_a_flood_is_answered_rightly_or_told_to_come_back_and_memory_stays(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four times as many clients as there is room for, who ask again at once; and slow ones beside them."""
    room = 2 * 2 + 4  # two replicas of two photos each, and four that wait
    large = np.repeat(np.repeat(photo, 4, axis=0), 4, axis=1)
    request, right = post(encoded(large)), to_16_bits(depth.infer(large).values)
    slow = [connect(running.address) for _ in range(30)]
    for connection in slow:
        connection.sendall(post(b"x" * 1000, content_length="2000"))
    until, resident = time.monotonic() + 60, []

    def client(_: int) -> Counter[str]:
        statuses = Counter[str]()
        while time.monotonic() < until:
            heard = ask(running.address, request, timeout=120)
            statuses[str(heard.status)] += 1
            if heard.status == 200:
                assert np.array_equal(np.asarray(Image.open(io.BytesIO(heard.body))), right)
            else:
                assert heard.status == 503 and int(heard.headers["retry-after"]) >= 1, heard
        return statuses

    with ThreadPoolExecutor(4 * room) as pool:
        clients = [pool.submit(client, n) for n in range(4 * room)]
        while time.monotonic() < until:
            resident.append(resident_mib(running))
            time.sleep(2)
        statuses = sum((done.result() for done in clients), Counter[str]())
    assert {hear(connection).status for connection in slow} == {408}
    for connection in slow:
        connection.close()
    with capsys.disabled():
        print(dict(statuses), [f"{one:.0f} MiB" for one in resident])
    assert statuses["200"] > 0 and statuses["503"] > 0
    half = len(resident) // 2
    assert max(resident[half:]) < max(resident[:half]) + 200
    assert is_right(ask(running.address, post(encoded(photo))), photo, depth)


def test_a_photo_whose_replica_dies_is_answered_by_another(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    parent = psutil.Process(running.process.pid)
    replicas = [one for one in parent.children(recursive=True) if "ServeReplica" in " ".join(one.cmdline())]
    assert len(replicas) == 2
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, running.address, post(encoded(photo))) for _ in range(4)]
        replicas[0].kill()
        assert all(is_right(done.result(), photo, depth) for done in waiting)


def test_sigterm_ends_it_when_what_was_accepted_is_answered(
    _toy: Path, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    with (
        short_folder() as folder,
        run_serve(_toy, folder, asked_to_end=True) as running,
        ThreadPoolExecutor(4) as pool,
    ):
        sending = connect(running.address)
        request = post(encoded(photo))
        sending.sendall(request[:-100])
        waiting = [pool.submit(ask, running.address, post(encoded(photo))) for _ in range(4)]
        metrics = ""
        while not re.search(r"^fiffdepth_photos [1-9]", metrics, re.MULTILINE) and not all(
            done.done() for done in waiting
        ):
            metrics = ask(running.address, get("/metrics")).body.decode()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == "Ends when what was accepted is answered.\n"
        sending.sendall(request[-100:])
        assert is_right(hear(sending), photo, depth)
        sending.close()
        assert all(is_right(done.result(), photo, depth) for done in waiting)

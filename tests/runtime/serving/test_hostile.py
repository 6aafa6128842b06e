"""Hostile uploads end in a right depth map or in a refusal; nothing is left, and the next one is served."""

from __future__ import annotations

import importlib.util
import io
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.files import to_16_bits
from fiffdepth_rt.photos.loading import load_photo_bytes
from tests.fuzz.uploads import Upload, Uploads, problem_with
from tests.runtime.serving.client import ask, post
from tests.support.paths import ROOT

if any(
    importlib.util.find_spec(name) is None for name in ("uvicorn", "prometheus_client", "python_multipart")
):
    pytest.skip("wants the service: pip install 'fiffdepth-rt[serve]'", allow_module_level=True)

from fiffdepth_rt.serving.limits import Limits
from tests.runtime.serving.running import Running, run_service

LIMITS = Limits(upload_bytes=2**20, pixels=1_000_000, json_pixels=10_000, patience_s=0.5, waiting=64)


@pytest.fixture
def running(depth: fiffdepth_rt.Depth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A service whose temporary files are in `tmp_path / "tmp"`."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with run_service(depth, LIMITS) as found:
        yield found


def send(
    running: Running, uploads: Uploads, depth: fiffdepth_rt.Depth, seeds: range, folder: Path
) -> Counter[str]:
    """Each seed's upload, several at once -> how often each status was; finds nothing wrong."""
    secrets = (str(ROOT), str(folder), tempfile.gettempdir())

    def one(seed: int) -> tuple[str, str | None]:
        upload = uploads.make(random.Random(f"uploads {seed}"))
        heard = ask(running.address, upload.raw)
        wrong = problem_with(heard.status, heard.body, secrets)
        if wrong is None and upload.photo is not None:
            wrong = difference(heard.status, heard.body, upload, depth)
        return str(heard.status), None if wrong is None else f"seed {seed}: {wrong}"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(one, seeds))
    assert not [wrong for _, wrong in outcomes if wrong]
    assert list((folder / "tmp").iterdir()) == []
    return Counter(status for status, _ in outcomes)


def difference(status: int | None, body: bytes, upload: Upload, depth: fiffdepth_rt.Depth) -> str | None:
    """A sound request's reply -> what is wrong with it, by a direct call; None where it is right."""
    assert upload.photo is not None
    if status in (408, 503):  # a busy machine
        return None
    try:
        pixels = load_photo_bytes(upload.photo, name="The photo", max_pixels=LIMITS.pixels).pixels
    except ImageError:
        return None if status in (400, 413, 415, 422) else f"status {status} for no photo"
    if status != 200:
        return f"status {status} for a photo of {pixels.shape}: {body[:200]!r}"
    right = to_16_bits(depth.infer(pixels).values)
    return None if np.array_equal(np.asarray(Image.open(io.BytesIO(body))), right) else "wrong values"


def is_right(running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth) -> bool:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    heard = ask(running.address, post(buffer.getvalue()))
    picture = Image.open(io.BytesIO(heard.body))
    return np.array_equal(np.asarray(picture), to_16_bits(depth.infer(photo).values))


def test_three_hundred_uploads_of_a_stranger_are_answered_or_refused(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    (tmp_path / "fuzz").mkdir()
    statuses = send(running, Uploads(tmp_path / "fuzz"), depth, range(300), tmp_path)
    assert min(statuses[status] for status in ("200", "400", "413", "415", "422")) > 0, statuses
    assert is_right(running, photo, depth)


@pytest.mark.soak
def test_ten_thousand_uploads_of_a_stranger_leave_the_service_as_it_was(
    running: Running, photo: np.ndarray, depth: fiffdepth_rt.Depth, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    psutil = pytest.importorskip("psutil")
    (tmp_path / "fuzz").mkdir()
    uploads, resident, statuses = Uploads(tmp_path / "fuzz"), [], Counter[str]()
    for first in range(1000, 11_000, 500):
        statuses += send(running, uploads, depth, range(first, first + 500), tmp_path)
        assert is_right(running, photo, depth)
        resident.append(psutil.Process().memory_info().rss / 2**20)
    with capsys.disabled():
        print(dict(statuses), [f"{one:.0f} MiB" for one in resident])
    assert max(resident[10:]) < max(resident[:10]) + 50  # the first half fills caches

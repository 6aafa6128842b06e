"""The page in a real Chromium: what a person does, and what the browser asks for and complains about."""

from __future__ import annotations

import importlib.util
import io
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from tests.runtime.demo.running import Running, run_demo

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [
    what
    for what, there in (
        ("Gradio (pip install 'fiffdepth-rt[demo]')", importlib.util.find_spec("gradio")),
        ("Playwright (pip install playwright)", importlib.util.find_spec("playwright")),
        ("Chromium (the distribution's package)", CHROMIUM),
    )
    if not there
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"wants {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def running(_toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with run_demo(_toy, tmp_path_factory.mktemp("tmp"), ended_by=signal.SIGHUP) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-angle=swiftshader"]
        )
        yield opened
        opened.close()


class Watched:
    """A page of its own in the browser. complaints: of the console. asked: other hosts that it asked."""

    def __init__(self, browser: Any, running: Running, width: int, height: int = 900) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._seen(request.url, running.address))
        self.page.goto(running.address)
        self.page.wait_for_selector("#given input[type=file]", state="attached")

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _seen(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.asked.append(url)

    def give(self, file: Path) -> None:
        self.page.set_input_files("#given input[type=file]", str(file))

    def download(self, name: str) -> bytes:
        with self.page.expect_download() as waiting:
            self.page.locator("#made a", has=self.page.get_by_text("B")).nth(
                ["depth.png", "depth.npy", "metres.npy"].index(name)
            ).click()
        return Path(waiting.value.path()).read_bytes()


@pytest.fixture
def photo_file(photo: np.ndarray, tmp_path: Path) -> Path:
    Image.fromarray(photo).save(tmp_path / "room.png")
    return tmp_path / "room.png"


def test_a_person_gives_a_photo_clicks_and_takes_the_file(
    browser: Any, running: Running, photo_file: Path, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    watched = Watched(browser, running, 1280)
    watched.give(photo_file)
    watched.page.wait_for_selector("#depth img")
    shown = watched.page.locator("#depth img")
    box = shown.bounding_box()
    shown.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
    watched.page.wait_for_function("document.querySelector('#said').innerText.startsWith('At x')")
    said = watched.page.locator("#said").inner_text()
    x, y = (int(word.strip(",:")) for word in said.split()[2:5:2])
    d = depth.infer(photo)
    assert f"{d.values[y, x]:.3f}" in said
    assert abs(x - photo.shape[1] / 4) < 6 and abs(y - photo.shape[0] / 4) < 6
    assert np.array_equal(np.load(io.BytesIO(watched.download("depth.npy"))), d.values)
    assert (watched.complaints, watched.asked) == ([], [])


@pytest.mark.soak
def test_a_text_is_refused_in_words_and_the_page_goes_on(
    browser: Any, running: Running, photo_file: Path, tmp_path: Path
) -> None:
    watched = Watched(browser, running, 1280)
    (tmp_path / "notes.png").write_text("not a photo")
    watched.give(tmp_path / "notes.png")
    watched.page.get_by_text("is not a photo in a format that is read here").wait_for()
    watched.page.locator("#given").get_by_label("Remove Image").click()
    watched.page.locator("#given").get_by_text("Click to Upload").wait_for()
    watched.give(photo_file)
    watched.page.wait_for_selector("#depth img")
    assert (watched.complaints, watched.asked) == ([], [])


@pytest.mark.soak
def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: Any, running: Running, photo_file: Path
) -> None:
    watched = Watched(browser, running, 390)
    watched.give(photo_file)
    watched.page.wait_for_selector("#depth img")
    wide = watched.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    for part in ("#given", "#slider", "#depth", "#said", "#made"):
        box = watched.page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert (watched.complaints, watched.asked) == ([], [])


@pytest.mark.soak
def test_a_picture_of_the_camera_becomes_a_depth_map(running: Running, depth: fiffdepth_rt.Depth) -> None:
    """Chromium draws what its own camera sees: a turning wedge on green."""
    from playwright.sync_api import sync_playwright

    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-angle=swiftshader", *fake]
        )
        watched = Watched(opened, running, 1280)
        page = watched.page
        page.locator("#given").get_by_label("Capture from camera").click()
        page.get_by_text("Click to Access Webcam").click()
        page.locator("#given").get_by_label("capture photo").click()
        page.wait_for_selector("#depth img")
        taken, shown = (
            Image.open(io.BytesIO(page.request.get(page.locator(which).first.get_attribute("src")).body()))
            for which in ("#slider img", "#depth img")
        )
        pixels = np.asarray(taken.convert("RGB"))
        assert (pixels[..., 1].astype(int) - pixels[..., 0]).min() >= 0 and np.ptp(pixels[..., 1]) > 50
        assert np.array_equal(np.asarray(shown.convert("RGB")), depth.infer(pixels).colors())
        assert (watched.complaints, watched.asked) == ([], [])
        opened.close()

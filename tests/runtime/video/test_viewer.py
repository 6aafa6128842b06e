"""Promises about Rerun's viewer, started for real, without a window: where it listens, what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.telemetry import rerun_viewer_environment
from fiffdepth_rt.video import convert, open_source, open_view, view, viewer
from tests.runtime.video.clips import lossless, walk
from tests.support.namespace import watch, why_not

pytest.importorskip("rerun", reason="wants Rerun: pip install 'fiffdepth-rt[view]'")

# What Chromium draws with where there is no graphics card.
SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
draws = pytest.mark.skipif(
    not (sys.platform == "linux" and SWIFTSHADER.exists()),
    reason="wants Vulkan: the system's Chromium has it",
)


def drawing(folder: Path) -> dict[str, str]:
    """Variables by which a program finds that Vulkan."""
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "libvulkan.so.1").symlink_to(SWIFTSHADER.with_name("libvulkan.so.1"))
    return {"LD_LIBRARY_PATH": str(folder), "VK_ICD_FILENAMES": str(SWIFTSHADER)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[viewer.Viewer]:
    """A viewer at a port of its own, in a home of its own."""
    for name, value in {**drawing(tmp_path / "vulkan"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    monkeypatch.setattr(view, "PORT", port)
    started = viewer.start_viewer(port=port, options=["--headless", "--window-size", "800x600"])
    assert started is not None
    yield started
    os.killpg(started.process.pid, signal.SIGTERM)
    started.process.wait()
    started.close()


def listening(port: int) -> set[str]:
    """Addresses, as Linux writes them, at which anything listens to this port."""
    lines = [
        *Path("/proc/net/tcp").read_text().splitlines(),
        *Path("/proc/net/tcp6").read_text().splitlines(),
    ]
    entries = [line.split()[1:4] for line in lines]
    return {at.partition(":")[0] for at, _, state in entries if state == "0A" and at.endswith(f":{port:04X}")}


@draws
@pytest.mark.soak
def test_frames_arrive_at_a_viewer_that_listens_to_this_machine_alone(
    running: viewer.Viewer, toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerun.experimental import ViewerClient

    assert listening(view.PORT) == {"0100007F"}  # 127.0.0.1
    assert viewer.start_viewer(port=view.PORT) is None  # it is there already
    monkeypatch.setenv("DISPLAY", ":0")
    clip = lossless(tmp_path / "walk.mkv", walk(5))
    with fiffdepth_rt.Depth(toy_dir, threads=1) as depth, open_source(str(clip)) as source:
        shown = open_view("rerun", source=source)
        assert list(convert(depth, source, shown)) == [1, 2, 3, 4, 5]
    client = ViewerClient.connect(f"rerun+http://127.0.0.1:{view.PORT}/proxy")
    give_up = time.monotonic() + 60
    while True:  # drawing takes its time without a graphics card
        client.save_screenshot(str(tmp_path / "seen.png"))
        pixels = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB"), int)
        left, right = pixels[100:-100, :380], pixels[100:-100, 420:]
        grey = np.abs(left - left.mean(axis=2, keepdims=True)).max()
        colourful = np.ptp(right, axis=2).max()
        if left.max() > 220 and grey < 40 and colourful > 100:
            break  # the photo, with its bright bar, beside colours of depth
        assert time.monotonic() < give_up, (left.max(), grey, colourful)
        time.sleep(0.5)


@draws
@pytest.mark.soak
def test_a_viewer_that_has_ended_is_told_of(
    running: viewer.Viewer, toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    with (
        fiffdepth_rt.Depth(toy_dir, threads=1) as depth,
        open_source(str(lossless(tmp_path / "walk.mkv", walk(60)))) as source,
        pytest.raises(OutputError, match="The viewer takes no more frames"),
    ):
        for done in convert(depth, source, open_view("rerun", source=source)):
            if done == 1:
                os.killpg(running.process.pid, signal.SIGKILL)
                while viewer.listens(view.PORT):
                    time.sleep(0.01)


def test_a_viewer_that_does_not_start_says_why() -> None:
    with pytest.raises(OutputError, match=r"Rerun's viewer does not start \(.*--no-such-option"):
        viewer.start_viewer(port=free_port(), options=["--no-such-option"])


@draws
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.soak
@pytest.mark.parametrize("reports", [False, True])
def test_the_viewer_reports_nothing_unless_the_user_has_said_so(
    reports: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watched where no name can be looked up, and where it reaches itself."""
    program, home = str(Path(sysconfig.get_path("scripts"), "rerun")), tmp_path / "home"
    home.mkdir()
    asked = {**os.environ, "HOME": str(home)}
    subprocess.run([program, "analytics", "enable"], env=asked, check=True, capture_output=True)
    kept = home / ".config" / "rerun" / "analytics.json"  # a first session reports nothing by itself
    assert json.loads(kept.read_text())["analytics_enabled"] is True
    monkeypatch.delenv("CI", raising=False)
    if reports:
        monkeypatch.setenv("FORCE_RERUN_ANALYTICS", "1")
    ours = {name: value for name, value in rerun_viewer_environment().items() if name not in ("PATH", "HOME")}
    viewer_alone = f"exec {program} --headless --bind 127.0.0.1 --port {free_port()}"
    words = ["timeout", "20", "sh", "-c", f"ip link set lo up; {viewer_alone}"]
    seen = watch(words, home, {**ours, **drawing(tmp_path / "vulkan"), "RERUN_APP_ONLY": "true"})
    assert seen.status == 124, seen.output  # it ran until its time was over
    assert (seen.sought > 0, any("analytics" in left for left in seen.left)) == (reports, reports)

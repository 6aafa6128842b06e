"""Promises of a quiet guest: no library reports about its users, unless the user has switched that on.

Watched in a network namespace without a way out: a look-up of a name is an attempt too.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.namespace import Seen, watch, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

# The first release of ONNX Runtime that reports on Linux.
ort_reports = pytest.mark.skipif(
    tuple(map(int, importlib.metadata.version("onnxruntime").split(".")[:2])) < (1, 29),
    reason="this ONNX Runtime reports nothing on Linux",
)
DEVICE_ID = ".cache/Microsoft/DeveloperTools/.onnxruntime/deviceid"
CLIENT_ID = "intel/openvino_ga_cid"

COMMANDS = """
import sys
from fiffdepth_rt.program import program

directory, backend = sys.argv[1:]
engine = ["--engine", directory, "--backend", backend]
for words in (
    ["doctor"],
    ["info", directory],
    ["infer", "frames/a.png", "-o", "out", *engine],
    ["video", "frames", "-o", "out", *engine],
    ["batch", "frames", "out/batch", *engine],
    ["bag", "walk", "out/walk", *engine],
    ["calibrate", directory, "frames/a.png", "--at", "9,9", "--metres", "2", "-o", "out/x.json", *engine[2:]],
    ["triton", directory, "out/models", *engine[2:]],
    ["verify", directory, "--backend", backend],
    ["bench", directory, "--backend", backend, "--runs", "1"],
    ["build", "nowhere"],
):
    try:
        program(words, prog_name="fiffdepth")
    except SystemExit as ended:
        print("status of", words[0], ended.code)
"""


def python(code: str, *words: str, home: Path, **variables: str) -> Seen:
    return watch([sys.executable, "-c", code, *words], home, variables)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_command_seeks_the_network_or_writes_who_the_user_is(
    backend: str, toy_dir: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "frames").mkdir(parents=True)
    cv2.imwrite(str(home / "frames" / "a.png"), np.full((64, 64, 3), 99, np.uint8))
    pytest.importorskip("rosbags", reason="wants the extra [robotics]")
    from tests.support.ros.bags import image_entry, write_bag

    write_bag(home / "walk", [image_entry(0)])
    seen = python(COMMANDS, str(toy_dir), backend, home=home)
    ended = [line.split()[2:] for line in seen.output.splitlines() if line.startswith("status of")]
    worked = ["doctor", "info", "infer", "video", "batch", "bag", "calibrate", "triton", "verify", "bench"]
    assert ended == [[word, "0"] for word in worked] + [["build", "1"]], seen.output
    assert (seen.sought, {name for name in seen.left if not name.startswith("out/")}) == (0, set())


@pytest.mark.soak
def test_the_page_of_the_demo_seeks_no_network_and_leaves_nothing(toy_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="wants Gradio: pip install 'fiffdepth-rt[demo]'")
    code = """
import sys, time
from pathlib import Path
import fiffdepth_rt
from fiffdepth_rt.demo.engines import Engines
from fiffdepth_rt.demo.server import serving
engines = Engines([Path(sys.argv[1])], fiffdepth_rt.Depth)
with serving(engines, host="127.0.0.1", port=0) as address:
    time.sleep(3)
print(address[:17])
"""
    seen = python(code, str(toy_dir), home=tmp_path / "home")
    assert (seen.status, seen.output, seen.sought, seen.left) == (0, "http://127.0.0.1:\n", 0, set())


@ort_reports
def test_what_is_watched_for_would_be_seen_and_the_user_can_switch_it_on(tmp_path: Path) -> None:
    code = "from fiffdepth_rt.telemetry import import_onnxruntime as start; start()"
    assert python(code, home=tmp_path / "off").left == set()
    assert DEVICE_ID in python(code, home=tmp_path / "on", ORT_DISABLE_TELEMETRY="0").left


def test_openvino_reports_for_a_user_who_has_said_so(tmp_path: Path) -> None:
    code = "from fiffdepth_rt.telemetry import import_openvino as start; start(); import time; time.sleep(2)"
    home = tmp_path / "home"
    (home / "intel").mkdir(parents=True)
    (home / "intel" / "openvino_telemetry").write_text("1")  # what opt_in_out --opt_in writes
    seen = python(code, home=home)
    assert CLIENT_ID in seen.left and seen.sought > 0


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_works_for_a_user_without_a_home(backend: str, toy_dir: Path, tmp_path: Path) -> None:
    """As in a container that is started with `docker run -u 12345`."""
    code = """
import os, pwd, sys
del os.environ["HOME"]
pwd.getpwuid = {}.__getitem__  # nobody whom the system knows
import numpy, fiffdepth_rt
with fiffdepth_rt.Depth(sys.argv[1], backend=sys.argv[2]) as depth:
    print(depth.infer(numpy.zeros((64, 64, 3), numpy.uint8)).photo_hw)
"""
    seen = python(code, str(toy_dir), backend, home=tmp_path / "home")
    assert (seen.status, seen.output) == (0, "(64, 64)\n")


def test_the_environment_of_a_program_stays_its_own(tmp_path: Path) -> None:
    code = """
import os, sys
before = dict(os.environ)
from fiffdepth_rt.telemetry import import_onnxruntime, import_openvino
import_onnxruntime(), import_openvino()
print(os.environ == before)
"""
    assert python(code, home=tmp_path / "home").output == "True\n"


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_depth_that_stays_open_says_nothing(backend: str, toy_dir: Path, tmp_path: Path) -> None:
    """40 s: the uploader of ONNX Runtime 1.32 first seeks the network after half a minute."""
    code = """
import sys, time, numpy, fiffdepth_rt
with fiffdepth_rt.Depth(sys.argv[1], backend=sys.argv[2], threads=1) as depth:
    end = time.monotonic() + 40
    while time.monotonic() < end:
        depth.infer(numpy.zeros((64, 64, 3), numpy.uint8))
        time.sleep(0.1)
"""
    seen = python(code, str(toy_dir), backend, home=tmp_path / "home")
    assert (seen.status, seen.sought, seen.left) == (0, 0, set()), seen.output

"""Promises about processes: a program ends as Python ends it, a forked child opens its own, a pickle too."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.errors import InferenceError

SCRIPT = """
import itertools, sys, threading, time
import numpy as np
import fiffdepth_rt

directory, backend, ending = sys.argv[1:]
photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
depth = fiffdepth_rt.Depth(directory, backend=backend, threads=2)
if ending == "a daemon works":
    started = threading.Semaphore(0)
    def work():
        while True:
            depth.infer(photo)
            started.release()
    threading.Thread(target=work, daemon=True).start()
    for _ in range(3):
        started.acquire()
    sys.exit(5)
stream = depth.stream(itertools.repeat(photo))  # the name holds it to the end
for item in stream:
    if item.index == 5:
        if ending == "an exception":
            raise KeyError("of the loop")
        if ending == "sys.exit":
            sys.exit(3)
        break
print("end of script")
"""
STATUS = {"break": 0, "an exception": 1, "sys.exit": 3, "a daemon works": 5}


def ended(directory: Path, backend: str, ending: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", SCRIPT, str(directory), backend, ending]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("ending", STATUS)
def test_a_program_ends_as_python_ends_it(toy_dir: Path, ending: str) -> None:
    backend = "openvino" if ending in ("break", "a daemon works") else "onnxruntime"
    done = ended(toy_dir, backend, ending)
    assert done.returncode == STATUS[ending], done.stderr
    assert ("KeyError" if ending == "an exception" else "") in done.stderr
    assert done.stdout == ("end of script\n" if ending == "break" else "")
    assert "terminate" not in done.stderr and (ending == "an exception" or done.stderr == "")


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("ending", STATUS)
def test_a_program_ends_as_python_ends_it_ten_of_ten_times(toy_dir: Path, backend: str, ending: str) -> None:
    statuses = [ended(toy_dir, backend, ending).returncode for _ in range(10)]
    assert statuses == [STATUS[ending]] * 10


FORKS = """
import gc, itertools, os, signal, sys, threading
import numpy as np
import fiffdepth_rt
from fiffdepth_rt.errors import StreamError

directory, backend, busy = sys.argv[1], sys.argv[2], len(sys.argv) > 3
photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
depth = fiffdepth_rt.Depth(directory, backend=backend, threads=2)
expected = depth.infer(photo).values
stream = depth.stream(itertools.repeat(photo))
next(stream)
fresh = depth.stream([photo] * 3)

def same(depth):
    np.testing.assert_array_equal(depth.infer(photo).values, expected)

def use():
    same(depth)
    same(depth)

def close():
    depth.close()
    stream.close()

def drop():
    global depth, stream
    del depth, stream
    gc.collect()

def open_another():
    with fiffdepth_rt.Depth(directory, backend=backend, threads=2) as another:
        same(another)

def go_on_with_a_stream():
    try:
        next(stream)
    except StreamError as error:
        assert "before this process was forked" in str(error)
    assert len(list(fresh)) == 3

def fork_again():
    child(use)
    same(depth)

def child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(240)  # a machine that is busy with other things is no hang
        work()
        sys.exit(7)  # with all that Python does at its end
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 7:
        print(work.__name__, "ended with", status)

if busy:
    threading.Thread(target=lambda: [depth.infer(photo) for _ in itertools.count()], daemon=True).start()
for work in (use, close, drop, open_another, go_on_with_a_stream, fork_again) * (2 if busy else 1):
    child(work)
same(depth)
next(stream)
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_forked_child_uses_closes_and_drops_what_its_parent_opened(toy_dir: Path, backend: str) -> None:
    words = [sys.executable, "-W", "ignore", "-c", FORKS, str(toy_dir), backend]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_fork
@pytest.mark.soak
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_child_that_is_forked_while_a_frame_is_computed_does_so_too(toy_dir: Path, backend: str) -> None:
    words = [sys.executable, "-W", "ignore", "-c", FORKS, str(toy_dir), backend, "busy"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pickled_depth_is_opened_again_as_it_was_asked_for(
    toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    with monkeypatch.context() as there:
        there.chdir(toy_dir.parent)  # a relative path means this folder, also elsewhere
        opened = fiffdepth_rt.Depth("toy", backend="openvino", precision="bf16", size=192, threads=1)
    pickled = pickle.dumps(opened)
    assert len(pickled) < 2000  # no weights travel
    with opened, pickle.loads(pickled) as again:
        assert again.describe() == opened.describe()
        np.testing.assert_array_equal(again.infer(photo), opened.infer(photo))
    opened.close()
    with pytest.raises(InferenceError, match="closed"):
        opened.infer(photo)

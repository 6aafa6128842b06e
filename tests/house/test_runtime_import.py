"""Promises of a quiet guest: what importing the runtime does, and what it does not need.

In fresh interpreters, since this one has imported everything.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fiffdepth_rt

PACKAGE = Path(fiffdepth_rt.__file__).parent
REPOSITORY = PACKAGE.parent


def python(code: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_runtime_works_where_torch_cannot_be_imported(toy_dir: Path) -> None:
    code = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(name + " is refused")

REFUSED = {"torch", "diffusers", "safetensors", "onnx", "onnxscript", "training", "export", "benchmarks"}
sys.meta_path.insert(0, Refuse())
import numpy as np
import fiffdepth_rt

with fiffdepth_rt.Depth(sys.argv[1]) as depth:
    d = depth.infer(np.full((100, 60, 3), 200, dtype=np.uint8))
print(d.values.shape, d.colors().shape, sorted(REFUSED & sys.modules.keys()))
"""
    assert python(code, str(toy_dir)) == "(100, 60) (100, 60, 3) []\n"


def test_importing_loads_no_engine_and_no_photo_library() -> None:
    code = "import sys, fiffdepth_rt; print({'onnxruntime', 'PIL', 'click', 'torch'} & sys.modules.keys())"
    assert python(code) == "set()\n"


def test_importing_opens_no_file_outside_the_package() -> None:
    needed = python(
        "import sys, fiffdepth_rt; [getattr(fiffdepth_rt, name) for name in fiffdepth_rt.__all__];"
        "print(*(m for m in sys.modules if 'fiffdepth' not in m))"
    ).split()
    code = """
import importlib, sys
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # __main__'s and other made-up names
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import fiffdepth_rt
[getattr(fiffdepth_rt, name) for name in fiffdepth_rt.__all__]  # loaded when asked for
print(len(opened), [path for path in opened if not path.startswith(sys.argv[1])])
"""
    count, others = python(code, str(PACKAGE), *needed).split(maxsplit=1)
    assert int(count) >= 8  # the hook does see this package's own files
    assert others == "[]\n"


def test_importing_changes_no_global_state() -> None:
    code = """
import locale, logging, os, random, signal, socket, sys, tempfile, threading, warnings
import cv2, numpy

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook, list(sys.meta_path), list(sys.path_hooks)),
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers), logging.raiseExceptions),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "threads": threading.active_count(),
        "random": (random.getstate(), repr(numpy.random.get_state())),
        "numpy": (numpy.geterr(), numpy.get_printoptions()),
        "opencv": (cv2.getNumThreads(), cv2.useOptimized()),
        "timeout": socket.getdefaulttimeout(),
        "recursion": sys.getrecursionlimit(),
    }

before = state()
import fiffdepth_rt
after = state()
print([key for key in before if before[key] != after[key]])
print(logging.getLogger("fiffdepth_rt").handlers)
"""
    assert python(code) == "[]\n[<NullHandler (NOTSET)>]\n"


def test_the_public_names_are_promises() -> None:
    assert sorted(fiffdepth_rt.__all__) == [
        "Alignment",
        "Calibration",
        "Depth",
        "DepthMap",
        "Frame",
        "Intrinsics",
        "Mesh",
        "Space",
        "StreamItem",
        "__version__",
        "errors",
        "sparse_from_pixels",
        "sparse_from_points",
        "to_mesh",
        "to_points",
    ]
    for name in fiffdepth_rt.__all__:
        assert hasattr(fiffdepth_rt, name)

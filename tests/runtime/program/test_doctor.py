"""Promises about `fiffdepth doctor`. What is broken is broken for real: on the paths that it looks at."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from fiffdepth_rt import __version__
from fiffdepth_rt.engine_dir import manifest as engine_dir
from fiffdepth_rt.program import program
from fiffdepth_rt.program.doctor import Finding, examine
from tests.support import nvml_stand_in
from tests.support.nvml_stand_in import Gpu, Nvml
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def healthy_machine(toy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundled model that is intact, and no NVIDIA driver."""
    monkeypatch.setattr(engine_dir, "BUNDLED", toy_dir)
    nvml_stand_in.install(monkeypatch, None)


def finding(subject: str) -> Finding:
    (found,) = (found for found in examine().findings if found.subject == subject)
    return found


def install(folder: Path, wheel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves behind of a wheel, as far as its version goes."""
    name = wheel.replace("-", "_")
    (folder / f"{name}-1.20.1.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {wheel}\nVersion: 1.20.1\n"
    (folder / f"{name}-1.20.1.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(folder)


def test_a_healthy_machine_has_no_problems() -> None:
    diagnosis = examine()
    assert diagnosis.healthy
    assert {found.verdict for found in diagnosis.findings} <= {"ok", "note"}


def test_it_says_the_versions_of_what_is_here() -> None:
    assert finding("fiffdepth-rt").found == __version__
    assert platform.python_version() in finding("Python").found
    assert finding("numpy").found == np.__version__
    assert finding("opencv-python-headless").found == cv2.__version__
    backend = finding("backend onnxruntime")
    assert backend.verdict == "ok" and onnxruntime.__version__ in backend.found


def test_a_library_that_does_not_load_is_a_problem_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # how Python itself marks a module that cannot be imported
    opencv = finding("opencv-python-headless")
    assert opencv.verdict == "problem" and "cannot be imported" in opencv.found
    assert opencv.fix == "pip install --force-reinstall opencv-python-headless"


def test_no_engine_at_all_is_a_problem_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, engine, None)
    backend = finding("backend onnxruntime")
    assert backend.verdict == "problem" and backend.found.startswith("not usable: ")
    assert backend.fix is not None and "fiffdepth-rt[cpu]" in backend.fix
    assert not examine().healthy


def test_two_wheels_of_onnx_runtime_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wheel in ("onnxruntime", "onnxruntime-gpu"):
        install(tmp_path, wheel, monkeypatch)
    wheels = finding("ONNX Runtime wheels")
    assert wheels.verdict == "problem"
    assert "onnxruntime-gpu 1.20.1" in wheels.found and "overwrite each other" in wheels.found
    assert wheels.fix is not None
    assert wheels.fix.startswith(
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'fiffdepth-rt[cpu]'"
    )


def test_two_wheels_of_opencv_are_worth_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wheel in ("opencv-python", "opencv-python-headless"):
        install(tmp_path, wheel, monkeypatch)
    assert finding("OpenCV wheels").verdict == "note"
    assert examine().healthy


def test_a_gpu_that_the_cpu_wheel_leaves_idle_is_worth_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "onnxruntime", monkeypatch)
    nvml_stand_in.install(monkeypatch, Nvml(Gpu(name="NVIDIA L4", total=23034 * 2**20)))
    gpu, idle = (found for found in examine().findings if found.subject == "NVIDIA GPU")
    assert (gpu.verdict, gpu.found) == ("ok", "NVIDIA L4, 550.54.15, 23034 MiB")
    assert (idle.verdict, idle.fix) == (
        "note",
        "pip uninstall -y onnxruntime && pip install 'fiffdepth-rt[gpu]'",
    )


def test_a_driver_that_fails_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.install(monkeypatch, Nvml(says=nvml_stand_in.DRIVER_NOT_LOADED))
    gpu = finding("NVIDIA GPU")
    assert (gpu.verdict, gpu.found) == ("note", "the NVIDIA driver is here but fails: Driver Not Loaded")
    assert gpu.fix is not None and "install the driver again" in gpu.fix
    assert examine().healthy


def test_without_nvidia_ml_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpu = finding("NVIDIA GPU")
    assert gpu.verdict == "note" and gpu.found.startswith("nvidia-ml-py cannot be imported")
    assert gpu.fix == "pip install --force-reinstall nvidia-ml-py"


def test_no_gpu_is_all_right(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = finding("NVIDIA GPU")
    assert (gpu.verdict, gpu.found) == ("ok", "none (no NVIDIA driver); the CPU is used")
    nvml_stand_in.install(monkeypatch, Nvml())
    gpu = finding("NVIDIA GPU")
    assert (gpu.verdict, gpu.found) == ("ok", "none (driver 550.54.15 lists no GPU); the CPU is used")


def test_an_engine_directory_is_looked_at_in_place_of_the_bundled_model(
    toy_dir: Path, tmp_path: Path
) -> None:
    found = {one.subject: one for one in examine(toy_dir).findings}
    assert (
        found["engine directory"].verdict == "ok"
        and "every hash as exported" in found["engine directory"].found
    )
    assert "bundled model" not in found and not any("plans of" in subject for subject in found)
    (lost,) = (one for one in examine(tmp_path).findings if one.subject == "engine directory")
    assert lost.verdict == "problem" and "it has no manifest.json" in lost.found


def test_the_bundled_model_is_verified(toy_dir: Path) -> None:
    assert finding("bundled model").found.startswith("toy: 7 files, ")
    graph = toy_dir / "graphs" / "fp32" / "unet.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    model = finding("bundled model")
    assert model.verdict == "problem" and "unet.onnx" in model.found
    assert model.fix == "pip install --force-reinstall --no-deps fiffdepth-rt"


def test_metadata_that_is_damaged_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime_gpu-1.20.1.dist-info").mkdir()
    (tmp_path / "onnxruntime_gpu-1.20.1.dist-info" / "METADATA").write_bytes(b"\xff\xfe not metadata \x00")
    (tmp_path / "onnxruntime_qnn-1.20.1.dist-info").write_text("a file where a folder belongs")
    monkeypatch.syspath_prepend(tmp_path)
    assert finding("Python").verdict == "ok"
    assert finding("bundled model").verdict == "ok"


def test_each_problem_and_note_says_what_mends_it(
    toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy_dir / "manifest.json").write_text("{")
    for wheel in ("onnxruntime", "onnxruntime-directml"):
        install(tmp_path, wheel, monkeypatch)
    for module in ("numpy", "cv2", "PIL", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)
    findings = examine().findings
    assert sum(found.verdict == "problem" for found in findings) == 9
    assert all(found.fix for found in findings if found.verdict != "ok")


def test_the_text_shows_each_finding_and_the_exit_status_tells_of_problems(toy_dir: Path) -> None:
    result = CliRunner().invoke(program, ["doctor"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"ok       numpy: {np.__version__}\n" in result.stdout
    assert result.stdout.endswith("No problems.\n")
    (toy_dir / "golden.npz").unlink()
    result = CliRunner().invoke(program, ["doctor"])
    assert (result.exit_code, result.stderr) == (1, "")
    assert "problem  bundled model: " in result.stdout
    assert "\n         -> pip install --force-reinstall --no-deps fiffdepth-rt\n" in result.stdout


def test_json_holds_the_same(toy_dir: Path) -> None:
    (toy_dir / "golden.npz").unlink()
    result = CliRunner().invoke(program, ["doctor", "--json"])
    assert result.exit_code == 1
    diagnosis = json.loads(result.stdout)
    assert diagnosis == examine().as_json()
    assert diagnosis["healthy"] is False
    assert {"subject", "verdict", "found", "fix"} == set(diagnosis["findings"][0])


def test_it_changes_no_environment() -> None:
    before = dict(os.environ)
    examine()
    assert dict(os.environ) == before


@pytest.mark.parametrize("library", ["cv2", "numpy"])
def test_it_speaks_where_a_library_does_not_load(tmp_path: Path, library: str) -> None:
    (tmp_path / f"{library}.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    root = str(ROOT)
    answer = subprocess.run(
        [sys.executable, "-m", "fiffdepth_rt", "doctor"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
    )
    assert (answer.returncode, answer.stderr) == (1, "")
    assert "cannot be imported: libGL.so.1: cannot open shared object file" in answer.stdout


def test_every_extra_is_named_with_what_it_is_for_and_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # first: what it finds is what it leaves at the test's end
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # nothing is installed
    missing = finding("extra view")
    assert (missing.verdict, missing.found) == (
        "note",
        "not installed (for looking at a video while its depth is computed)",
    )
    assert missing.fix == "pip install 'fiffdepth-rt[view]'"
    install(tmp_path, "trimesh", monkeypatch)
    half = finding("extra geometry")
    assert (half.verdict, half.fix) == ("note", "pip install 'fiffdepth-rt[geometry]'")
    assert half.found.startswith("trimesh 1.20.1; without OpenEXR (for metres as EXR")
    install(tmp_path, "OpenEXR", monkeypatch)
    whole = finding("extra geometry")
    assert (whole.verdict, whole.fix) == ("ok", None)
    assert whole.found.startswith("trimesh 1.20.1, OpenEXR 1.20.1 (for ")

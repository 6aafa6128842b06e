"""Promises of what is said about the TensorRT of a machine: usable or not, why, and what helps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.errors import BackendUnavailableError
from fiffdepth_rt.program import program
from tests.support.paths import ROOT

NO_TENSORRT = pytest.mark.skipif(here.usable().usable, reason="TensorRT works here")


@NO_TENSORRT
def test_without_tensorrt_the_program_says_what_to_install(
    toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = CliRunner().invoke(program, ["build", str(toy_dir), "--precision", "fp32"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: TensorRT cannot be used: tensorrt ")
    assert "Run: pip install " in result.stderr and "fiffdepth-rt[tensorrt]" in result.stderr
    assert not (toy_dir / "plans").exists()


def test_usable_never_raises_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for body, words in (
        (
            "raise OSError('libnvinfer.so.10: cannot open')",
            "cannot be imported (libnvinfer.so.10: cannot open)",
        ),
        ("__version__ = '10.3.0'", "TensorRT 10.3.0 is here, but "),
        ("__version__ = '7.2.3'", "TensorRT 7.2.3 is not supported; 8.5 to 11 are"),
        ("__version__ = 'soon'", "is not understood"),
        ("", "cannot be imported (module 'tensorrt' has no attribute '__version__')"),
    ):
        (tmp_path / "tensorrt.py").write_text(body)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        usability = here.usable()
        assert not usability.usable and words in usability.why and usability.fix
        with pytest.raises(BackendUnavailableError, match="Run: "):
            here.require()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


@pytest.mark.parametrize(("device", "index"), [(None, 0), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_a_device_is_the_index_of_a_gpu(device: str | None, index: int) -> None:
    assert here.cuda_device_index(device) == index


def test_building_plans_does_not_import_the_engine_that_runs_them() -> None:
    code = (
        "import sys; from fiffdepth_rt.backends.tensorrt import build, builder; "
        "print([m for m in sys.modules if m.endswith(('tensorrt.backend', 'tensorrt.lane', 'onnxruntime'))])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"

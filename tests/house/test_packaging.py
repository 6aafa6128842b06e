"""Promises of the package: what a robot installs, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile

import pytest

import fiffdepth_rt
from fiffdepth_rt.program.doctor import EXTRAS
from tests.support.paths import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import pip._vendor.tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TRAINING_LIBRARIES = {"torch", "diffusers", "onnxscript", "transformers", "accelerate"}


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match
    return match.group().lower()


def test_the_runtime_has_at_most_ten_direct_dependencies_and_none_for_training() -> None:
    cpu = PROJECT["optional-dependencies"]["cpu"]
    direct = {_name(requirement) for requirement in (*PROJECT["dependencies"], *cpu)}
    assert len(direct) <= 10
    assert not TRAINING_LIBRARIES & direct


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    for requirement in (*PROJECT["dependencies"], *extras):
        if requirement.startswith("fiffdepth-rt["):
            continue  # an extra that brings another extra
        if requirement.startswith("tensorrt-rtx-cu13=="):
            continue  # exact: a plan is for one release of the library
        assert ">=" in requirement and "<" in requirement.replace(">=", ""), requirement


def test_torch_2_13_is_admitted_and_2_14_is_not() -> None:
    for extra in ("training", "export"):
        assert "torch>=2.9,<2.14" in PROJECT["optional-dependencies"][extra]


def test_cpu_and_gpu_bring_one_onnxruntime_wheel_each() -> None:
    names = {extra: {_name(r) for r in PROJECT["optional-dependencies"][extra]} for extra in ("cpu", "gpu")}
    assert names == {"cpu": {"onnxruntime"}, "gpu": {"onnxruntime-gpu"}}


def test_the_doctor_knows_every_extra_of_the_runtime_and_the_wheels_that_it_brings() -> None:
    engines = {"cpu", "gpu", "openvino", "tensorrt", "tensorrt-rtx"}
    tools = {"training", "teacher", "export", "benchmarks", "test-runtime", "dev"}
    ours = {
        extra: {_name(requirement) for requirement in requirements} - {"fiffdepth-rt"}
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra not in engines | tools
    }
    assert {one.name: {wheel.lower() for wheel in one.wheels} for one in EXTRAS} == ours


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in the wheel, built from what git tracks."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "fiffdepth_rt", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, files.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as z:
        return z.namelist()


def test_the_wheel_holds_the_runtime_and_nothing_else(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"fiffdepth_rt"}
    assert "fiffdepth_rt/py.typed" in wheel


def test_the_wheels_version_is_the_packages(wheel: list[str]) -> None:
    assert f"fiffdepth_rt-{fiffdepth_rt.__version__}.dist-info/METADATA" in wheel


def test_the_wheel_brings_the_bundled_model(wheel: list[str]) -> None:
    for name in ("manifest.json", "golden.npz", "LICENSE", "graphs/fp32/unet.onnx"):
        assert f"fiffdepth_rt/nano/{name}" in wheel


def test_the_bundled_model_is_at_most_16_mb() -> None:
    files = [p for p in (ROOT / "fiffdepth_rt" / "nano").rglob("*") if p.is_file()]
    assert 1_000_000 < sum(p.stat().st_size for p in files) <= 16_000_000

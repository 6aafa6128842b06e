"""Promises of benchmarks/plan_builds.py: what its figures mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import plan_builds
from benchmarks.plan_builds import FULL_SIZE, Build, Cost
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX
from fiffdepth_rt.engine_dir.manifest import STAGES, read_manifest
from tests.support.paths import ROOT
from tests.support.tables import cells


def test_a_processs_cost_is_its_own() -> None:
    code = "import time; kept = bytearray(200_000_000); sum(range(10**7)); time.sleep(0.2)"
    with plan_builds.child_cost() as found:
        subprocess.run([sys.executable, "-c", code], check=True)
    (cost,) = found
    assert cost.cpu_s > 0.1 and cost.wall_s > 0.2
    assert cost.peak_mib is not None and 190 < cost.peak_mib < 300


def test_each_stage_is_built_measured_and_deleted(toy_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="its wheels are not for here")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    release = here.require_builder(TENSORRT_RTX)
    builds = list(plan_builds.measure_builds(read_manifest(toy_dir), toy_dir, scratch, release, None))
    assert [build.stage for build in builds] == list(STAGES)
    assert {(build.model, build.compute_capability, build.grid_hw) for build in builds} == {
        ("toy", "8.0 and newer", (256, 256))
    }
    for build in builds:
        assert build.plan_bytes > 50_000 and build.cost.cpu_s > 0
        assert build.weight_bytes is not None and build.activation_bytes is not None
        assert build.cost.peak_mib is not None and build.cost.peak_mib > 100
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("wall_s", "cpu_s", "peak_mib", "verdict"),
    [
        (50.0, 10.0, 5000.0, "yes"),
        (70.0, 10.0, 5000.0, "in CPU time; other programs ran"),  # three of 70 s are beyond 180
        (70.0, 61.0, 5000.0, "NO"),
        (50.0, 10.0, 8000.0, "NO"),
    ],
)
def test_a_set_of_plans_is_held_against_its_limits(
    wall_s: float, cpu_s: float, peak_mib: float, verdict: str
) -> None:
    builds = [
        Build(
            model=FULL_SIZE,
            precision="fp16",
            grid_hw=(512, 512),
            compute_capability="7.5",
            stage=stage,
            cost=Cost(wall_s=wall_s, cpu_s=cpu_s, peak_mib=peak_mib),
            plan_bytes=10**8,
            weight_bytes=None,
            activation_bytes=None,
        )
        for stage in STAGES
    ]
    text = plan_builds.markdown({"unet": builds[0].cost}, builds)
    assert cells(text.split("\n\n")[2])[1][-1] == verdict
    assert f"{3 * wall_s:.1f} of 180" in text and f"{peak_mib * 2**20 / 1e9:.2f} of 8" in text


@pytest.mark.soak
def test_the_whole_command_at_a_small_width() -> None:
    pytest.importorskip("tensorrt_rtx", reason="its wheels are not for here")
    words = ["--width", "0.05", "--size", "128", "--compute-capability", "8.9"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan_builds", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("| fp16 128×128 |") == 6 and "TensorRT for RTX 1.7.1.116" in ended.stdout

"""Promises of which plans open, and where, with a stand-in for CUDA and TensorRT (gpu_stand_in.py).

Our code is the real thing, down to each call of CUDA; the stand-in computes with ONNX Runtime in host memory.
On a GPU itself: test_on_a_gpu.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.jobs import Request, graph_digest
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import STAGES, read_manifest
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    DriverError,
    HashMismatchError,
    PlanGpuError,
    PlanMismatchError,
    PlanVersionError,
)
from tests.support.cuda_stand_in import Cuda, OnGpu
from tests.support.gpu_stand_in import install
from tests.support.plans import GRIDS, L4, LIKE_L4, StandInBuilder, edit, fixed, image, profile, record
from tests.support.toy import toy_depth
from tests.support.watched_copies import D2D, watched_copies


def test_auto_takes_the_plans_where_they_fit(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built) as depth:
        assert depth.describe()["backend"] == "tensorrt"
    for device in ("cpu", None):
        if device is None:
            cuda.gpus = (("NVIDIA A10", 8, 6),)
        with fiffdepth_rt.Depth(built, device=device, threads=1) as depth:
            assert depth.describe()["backend"] == "onnxruntime"


def test_the_second_gpu_is_used_and_the_callers_stays_current(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt", device="cuda:1") as depth:
        assert depth.describe()["device"] == "cuda:1"
        found = depth.infer(image(2))
        kept = depth.infer_on_gpu(image(2), out="device")
        np.testing.assert_array_equal(kept.to_host(), found)
        assert kept.__dlpack_device__() == (2, 1)
        assert {gpu for _, _, gpu in cuda.memory.values()} == {None, 1}
        assert cuda.current == 0
        del kept
    with pytest.raises(BackendUnavailableError, match="GPU 2 is not here: CUDA finds 2"):
        fiffdepth_rt.Depth(built, backend="tensorrt", device="cuda:2")
    for device in ("cpu", "cuda:", "cuda:x", "tpu"):
        with pytest.raises(BackendUnavailableError, match="TensorRT runs on NVIDIA GPUs"):
            fiffdepth_rt.Depth(built, backend="tensorrt", device=device)


def test_plans_of_another_gpu_or_version_are_their_own_errors(
    built: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.gpus = (("NVIDIA A10", 8, 6),)
    with pytest.raises(PlanGpuError, match="Run: fiffdepth build"):
        fiffdepth_rt.Depth(built, backend="tensorrt")
    cuda.gpus = (("NVIDIA L40", 8, 9),)
    with pytest.raises(PlanGpuError, match="for NVIDIA L4 only"):
        fiffdepth_rt.Depth(built, backend="tensorrt")
    cuda.gpus = (LIKE_L4,)
    install(monkeypatch, cuda, tensorrt="11.4.0.106")
    with pytest.raises(PlanVersionError, match=r"TensorRT 10\.16\.1\.11; this machine has 11\.4\.0\.106"):
        fiffdepth_rt.Depth(built, backend="tensorrt")
    assert cuda.left_over() == (0, 0, 0, 0)


def test_a_driver_that_is_too_old_is_its_own_error(
    built: Path, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.driver = 12040
    with pytest.raises(DriverError, match=r"serves CUDA up to 12\.4, and cuda-python here is for CUDA 13\.0"):
        fiffdepth_rt.Depth(built, backend="tensorrt")
    cuda.runtime = 12080
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        assert depth.describe()["engine"]["driver_cuda"] == "12.4"
    install(monkeypatch, cuda, tensorrt="11.4.0.106")
    with pytest.raises(DriverError, match=r"up to 12\.4, and TensorRT 11\.4\.0\.106 is for CUDA 13"):
        fiffdepth_rt.Depth(built, backend="tensorrt")
    cuda.driver = 0
    with pytest.raises(BackendUnavailableError, match="no driver of an NVIDIA GPU"):
        fiffdepth_rt.Depth(built, backend="tensorrt")


def test_a_directory_without_plans_says_what_builds_them(toy_dir: Path, cuda: Cuda) -> None:
    with pytest.raises(BackendUnavailableError, match=r"no TensorRT plans of .*Run: fiffdepth build"):
        fiffdepth_rt.Depth(toy_dir, backend="tensorrt")
    stopped = StandInBuilder(L4)
    stopped.breaks_at = "decoder"
    with pytest.raises(KeyboardInterrupt):
        build_plans(toy_dir, Request(grids=GRIDS[:1], precision="fp32"), builder=stopped)
    with pytest.raises(BackendUnavailableError, match=r"plans for some stages only of fp32"):
        fiffdepth_rt.Depth(toy_dir, backend="tensorrt", precision="fp32")


def test_plans_of_other_graphs_are_refused(toy_dir: Path, cuda: Cuda) -> None:
    build_plans(toy_dir, Request(grids=GRIDS[:1], precision="fp32"), builder=StandInBuilder(L4))
    plans = read_manifest(toy_dir).plans
    edit(toy_dir, plans=tuple(msgspec.structs.replace(plan, graph_sha256="0" * 64) for plan in plans))
    with pytest.raises(PlanMismatchError, match="built from other graphs"):
        fiffdepth_rt.Depth(toy_dir, backend="tensorrt")


def test_a_damaged_plan_is_refused_before_tensorrt_sees_it(toy_dir: Path, cuda: Cuda) -> None:
    (plan, *_) = build_plans(toy_dir, Request(grids=GRIDS[:1], precision="fp32"), builder=StandInBuilder(L4))
    (toy_dir / plan.file).write_bytes(b"x" * (toy_dir / plan.file).stat().st_size)
    with pytest.raises(HashMismatchError):
        fiffdepth_rt.Depth(toy_dir, backend="tensorrt")


def test_static_plans_make_one_engine_of_many_grids(toy_dir: Path, cuda: Cuda) -> None:
    build_plans(toy_dir, Request(grids=GRIDS, precision="fp32", static=True), builder=StandInBuilder(L4))
    with fiffdepth_rt.Depth(toy_dir, backend="tensorrt") as depth:
        assert len(depth.describe()["engine"]["plans"]) == 6
        for grid in GRIDS:
            found = depth.infer(image(1, grid), size=max(grid))
            np.testing.assert_allclose(found, toy_depth(image(1, grid)[None])[0], atol=1e-6)


def test_a_cameras_graphs_take_arrays_of_the_cameras_size(toy_dir: Path, cuda: Cuda) -> None:
    manifest = read_manifest(toy_dir)
    graphs = fixed(manifest, 120, 168)  # as an export with --camera lists them: no multiples of 64
    plans, files = [], dict(manifest.files)
    (toy_dir / "plans").mkdir()
    for stage in STAGES:
        file = f"plans/{stage}.plan"
        shutil.copy(toy_dir / graphs.stages[stage].file, toy_dir / file)
        files[file] = hash_file(toy_dir / file)
        plan = record(stage=stage, precision="fp32", file=file, profiles=(profile(120, 168),))
        digest = graph_digest(manifest, "fp32", stage)
        plans.append(msgspec.structs.replace(plan, graph_sha256=digest))
    edit(toy_dir, graph_sets=manifest.graph_sets | {"fp32": graphs}, plans=tuple(plans), files=files)
    with fiffdepth_rt.Depth(toy_dir, backend="tensorrt", precision="fp32") as depth:
        frame = image(0, (120, 168))
        expected = toy_depth(frame[None])[0]
        with watched_copies() as copies:
            kept = depth.infer_on_gpu(OnGpu(cuda, frame), out="device")
            assert {copy.kind for copy in copies.take()} == {D2D}
        np.testing.assert_allclose(kept.to_host(), expected, atol=1e-6)
        np.testing.assert_allclose(depth.infer(frame), expected, atol=1e-6)
        np.testing.assert_allclose(depth.infer_on_gpu(frame, out="device").to_host(), expected, atol=1e-6)

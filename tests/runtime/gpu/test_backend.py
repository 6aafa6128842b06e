"""Promises of the TensorRT backend, with a stand-in for CUDA and TensorRT (gpu_stand_in.py says what it is).

Our code is the real thing, down to each call of CUDA; the stand-in computes with ONNX Runtime in host memory.
On a GPU itself: test_on_a_gpu.py.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import backend as backend_file
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt import log as trt_log
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.jobs import Request, graph_digest
from fiffdepth_rt.engine_dir.manifest import STAGES, hash_file, read_manifest
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    DriverError,
    HashMismatchError,
    ImageError,
    InferenceError,
    PlanGpuError,
    PlanMismatchError,
    PlanVersionError,
    SizeError,
)
from tests.support.gpu_stand_in import Cuda, install
from tests.support.plans import L4, StandInBuilder, edit, fixed, profile, record
from tests.support.toy import (
    grids_seen,
    infer_to,
    toy_depth,
    toy_depth_latent,
    toy_latent,
    toy_unclipped,
    write_toy_engine_dir,
)
from tests.support.watched_copies import D2D, D2H, H2D, watched_copies

GRIDS = ((128, 192), (64, 128))
LIKE_L4 = ("NVIDIA L4", 8, 9)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy engine directory with plans for an L4: two grids, each with batch 1 and 3."""
    directory = write_toy_engine_dir(tmp_path_factory.mktemp("engines") / "toy")
    build_plans(directory, Request(grids=GRIDS, batches=(1, 3), precision="fp32"), builder=StandInBuilder(L4))
    return directory


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """Two L4, with the TensorRT of the plans."""
    stand_in = Cuda(LIKE_L4, LIKE_L4)
    install(monkeypatch, stand_in, tensorrt=L4.tensorrt_version)
    yield stand_in
    trt_log.logger.cache_clear()


def image(seed: int = 0, grid: tuple[int, int] = GRIDS[0]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*grid, 3), dtype=np.uint8)


class OnGpu:
    """An array on the stand-in's GPU, as a library would hand it over: with one of the two protocols."""

    def __init__(
        self, cuda: Cuda, array: np.ndarray, *, stream: int | None = None, strides: Any = None
    ) -> None:
        self.cuda, self.array = cuda, array
        self.address = cuda.upload(array)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.address, False),
            "strides": strides,
            "version": 3,
            "stream": stream,
        }

    def values(self) -> np.ndarray:
        flat = self.cuda.bytes_at(self.address, self.array.nbytes)
        return flat.view(self.array.dtype).reshape(self.array.shape).copy()


# --- the journey ---


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_the_plans_give_the_depth_of_the_plain_twin(built: Path, cuda: Cuda, cuda_graph: bool) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt", cuda_graph=cuda_graph) as depth:
        for seed in range(6):  # the first frames are enqueued plainly, the rest replayed
            grid = GRIDS[seed % 2]
            found = depth.infer(image(seed, grid), size=max(grid))
            np.testing.assert_allclose(found, toy_depth(image(seed, grid)[None])[0], atol=1e-6)
        said = depth.describe()
    assert (said["backend"], said["device"], said["precision"]) == ("tensorrt", "cuda:0", "fp32")
    assert said["cuda_graph"] == ("on: 4 captured so far" if cuda_graph else "off: cuda_graph=False")
    assert said["engine"]["tensorrt"] == "10.16.1.11" and len(said["engine"]["plans"]) == 3
    assert cuda.launches == (2 if cuda_graph else 0)


def test_a_replayed_graph_gives_the_bits_of_the_plain_run(built: Path, cuda: Cuda) -> None:
    results = []
    for cuda_graph in (True, False):
        with fiffdepth_rt.Depth(built, backend="tensorrt", cuda_graph=cuda_graph) as depth:
            results.append([depth.infer(image(7)) for _ in range(5)])
    assert cuda.launches == 3
    for found in (*results[0], *results[1]):
        np.testing.assert_array_equal(found, results[0][0])


def test_any_number_of_images_goes_through_the_batches_that_were_built(built: Path, cuda: Cuda) -> None:
    images = [image(seed) for seed in range(5)]
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        for count in (1, 2, 5):
            for found, given in zip(depth.infer_batch(images[:count]), images, strict=False):
                np.testing.assert_allclose(found, toy_depth(given[None])[0], atol=1e-6)


def test_a_photo_goes_on_the_grid_that_wastes_least(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        assert depth.backend.grid_for((200, 300), None) == (128, 192)
        assert depth.backend.grid_for((200, 400), None) == (64, 128)
        photo = image(3, (200, 300))
        assert depth.infer(photo).photo_hw == (200, 300)
        assert grids_seen(depth, lambda: depth.infer(photo)) == [(128, 192)]


def test_each_stage_alone_is_its_plain_twin(built: Path, cuda: Cuda) -> None:
    images = np.stack([image(seed) for seed in range(4)])
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        backend = depth.backend
        latent = backend.run_stage("encoder", images)
        np.testing.assert_allclose(latent, toy_latent(images), atol=1e-6)
        depth_latent = backend.run_stage("unet", latent)
        np.testing.assert_allclose(depth_latent, toy_depth_latent(latent), atol=1e-6)
        unclipped = backend.run_unclipped(depth_latent)
        np.testing.assert_allclose(unclipped, toy_unclipped(depth_latent), atol=1e-6)
        np.testing.assert_array_equal(backend.run_stage("decoder", depth_latent), backend.run(images))
        with pytest.raises(InferenceError, match="failed in the unet"):
            backend.run_stage("unet", latent[:, :, :8])


def test_eight_threads_get_the_bits_of_one(built: Path, cuda: Cuda) -> None:
    images = [image(seed, GRIDS[seed // 2 % 2]) for seed in range(24)]
    with (
        fiffdepth_rt.Depth(built, backend="tensorrt") as depth,
        fiffdepth_rt.Depth(built, backend="tensorrt") as other,
        ThreadPoolExecutor(8) as pool,
    ):
        alone = [depth.infer(one, size=max(one.shape)) for one in images]
        engines = (depth, other) * 12
        together = list(pool.map(lambda e, one: e.infer(one, size=max(one.shape)), engines, images))
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_stream_of_frames_keeps_its_order_and_its_memory(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        frames = [image(seed) for seed in range(20)]
        before, seen = None, 0
        for found, frame in zip(depth.stream(iter(frames)), frames, strict=True):
            np.testing.assert_allclose(found.depth_map, toy_depth(frame[None])[0], atol=1e-6)
            seen += 1
            if seen == 5:
                before = cuda.left_over()
        assert cuda.left_over() == before and seen == 20


# --- copies ---

ROUTES = {  # photo, depth map -> the copies of a frame, in order
    ("host", "host"): (H2D, D2H),
    ("host", "device"): (H2D, D2D),
    ("device", "host"): (D2D, D2H),
    ("device", "device"): (D2D, D2D),
}


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_frame_makes_the_copies_of_its_route_and_no_other(
    built: Path, cuda: Cuda, cuda_graph: bool
) -> None:
    pixels, values = 128 * 192 * 3, 128 * 192 * 4
    with (
        watched_copies() as copies,
        fiffdepth_rt.Depth(built, backend="tensorrt", cuda_graph=cuda_graph) as depth,
    ):
        photos = {"host": image(), "device": OnGpu(cuda, image())}
        for (source, out), (first, last) in ROUTES.items():
            for _ in range(4):
                infer_to(out, depth, photos[source])
                made = copies.take()
                assert [(copy.kind, copy.nbytes) for copy in made] == [(first, pixels), (last, values)]
                assert all(cuda.is_pinned(copy.host) for copy in made if copy.host is not None)


def test_a_cuda_graph_is_for_one_shape_its_copies_and_its_staging_buffer(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        photos = {"host": image(), "device": OnGpu(cuda, image())}
        for (source, out), captured in zip(ROUTES, (2, 4, 6, 7), strict=True):  # two staging buffers, or none
            for _ in range(4):
                infer_to(out, depth, photos[source])
            assert depth.describe()["cuda_graph"] == f"on: {captured} captured so far"
        depth.infer_on_gpu(OnGpu(cuda, image(0, GRIDS[1])), out="device")
        assert depth.describe()["cuda_graph"] == "on: 8 captured so far"


def test_from_gpu_to_gpu_nothing_touches_the_host(built: Path, cuda: Cuda) -> None:
    with watched_copies() as copies, fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        given = OnGpu(cuda, image())
        out = OnGpu(cuda, np.zeros(GRIDS[0], np.float32))
        for _ in range(3):
            assert depth.infer_on_gpu(given, out=out) is out
        assert {copy.kind for copy in copies.take()} == {D2D}
        cuda.cudaStreamSynchronize(1)
        np.testing.assert_allclose(out.values(), toy_depth(image()[None])[0], atol=1e-6)


# --- arrays on the GPU ---


def test_a_result_on_the_gpu_is_the_one_on_the_host(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        expected = depth.infer(image(1))
        for _ in range(3):
            kept = depth.infer_on_gpu(OnGpu(cuda, image(1)), out="device")
            depth.infer(image(2))  # another frame does not write over it
            np.testing.assert_array_equal(kept.to_host(), expected)
        np.testing.assert_array_equal(depth.infer_on_gpu(OnGpu(cuda, image(1)), out="host"), expected)
        np.testing.assert_array_equal(depth.infer_on_gpu(image(1), out="device").to_host(), expected)
        np.testing.assert_array_equal(
            depth.infer_on_gpu(image(1), out="device", color="bgr").to_host(),
            depth.infer(image(1)[..., ::-1]),
        )


def test_work_waits_for_the_callers_stream_and_the_stream_for_the_work(built: Path, cuda: Cuda) -> None:
    class TorchStream:
        cuda_stream = cuda.cudaStreamCreateWithFlags(1)[1]

    stream = TorchStream()
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        given = OnGpu(cuda, np.zeros_like(image()))
        out = OnGpu(cuda, np.zeros(GRIDS[0], np.float32))
        read: list[np.ndarray] = []

        def write() -> None:  # the caller's own kernel, not run yet when infer is called
            cuda.bytes_at(given.address, image().nbytes)[:] = image(5).reshape(-1)

        cuda.enqueue(stream.cuda_stream, write)
        depth.infer_on_gpu(given, out=out, cuda_stream=stream)
        cuda.enqueue(stream.cuda_stream, lambda: read.append(out.values()))
        assert read == []
        cuda.cudaStreamSynchronize(stream.cuda_stream)
        np.testing.assert_allclose(read[0], toy_depth(image(5)[None])[0], atol=1e-6)

        cuda.bytes_at(given.address, image().nbytes)[:] = 0
        cuda.enqueue(stream.cuda_stream, write)
        found = depth.infer_on_gpu(given, out="host", cuda_stream=stream)  # nobody else makes the GPU work
        np.testing.assert_allclose(found, toy_depth(image(5)[None])[0], atol=1e-6)


def test_the_stream_that_an_array_names_is_waited_for(built: Path, cuda: Cuda) -> None:
    producer = cuda.cudaStreamCreateWithFlags(1)[1]
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        given = OnGpu(cuda, np.zeros_like(image()), stream=producer)
        cuda.enqueue(
            producer,
            lambda: cuda.bytes_at(given.address, image().nbytes).__setitem__(slice(None), image(4).ravel()),
        )
        np.testing.assert_allclose(
            depth.infer_on_gpu(given, out="host"), toy_depth(image(4)[None])[0], atol=1e-6
        )


def test_a_consumer_waits_for_a_result_on_the_gpu(built: Path, cuda: Cuda) -> None:
    consumer = cuda.cudaStreamCreateWithFlags(1)[1]
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        kept = depth.infer_on_gpu(OnGpu(cuda, image(6)), out="device")
        assert kept.__cuda_array_interface__["stream"] is not None  # not written yet
        capsule = kept.__dlpack__(stream=consumer)
        cuda.cudaStreamSynchronize(consumer)
        assert kept.__cuda_array_interface__["stream"] is None
        values = cuda.bytes_at(kept.address, kept.nbytes).view(np.float32).reshape(kept.shape)
        np.testing.assert_allclose(values, toy_depth(image(6)[None])[0], atol=1e-6)
        address = kept.address
        del kept
        gc.collect()
        assert address in cuda.memory  # the capsule has it
        del capsule
        gc.collect()
        assert address not in cuda.memory


def test_a_crop_is_taken_row_by_row(built: Path, cuda: Cuda) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (128, 300, 3), dtype=np.uint8)
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        given = OnGpu(cuda, whole)
        interface = given.__cuda_array_interface__
        given.__cuda_array_interface__ = interface | {
            "shape": (128, 192, 3),
            "strides": (900, 3, 1),
            "data": (given.address + 30, True),
        }
        expected = toy_depth(whole[None, :, 10:202])[0]
        np.testing.assert_allclose(depth.infer_on_gpu(given, out="host"), expected, atol=1e-6)


def test_a_size_without_an_engine_names_both_ways(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        for out in ("host", "device"):
            with pytest.raises(SizeError, match=r"128x192, 64x128. Two ways: resize.*--camera 120x160"):
                depth.infer_on_gpu(OnGpu(cuda, image(0, (120, 160))), out=out)
        with pytest.raises(SizeError, match=r"cannot stay on the GPU.*Two ways: at='grid'.*--camera 120x160"):
            depth.infer_on_gpu(image(0, (120, 160)), out="device")
        assert depth.infer_on_gpu(image(0, (120, 160)), out="device", at="grid").shape in GRIDS


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((128, 192, 3), np.float32), "uint8 height×width×3, not float32 128×192×3"),
        (np.zeros((3, 128, 192), np.uint8), "not uint8 3×128×192"),
        (np.zeros((128, 192), np.uint8), "not uint8 128×192"),
    ],
    ids=["floats", "planes", "grey"],
)
def test_an_array_that_is_no_photo_is_refused(built: Path, cuda: Cuda, array: np.ndarray, said: str) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth, pytest.raises(ImageError, match=said):
        depth.infer_on_gpu(OnGpu(cuda, array), out="host")


def test_what_cannot_be_taken_from_a_gpu_is_said(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        planes = OnGpu(cuda, image(), strides=(192, 1, 128 * 192))
        with pytest.raises(ImageError, match="not side by side"):
            depth.infer_on_gpu(planes, out="host")
        with pytest.raises(ImageError, match="reverse the channels on the GPU"):
            depth.infer_on_gpu(OnGpu(cuda, image()), color="bgr", out="host")
        with pytest.raises(ImageError, match="out='gpu' is not known"):
            depth.infer_on_gpu(image(), out="gpu")
        with pytest.raises(ImageError, match="on the host, and so is the result: call infer"):
            depth.infer_on_gpu(image(), out="host")
        with pytest.raises(SizeError, match="'photo' or 'grid'"):
            depth.infer_on_gpu(image(), at="middle")
        with pytest.raises(SizeError, match="writable, contiguous float32 array of 128×192"):
            depth.infer_on_gpu(image(), out=OnGpu(cuda, np.zeros((128, 192), np.float16)))
        with pytest.raises(InferenceError, match="is no CUDA stream"):
            depth.infer_on_gpu(OnGpu(cuda, image()), cuda_stream="main", out="host")
        cuda.cudaSetDevice(1)
        elsewhere = OnGpu(cuda, image())
        cuda.cudaSetDevice(0)
        with pytest.raises(ImageError, match=r"lies on cuda:1, and this engine is on cuda:0"):
            depth.infer_on_gpu(elsewhere, out="host")


def test_an_engine_on_the_host_says_that_it_takes_no_gpu_array(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="onnxruntime", threads=1) as depth:
        for arguments in ({"photo": OnGpu(cuda, image())}, {"photo": image(), "out": "device"}):
            with pytest.raises(BackendUnavailableError, match="takes and gives arrays on the host"):
                depth.infer_on_gpu(**arguments)


# --- which plans run, and where ---


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
    edit(toy_dir, plans=tuple(dataclasses.replace(plan, graph_sha256="0" * 64) for plan in plans))
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
        plans.append(dataclasses.replace(plan, graph_sha256=digest))
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


# --- bad weather ---


def test_a_plan_that_tensorrt_does_not_take_brings_its_log(toy_dir: Path, cuda: Cuda) -> None:
    (plan, *_) = build_plans(toy_dir, Request(grids=GRIDS[:1], precision="fp32"), builder=StandInBuilder(L4))
    (toy_dir / plan.file).write_bytes(b"of something else")
    edit(toy_dir, files=read_manifest(toy_dir).files | {plan.file: hash_file(toy_dir / plan.file)})
    with pytest.raises(PlanMismatchError, match=r"does not take .*ERROR: Serialization assertion"):
        fiffdepth_rt.Depth(toy_dir, backend="tensorrt")
    gc.collect()
    assert cuda.left_over() == (0, 0, 0, 0)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_an_engine_that_fails_brings_tensorrts_log_and_runs_again(
    built: Path, cuda: Cuda, cuda_graph: bool
) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt", cuda_graph=cuda_graph) as depth:
        cuda.engines_say = "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
        for call in (depth.infer, depth.infer_on_gpu):
            with pytest.raises(
                InferenceError, match=r"could not run plans/encoder.*an illegal memory access"
            ):
                call(image())
        cuda.engines_say = "Error Code 2: OutOfMemory (Requested size was 734003200 bytes.)"
        with pytest.raises(DeviceMemoryError, match=r"running plans/encoder.*needs 700 MiB") as error:
            depth.infer(image())
        assert (error.value.needed_bytes, error.value.total_bytes) == (734_003_200, cuda.total)
        cuda.engines_say = None
        for _ in range(3):
            np.testing.assert_allclose(depth.infer(image()), toy_depth(image()[None])[0], atol=1e-6)


def test_without_graphs_the_work_goes_on_and_says_why(built: Path, cuda: Cuda) -> None:
    cuda.captures_fail = True
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        for seed in range(4):
            found = depth.infer(image(seed))
            np.testing.assert_allclose(found, toy_depth(image(seed)[None])[0], atol=1e-6)
        said = depth.describe()["cuda_graph"]
    assert said.startswith("off: the capture failed") and "cudaErrorStreamCaptureInvalidated" in said
    assert cuda.launches == 0


def test_memory_that_runs_out_at_load_leaves_nothing_behind(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt"):
        needed = cuda.used()
    for total in range(0, needed, needed // 7):
        cuda.total = total
        with pytest.raises(DeviceMemoryError, match=r"no room for .* MiB are free") as error:
            fiffdepth_rt.Depth(built, backend="tensorrt")
        assert error.value.needed_bytes > error.value.free_bytes
        assert error.value.total_bytes == total
        del error
        gc.collect()
        assert cuda.left_over() == (0, 0, 0, 0)
    cuda.total = needed
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        depth.infer(image())


def test_memory_that_runs_out_at_inference_leaves_the_engine_usable(built: Path, cuda: Cuda) -> None:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as depth:
        expected = depth.infer(image())
        cuda.total = cuda.used() + 1000
        with pytest.raises(DeviceMemoryError, match="no room for a depth map of 128×192") as error:
            depth.infer_on_gpu(image(), out="device")
        assert (error.value.needed_bytes, error.value.free_bytes) == (128 * 192 * 4, 1000)
        np.testing.assert_array_equal(depth.infer(image()), expected)


def test_closing_frees_everything_and_later_calls_are_told(built: Path, cuda: Cuda) -> None:
    depth = fiffdepth_rt.Depth(built, backend="tensorrt")
    for _ in range(3):
        depth.infer(image())
    kept = depth.infer_on_gpu(image(), out="device")
    depth.close()
    depth.close()
    gc.collect()
    assert cuda.left_over() == (1, 0, 1, 0)  # the result that is still held, and its event
    assert kept.to_host().shape == GRIDS[0]
    del kept
    gc.collect()
    assert cuda.left_over() == (0, 0, 0, 0)
    for call in (lambda: depth.infer(image()), lambda: depth.infer_on_gpu(image(), out="device")):
        with pytest.raises(InferenceError, match="closed"):
            call()


def test_closing_waits_for_calls_that_are_running(built: Path, cuda: Cuda) -> None:
    depth = fiffdepth_rt.Depth(built, backend="tensorrt")
    expected = depth.infer(image())
    cuda.work.acquire()  # the GPU stands still
    results: list[np.ndarray] = []
    asked = threading.Thread(target=lambda: results.append(depth.infer(image())))
    asked.start()
    while depth.backend._running == 0:
        pass
    closing = threading.Thread(target=depth.close)
    closing.start()
    cuda.work.release()
    asked.join()
    closing.join()
    gc.collect()
    np.testing.assert_array_equal(results[0], expected)
    assert cuda.left_over() == (0, 0, 0, 0)


def test_without_cuda_every_entry_says_what_is_missing(built: Path) -> None:
    usability = here.usable()
    if usability.usable:
        pytest.skip("TensorRT is usable here")
    assert backend_file.ready(None, None) == ()  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=r"TensorRT cannot be used: .* Run: "):
        here.require()
    with pytest.raises(BackendUnavailableError, match=r"Run: pip install"):
        fiffdepth_rt.Depth(built, backend="tensorrt")

"""Promises of the TensorRT backend, with a stand-in for CUDA and TensorRT (gpu_stand_in.py says what it is).

Our code is the real thing, down to each call of CUDA; the stand-in computes with ONNX Runtime in host memory.
On a GPU itself: test_on_a_gpu.py.
"""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import backend as backend_file
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT
from fiffdepth_rt.backends.tensorrt.jobs import Request
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import read_manifest
from fiffdepth_rt.errors import BackendUnavailableError, DeviceMemoryError, InferenceError, PlanMismatchError
from tests.support.cuda_stand_in import Cuda, OnGpu
from tests.support.plans import GRIDS, L4, StandInBuilder, edit, image
from tests.support.toy import grids_seen, infer_to, toy_depth, toy_depth_latent, toy_latent, toy_unclipped
from tests.support.watched_copies import D2D, D2H, H2D, watched_copies

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
    assert backend_file.ready(None, None, flavour=TENSORRT) == ()  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=r"TensorRT cannot be used: .* Run: "):
        here.require()
    with pytest.raises(BackendUnavailableError, match=r"Run: pip install"):
        fiffdepth_rt.Depth(built, backend="tensorrt")

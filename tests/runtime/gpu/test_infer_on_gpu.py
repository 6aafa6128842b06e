"""Promises of `infer_on_gpu`: arrays on the GPU, with a stand-in for CUDA and TensorRT (gpu_stand_in.py).

Our code is the real thing, down to each call of CUDA; the stand-in computes with ONNX Runtime in host memory.
On a GPU itself: test_on_a_gpu.py.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.errors import BackendUnavailableError, ImageError, InferenceError, SizeError
from tests.support.cuda_stand_in import Cuda, OnGpu
from tests.support.plans import GRIDS, image
from tests.support.toy import toy_depth


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

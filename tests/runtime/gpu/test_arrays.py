"""Promises of arrays on a GPU: what their protocols say is what we read, and what we give out others read.

DLPack: test_dlpack.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.errors import BackendUnavailableError, ImageError, InferenceError, SizeError
from fiffdepth_rt.gpu.arrays import (
    DeviceDepth,
    DeviceView,
    check_photo,
    check_result,
    from_cuda_array_interface,
    is_on_gpu,
    stream_handle,
)

INTERFACE = {"shape": (4, 6, 3), "typestr": "|u1", "data": (4096, False), "version": 3, "strides": None}


def photo(**changes: Any) -> DeviceView:
    fields = {
        "address": 4096,
        "shape": (128, 192, 3),
        "strides": (576, 3, 1),
        "dtype": np.dtype(np.uint8),
    }
    return DeviceView(**(fields | changes))


# --- __cuda_array_interface__ ---


def test_the_cuda_array_interface_is_read_by_its_words() -> None:
    found = from_cuda_array_interface(INTERFACE)
    assert found == DeviceView(address=4096, shape=(4, 6, 3), strides=(18, 3, 1), dtype=np.dtype("u1"))
    crop = from_cuda_array_interface(INTERFACE | {"strides": (90, 3, 1), "data": (4200, True), "stream": 7})
    assert (crop.address, crop.strides, crop.pitch, crop.read_only, crop.stream) == (
        4200,
        (90, 3, 1),
        90,
        True,
        7,
    )
    floats = from_cuda_array_interface(INTERFACE | {"typestr": "<f4", "shape": (2, 5)})
    assert (floats.dtype, floats.strides) == (np.float32, (20, 4))


def test_a_mask_is_refused_by_its_own_sentence() -> None:
    with pytest.raises(ImageError, match=r"^A GPU array with a mask is no photo"):
        from_cuda_array_interface({**INTERFACE, "mask": object()})


@pytest.mark.parametrize(
    "changes",
    [{"shape": None}, {"typestr": "nonsense"}, {"data": 4096}, {"stream": "one"}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_interface_that_is_not_understood_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises((ImageError, InferenceError)):
        from_cuda_array_interface(INTERFACE | changes)
    with pytest.raises(ImageError, match="KeyError"):
        from_cuda_array_interface({})


# --- streams ---


class WithProtocol:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 4711


class WithProperty:
    __cuda_stream__ = (0, 4712)


class OfTorch:
    cuda_stream = 4713


class OfTorchDefault:
    cuda_stream = 0


class OfCupy:
    ptr = 4714


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (None, None),
        (WithProtocol(), 4711),
        (WithProperty(), 4712),
        (OfTorch(), 4713),
        (OfTorchDefault(), 1),
        (OfCupy(), 4714),
        (4715, 4715),
        (0, 1),
        (2, 2),
        (np.int64(4716), 4716),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_every_kind_of_stream_has_its_handle(stream: Any, handle: int | None) -> None:
    assert stream_handle(stream) == handle


def test_what_is_no_stream_is_refused() -> None:
    class Newer:
        __cuda_stream__ = (1, 4711)

    with pytest.raises(InferenceError, match="version 1 of __cuda_stream__"):
        stream_handle(Newer())
    for nonsense in ("main", -1, 2.5, True, object()):
        with pytest.raises(InferenceError, match="is no CUDA stream"):
            stream_handle(nonsense)


# --- what goes in and out ---


def test_a_photo_of_a_grids_size_is_taken() -> None:
    assert check_photo(photo(), ((64, 64), (128, 192)), "rgb") == (128, 192)
    assert check_photo(photo(strides=(1024, 3, 1)), ((128, 192),), "rgb") == (128, 192)


def test_another_size_names_both_ways() -> None:
    with pytest.raises(SizeError) as error:
        check_photo(photo(shape=(480, 640, 3)), ((384, 640), (512, 512)), "rgb")
    said = str(error.value)
    assert "no engine for 480x640; there is one for 384x640, 512x512" in said
    assert "resize it on the GPU" in said and "--camera 480x640" in said


def test_a_depth_map_goes_into_a_plain_float_array_only() -> None:
    good = DeviceView(address=0, shape=(4, 6), strides=(24, 4), dtype=np.dtype(np.float32))
    check_result(good, (4, 6))
    for changes in (
        {"dtype": np.dtype(np.float64)},
        {"shape": (6, 4)},
        {"strides": (32, 4)},
        {"read_only": True},
    ):
        with pytest.raises(SizeError, match="writable, contiguous float32 array of 4×6"):
            check_result(DeviceView(**(vars(good) | changes)), (4, 6))


def test_arrays_on_the_host_are_not_taken_for_a_gpus() -> None:
    for array in (np.zeros(3), [1, 2], None, "device"):
        assert not is_on_gpu(array)

    class OnGpu:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    assert is_on_gpu(OnGpu())


def test_an_engine_on_the_cpu_keeps_nothing_on_a_gpu(depth: fiffdepth_rt.Depth) -> None:
    with pytest.raises(
        BackendUnavailableError, match="onnxruntime on cpu takes and gives arrays on the host"
    ):
        depth.infer_on_gpu(np.zeros((64, 64, 3), np.uint8))
    assert depth.describe()["cuda_graph"] is None


def test_without_cuda_a_result_on_the_gpu_says_what_to_install() -> None:
    try:
        import cuda.bindings  # noqa: F401
    except ImportError:
        with pytest.raises(BackendUnavailableError, match="cuda-python cannot be imported"):
            DeviceDepth((4, 4), gpu=0, stream=1)
    else:
        pytest.skip("cuda-python is installed here")

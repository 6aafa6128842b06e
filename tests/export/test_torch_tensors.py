"""Promises to who has torch in the same process: its tensors go in, and what we give out it reads.

The runtime never imports torch; DLPack is the same on the host, so both are tried there for real.
"""

from __future__ import annotations

import ctypes
import gc
import weakref

import numpy as np
import pytest
import torch

import fiffdepth_rt
from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.gpu.arrays import from_dlpack, is_on_gpu
from tests.runtime.gpu.test_dlpack import Giver


def test_what_torch_gives_is_read_as_it_lies() -> None:
    tensor = torch.arange(2 * 7 * 3, dtype=torch.uint8).reshape(2, 7, 3)[:, 2:5]
    found = from_dlpack(tensor.__dlpack__())
    assert (found.shape, found.strides, found.dtype) == ((2, 3, 3), (21, 3, 1), np.uint8)
    values = np.frombuffer((ctypes.c_uint8 * 9).from_address(found.address), dtype=np.uint8)
    np.testing.assert_array_equal(values, np.arange(6, 15))


def test_complex_tensors_are_refused() -> None:
    with pytest.raises(ImageError, match="64 bits"):
        from_dlpack(torch.zeros(2, dtype=torch.complex64).__dlpack__())


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_torch_reads_what_we_give_without_a_copy(dtype: type) -> None:
    giver = Giver(np.arange(24, dtype=dtype).reshape(2, 3, 4))
    taken = torch.from_dlpack(giver)
    np.testing.assert_array_equal(np.asarray(taken), giver.array)
    giver.array[0, 0, 0] = 99
    assert taken[0, 0, 0] == 99


def test_memory_given_to_torch_is_free_when_the_tensor_goes() -> None:
    giver = Giver(np.zeros((2, 3), np.float32))
    gone = weakref.ref(giver)
    taken = torch.from_dlpack(giver)
    del giver
    gc.collect()
    assert gone() is not None
    del taken
    gc.collect()
    assert gone() is None


def test_a_tensor_on_the_host_is_not_taken_for_a_gpus() -> None:
    assert not is_on_gpu(torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_torch_tensor_on_the_host_is_a_photo_too(depth: fiffdepth_rt.Depth, dtype: torch.dtype) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels)
    if dtype == torch.float32:
        tensor = tensor / 255
    np.testing.assert_array_equal(depth.infer(tensor), depth.infer(pixels))
    np.testing.assert_array_equal(depth.infer_batch([tensor])[0], depth.infer(pixels))


def test_a_tensor_that_numpy_cannot_read_is_an_image_error(depth: fiffdepth_rt.Depth) -> None:
    with pytest.raises(ImageError, match=r"numpy cannot read this Tensor.*x\.detach\(\)\.cpu\(\)"):
        depth.infer(torch.zeros((64, 64, 3), requires_grad=True))
    with pytest.raises(ImageError, match="numpy cannot read this Tensor"):
        depth.infer(torch.zeros((64, 64, 3), dtype=torch.bfloat16))

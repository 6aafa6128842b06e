"""Promises of DLPack: what others give is what we read, and what we give out others read.

DLPack is the same on the host, so giving and taking is tried there with numpy for real; with torch in
tests/export/test_torch_tensors.py.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.gpu import dlpack
from fiffdepth_rt.gpu.arrays import from_dlpack


def test_what_numpy_gives_is_read_as_it_lies() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    found = from_dlpack(array.__dlpack__())
    assert (found.shape, found.strides, found.dtype) == ((4, 3), (4, 16), np.float32)
    assert found.address == array.ctypes.data


def test_a_capsule_that_is_read_stays_its_makers() -> None:
    class Owner(np.ndarray):
        pass

    array = np.zeros((2, 2), np.uint8).view(Owner)
    gone = weakref.ref(array)
    found = from_dlpack(array.__dlpack__())
    del array
    gc.collect()
    assert gone() is not None  # alive as long as the view
    del found
    gc.collect()
    assert gone() is None


def test_what_is_no_dlpack_tensor_is_said_to_be_none() -> None:
    for nonsense in (None, "dltensor", object()):
        with pytest.raises(ImageError, match="no DLPack tensor"):
            from_dlpack(nonsense)
    with pytest.raises(ImageError, match="128 bits"):
        from_dlpack(np.zeros(2, dtype=np.complex128).__dlpack__())


class Giver:
    """Gives memory of the host out, as DeviceDepth gives memory of a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: Any) -> Any:
        address = self.array.ctypes.data
        return dlpack.make(address, self.array.shape, self.array.dtype, self.__dlpack_device__(), owner=self)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_what_we_give_is_read_without_a_copy(dtype: Any) -> None:
    giver = Giver(np.arange(24, dtype=dtype).reshape(2, 3, 4))
    taken = np.from_dlpack(giver)
    np.testing.assert_array_equal(np.asarray(taken), giver.array)
    giver.array[0, 0, 0] = 99
    assert taken[0, 0, 0] == 99


@pytest.mark.parametrize("take", [np.from_dlpack, Giver.__dlpack__], ids=["numpy", "by hand"])
def test_memory_given_out_is_free_when_nobody_uses_it(take: Any) -> None:
    giver = Giver(np.zeros((2, 3), np.float32))
    gone = weakref.ref(giver)
    taken = take(giver)
    del giver
    gc.collect()
    assert gone() is not None
    del taken
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("shape", "itemsize", "strides"),
    [((2, 3, 4), 4, (48, 16, 4)), ((5,), 2, (2,)), ((), 4, ()), ((128, 192, 3), 1, (576, 3, 1))],
)
def test_packed_strides(shape: tuple[int, ...], itemsize: int, strides: tuple[int, ...]) -> None:
    assert dlpack.packed_strides(shape, itemsize) == strides

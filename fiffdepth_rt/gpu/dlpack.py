"""DLPack by ctypes: a capsule -> what its tensor is, and memory -> a capsule. The structures are dlpack.h's.

cuda.core's StridedMemoryView does the same; why cuda.core is not used: cuda.py. DLPack is the same for memory
of the host, so this file is tested there against numpy and torch.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
from typing import Any

import numpy as np

from fiffdepth_rt.errors import ImageError

# DLDeviceType
CPU, CUDA, CUDA_MANAGED = 1, 2, 13
# DLDataTypeCode -> numpy's kind
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a capsule holds. strides: bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


def read(capsule: Any) -> Tensor:
    """A "dltensor" capsule -> its tensor, which is valid as long as the capsule. Raises ImageError."""
    pointer = _capsule_pointer(capsule, b"dltensor")
    tensor = ctypes.cast(pointer, ctypes.POINTER(_ManagedTensor)).contents.tensor
    kind = _KINDS.get(tensor.dtype.code)
    if kind is None or tensor.dtype.lanes != 1 or tensor.dtype.bits % 8:
        raise ImageError(
            f"A GPU array of DLPack type {tensor.dtype.code} with {tensor.dtype.bits} bits and "
            f"{tensor.dtype.lanes} lanes is no photo: pass uint8."
        )
    dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    return Tensor(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=(
            tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
            if tensor.strides
            else packed_strides(shape, dtype.itemsize)
        ),
        dtype=dtype,
    )


def make(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], *, owner: Any
) -> Any:
    """C-contiguous memory -> a "dltensor" capsule. owner: kept alive until the consumer is done."""
    code = next(code for code, kind in _KINDS.items() if kind == dtype.kind)
    sides = (ctypes.c_int64 * len(shape))(*shape)
    steps = (ctypes.c_int64 * len(shape))(*packed_strides(shape, 1))
    managed = _ManagedTensor(
        tensor=_Tensor(
            data=address,
            device=_Device(*device),
            ndim=len(shape),
            dtype=_DataType(code, 8 * dtype.itemsize, 1),
            shape=sides,
            strides=steps,
        ),
        deleter=ctypes.cast(_FORGET, ctypes.c_void_p).value,
    )
    pointer = ctypes.addressof(managed)
    _given_out[pointer] = (managed, sides, steps, owner)
    return _new_capsule(pointer, ctypes.cast(_NAME, ctypes.c_char_p), ctypes.cast(_DROP, ctypes.c_void_p))


def packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes between neighbours along each axis of a C-contiguous array."""
    behind = itertools.accumulate((*shape[:0:-1],), lambda total, side: total * side, initial=itemsize)
    return tuple(behind)[::-1] if shape else ()


# --- the structures ---


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


# What consumers hold, by address: the structures they read, and the owner of the memory.
_given_out: dict[int, tuple[Any, ...]] = {}


def _forget(pointer: int) -> None:
    """A consumer is done with a tensor of ours."""
    _given_out.pop(pointer, None)


def _drop(capsule: int) -> None:
    """A capsule is garbage. Whoever took its tensor has renamed it; else the tensor goes with it."""
    if _is_valid(capsule, b"dltensor"):
        _forget(_get_pointer(capsule, b"dltensor"))


# As C sees them. A consumer may be done in any thread, without the interpreter's lock.
_FORGET = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_forget)
_DROP = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop)

_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_NAME = ctypes.create_string_buffer(b"dltensor")  # a capsule keeps the pointer, so it must stay where it is


def _capsule_pointer(capsule: Any, name: bytes) -> int:
    if type(capsule).__name__ != "PyCapsule" or not _is_valid(id(capsule), name):
        raise ImageError("The array's __dlpack__ gave no DLPack tensor. Update the library it comes from.")
    return int(_get_pointer(id(capsule), name))

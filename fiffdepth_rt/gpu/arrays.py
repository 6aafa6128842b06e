"""Arrays on a GPU, whoever made them: read through their protocols, and given out through the same.

In:  __cuda_array_interface__ (torch, cupy, numba) or __dlpack__ (torch, cupy, jax)   -> DeviceView
Out: DeviceDepth, which has both.
Streams: __cuda_stream__, torch's .cuda_stream, cupy's .ptr, or an int                -> handle, an int

cuda.core's Buffer and StridedMemoryView were looked at and are not enough here: neither has
__cuda_array_interface__, neither makes a consumer's stream wait for the producer's, and cuda-python brings
cuda.core from 13 on only. Nothing here copies, and reading needs no cuda-python.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import ImageError, InferenceError, SizeError
from fiffdepth_rt.gpu import cuda

# DLDeviceType
_DL_CPU, _DL_CUDA, _DL_CUDA_MANAGED = 1, 2, 13
# DLDataTypeCode -> numpy's kind
_DL_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceView:
    """Memory of a GPU, as a protocol describes it.

    strides: bytes. stream: the handle of a stream whose work the values wait for; None if they are there.
    owner: kept alive as long as the view.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    read_only: bool = False
    stream: int | None = None
    owner: Any = None

    @property
    def pitch(self) -> int:
        """Bytes from one row to the next."""
        return self.strides[0]


def is_on_gpu(array: Any) -> bool:
    """Whether the array says that its memory is a GPU's."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) in (_DL_CUDA, _DL_CUDA_MANAGED)
    return False


def view(array: Any, *, stream: int) -> DeviceView:
    """An array on a GPU -> where its values are. They are there once `stream` has done its work so far.

    Raises ImageError where the array describes itself in a way that is not understood.
    """
    if hasattr(array, "__cuda_array_interface__"):
        found = from_cuda_array_interface(array.__cuda_array_interface__)
    else:
        found = from_dlpack(array.__dlpack__(stream=stream))
    return dataclasses.replace(found, owner=(array, found.owner))


def from_cuda_array_interface(interface: Mapping[str, Any]) -> DeviceView:
    """The protocol's dict -> DeviceView. Raises ImageError."""
    try:
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        address, read_only = interface["data"]
        strides, stream = interface.get("strides"), interface.get("stream")
        if interface.get("mask") is not None:
            raise ImageError("A GPU array with a mask is no photo. Fill what is masked, and pass the values.")
        return DeviceView(
            address=int(address),
            shape=shape,
            strides=packed_strides(shape, dtype.itemsize) if strides is None else tuple(map(int, strides)),
            dtype=dtype,
            read_only=bool(read_only),
            stream=None if stream is None else stream_handle(stream),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(
            f"The array's __cuda_array_interface__ is not understood ({type(error).__name__}: {error}). "
            "Update the library it comes from."
        ) from error


def from_dlpack(capsule: Any) -> DeviceView:
    """A "dltensor" capsule -> DeviceView, which keeps the capsule. Raises ImageError."""
    pointer = _capsule_pointer(capsule, b"dltensor")
    tensor = ctypes.cast(pointer, ctypes.POINTER(_ManagedTensor)).contents.tensor
    kind = _DL_KINDS.get(tensor.dtype.code)
    if kind is None or tensor.dtype.lanes != 1 or tensor.dtype.bits % 8:
        raise ImageError(
            f"A GPU array of DLPack type {tensor.dtype.code} with {tensor.dtype.bits} bits and "
            f"{tensor.dtype.lanes} lanes is no photo: pass uint8."
        )
    dtype = np.dtype(f"{kind}{tensor.dtype.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    return DeviceView(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=(
            tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
            if tensor.strides
            else packed_strides(shape, dtype.itemsize)
        ),
        dtype=dtype,
        owner=capsule,
    )


def packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes between neighbours along each axis of a C-contiguous array."""
    behind = itertools.accumulate((*shape[:0:-1],), lambda total, side: total * side, initial=itemsize)
    return tuple(behind)[::-1] if shape else ()


def stream_handle(stream: Any) -> int | None:
    """A caller's stream -> its handle; None for None. 0, CUDA's default stream, is called 1 here.

    Takes an int, an object with __cuda_stream__, torch's streams and cupy's. Raises InferenceError.
    """
    if stream is None:
        return None
    handle = stream
    if hasattr(stream, "__cuda_stream__"):
        answer = stream.__cuda_stream__
        version, handle = answer() if callable(answer) else answer
        if version != 0:
            raise InferenceError(f"{stream!r} speaks version {version} of __cuda_stream__; 0 is understood.")
    elif hasattr(stream, "cuda_stream"):
        handle = stream.cuda_stream
    elif hasattr(stream, "ptr"):
        handle = stream.ptr
    if isinstance(handle, bool) or not isinstance(handle, (int, np.integer)) or handle < 0:
        raise InferenceError(
            f"stream={stream!r} is no CUDA stream: pass a stream of torch or cupy, an object with "
            "__cuda_stream__, or the handle as an int."
        )
    return int(handle) or cuda.DEFAULT_STREAM


def check_photo(photo: DeviceView, grids: tuple[tuple[int, int], ...], color: str) -> tuple[int, int]:
    """A photo on a GPU -> the grid it is on already. grids: (height, width) that engines are here for.

    It is taken as it lies, without a copy through the host, so it must be uint8 H×W×3 RGB with H×W one of the
    grids; rows may be apart (a crop), pixels may not. Raises ImageError, SizeError.
    """
    if color != "rgb":
        raise ImageError(f"color={color!r} is for arrays on the host: reverse the channels on the GPU first.")
    if photo.dtype != np.uint8 or len(photo.shape) != 3 or photo.shape[2] != 3:
        shape = "×".join(map(str, photo.shape))
        raise ImageError(
            f"A photo on the GPU is uint8 height×width×3, not {photo.dtype} {shape}. Convert it there, such "
            "as floats 3×h×w in torch with (x * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()."
        )
    height, width, _ = photo.shape
    if (height, width) not in grids:
        there = ", ".join(f"{h}x{w}" for h, w in grids)
        raise SizeError(
            f"A photo on the GPU is taken as it is, and there is no engine for {height}x{width}; there is "
            f"one for {there}. Two ways: resize it on the GPU to one of these; or put the resizing into the "
            f"graph: python -m export.build_engines CHECKPOINT --camera {height}x{width}; fiffdepth build."
        )
    if photo.strides[1:] != (3, 1) or photo.pitch < 3 * width:
        raise ImageError(
            f"The pixels of the GPU array are not side by side (strides {photo.strides} bytes). Make it "
            "contiguous first: x.contiguous() in torch, cupy.ascontiguousarray(x)."
        )
    return height, width


def check_result(result: DeviceView, hw: tuple[int, int]) -> None:
    """Raises SizeError unless a depth map of h×w can be written there."""
    if (
        result.dtype != np.float32
        or result.shape != hw
        or result.strides != packed_strides(hw, 4)
        or result.read_only
    ):
        raise SizeError(
            f"out= is {result.dtype} {'×'.join(map(str, result.shape))} with strides {result.strides}; a "
            f"depth map goes into a writable, contiguous float32 array of {hw[0]}×{hw[1]} on the same GPU."
        )


class DeviceDepth:
    """A depth map on a GPU: float32 h×w, see Convention in depth.py. Give it to torch or cupy without a copy:

        torch.from_dlpack(d)      cupy.from_dlpack(d)      cupy.asarray(d)

    Those wait, on the GPU, until the values are there. The memory is its own, and free when nobody uses it.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, hw: tuple[int, int], *, gpu: int, stream: int) -> None:
        """stream: the handle of the one that will write it. Raises DeviceMemoryError."""
        self.shape = hw
        self.gpu = gpu
        self._stream = stream
        with cuda.on_gpu(gpu):
            self.written = cuda.Event()
            self.address = cuda.allocate(self.nbytes, f"a depth map of {hw[0]}×{hw[1]}")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None if self.written.done() else self._stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DL_CUDA, self.gpu

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule. stream: the consumer's, which waits for the values; -1 where nobody waits."""
        if stream != -1:
            with cuda.on_gpu(self.gpu):
                self.written.wait_in(stream or cuda.DEFAULT_STREAM)
        return to_dlpack(self.address, self.shape, self.dtype, self.__dlpack_device__(), owner=self)

    def to_host(self) -> npt.NDArray[np.float32]:
        """The values, copied to the host."""
        depth = np.empty(self.shape, dtype=self.dtype)
        with cuda.on_gpu(self.gpu):
            stream = cuda.Stream()
            try:
                self.written.wait_in(stream.handle)
                stream.copy_out(depth, self.address)
                stream.synchronize()
            finally:
                stream.close()
        return depth

    def __del__(self) -> None:
        if hasattr(self, "address"):  # else __init__ raised
            cuda.free(self.address)
            self.written.close()


# --- DLPack's structures, as dlpack.h has them ---


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


def to_dlpack(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], *, owner: Any
) -> Any:
    """C-contiguous memory -> a "dltensor" capsule. owner: kept alive until the consumer is done."""
    code = next(code for code, kind in _DL_KINDS.items() if kind == dtype.kind)
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


def _capsule_pointer(capsule: Any, name: bytes) -> int:
    if type(capsule).__name__ != "PyCapsule" or not _is_valid(id(capsule), name):
        raise ImageError("The array's __dlpack__ gave no DLPack tensor. Update the library it comes from.")
    return int(_get_pointer(id(capsule), name))

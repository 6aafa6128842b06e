"""Arrays on a GPU, whoever made them: read through their protocols, and given out through the same.

In:  __cuda_array_interface__ (torch, cupy, numba) or __dlpack__ (torch, cupy, jax)   -> DeviceView
Out: DeviceDepth, which has both.
Streams: __cuda_stream__, torch's .cuda_stream, cupy's .ptr, or an int                -> handle, an int

DLPack's structures are in dlpack.py. Nothing here copies, and reading needs no cuda-python.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.errors import ImageError, InferenceError, SizeError
from fiffdepth_rt.gpu import cuda, dlpack
from fiffdepth_rt.gpu.dlpack import packed_strides


class CudaArray(Protocol):
    """What torch, cupy and numba make."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


class DLPackArray(Protocol):
    """What torch, cupy and jax make."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


DeviceArray = CudaArray | DLPackArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceView:
    """Memory of a GPU, as a protocol describes it.

    strides: bytes. stream: the handle of the stream whose work has to be done before the values are there;
    None if they are there already. owner: kept alive as long as the view.
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
        return int(array.__dlpack_device__()[0]) in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    return False


def view(array: Any, *, stream: int) -> DeviceView:
    """An array on a GPU -> its memory. The values are there once `stream` has done its work so far.

    Raises ImageError where the array describes itself in a way that is not understood.
    """
    if hasattr(array, "__cuda_array_interface__"):
        found = from_cuda_array_interface(array.__cuda_array_interface__)
    else:
        found = from_dlpack(array.__dlpack__(stream=stream))
    return dataclasses.replace(found, owner=(array, found.owner))


def from_cuda_array_interface(interface: Mapping[str, Any]) -> DeviceView:
    """The protocol's dict -> DeviceView. Raises ImageError."""
    if interface.get("mask") is not None:
        raise ImageError("A GPU array with a mask is no photo. Fill what is masked, and pass the values.")
    try:
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        address, read_only = interface["data"]
        strides, stream = interface.get("strides"), interface.get("stream")
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
    tensor = dlpack.read(capsule)
    return DeviceView(
        address=tensor.address,
        shape=tensor.shape,
        strides=tensor.strides,
        dtype=tensor.dtype,
        owner=capsule,
    )


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
            f"cuda_stream={stream!r} is no CUDA stream: pass a stream of torch or cupy, an object with "
            "__cuda_stream__, or the handle as an int."
        )
    return int(handle) or cuda.DEFAULT_STREAM


def check_photo(photo: DeviceView, grids: tuple[tuple[int, int], ...], color: str) -> tuple[int, int]:
    """A photo on a GPU -> its (height, width), which must be one of `grids`: those that engines are here for.

    The photo is neither resized nor copied through the host, so it must be uint8 height×width×3 RGB. Its rows
    may be apart (a crop), its pixels may not. Raises ImageError, SizeError.
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
    """Raises SizeError unless a depth map of (height, width) `hw` can be written to `result`."""
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

    Those libraries wait, on the GPU, until the values are there. The memory belongs to this object, and is
    given back when neither the object nor a library uses it.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, hw: tuple[int, int], *, gpu: int, stream: int) -> None:
        """stream: the handle of the stream that will write the values. Raises DeviceMemoryError."""
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
        return dlpack.CUDA, self.gpu

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule. stream: the consumer's, which waits for the values; -1 for no wait."""
        if stream != -1:
            with cuda.on_gpu(self.gpu):
                self.written.wait_in(stream or cuda.DEFAULT_STREAM)
        return dlpack.make(self.address, self.shape, self.dtype, self.__dlpack_device__(), owner=self)

    def to_host(self) -> npt.NDArray[np.float32]:
        """The values, copied to the host."""
        depth = np.empty(self.shape, dtype=self.dtype)
        with cuda.on_gpu(self.gpu):
            stream = cuda.Stream()
            try:
                self.written.wait_in(stream.handle)
                stream.copy_d2h(depth, self.address)
                stream.synchronize()
            finally:
                stream.close()
        return depth

    def __del__(self) -> None:
        if hasattr(self, "address"):  # else __init__ raised
            cuda.free(self.address)
            self.written.close()

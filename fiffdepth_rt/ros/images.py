"""sensor_msgs/Image, CompressedImage -> photo; metres, relative depth -> sensor_msgs/Image."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import ImageError, MessageError, shortened
from fiffdepth_rt.image import Pixels, as_rgb, check_extent
from fiffdepth_rt.photos import jpeg
from fiffdepth_rt.ros.messages import MessageTypes, Octets, octets_of

Metres = npt.NDArray[np.float32]
DepthEncoding = Literal["32FC1", "16UC1"]

MILLIMETRES = 1000
"""16UC1 holds millimetres (REP-118)."""


def to_photo(message: Any) -> Pixels:
    """sensor_msgs/Image or CompressedImage -> uint8 H×W×3 RGB; a copy of our own.

    Image: grey, colour, Bayer and YUV 4:2:2 of 8 bits, grey, colour and Bayer of 16 bits in either byte order
    (divided by 257); padding at the end of rows (`step`) is left out. 8UC3 and 8UC4 are BGR and BGRA, as
    OpenCV has them. CompressedImage: JPEG, PNG and WebP, by their first bytes; no orientation is applied,
    since a camera_info counts pixels as they lie in the message.

    Raises MessageError: an encoding that is no photo (a depth image too) or is not read here, fewer bytes
    than the message's height and step say, a damaged picture, more than MAX_PIXELS or a side below MIN_SIDE.
    """
    try:
        return _decompressed(message) if hasattr(message, "format") else _photo(message)
    except MessageError:
        raise
    except ImageError as error:
        raise MessageError(f"This image cannot be used. {error}") from error


def to_metres(message: Any) -> Metres:
    """Depth image, 32FC1 in metres or 16UC1 in millimetres -> float32 H×W in metres; NaN where 16UC1 says 0.

    Values of 32FC1 stay as they are: NaN is unknown, -Inf too near and Inf too far (REP-117).
    Raises MessageError: another encoding, fewer bytes than its height and step say.
    """
    if message.encoding == "32FC1":
        values = _samples(message, np.dtype(np.float32), 1)[:, :, 0]
        return np.array(values, dtype=np.float32)
    if message.encoding in ("16UC1", "mono16"):
        values = _samples(message, np.dtype(np.uint16), 1)[:, :, 0]
        return np.where(values == 0, np.nan, values / MILLIMETRES).astype(np.float32)
    raise MessageError(
        f"An image of encoding {shortened(message.encoding, 40)} holds no depth: 32FC1 (metres) and 16UC1 "
        "(millimetres) do."
    )


def metric_image(
    depth_m: Metres, *, header: Any, types: MessageTypes, encoding: DepthEncoding = "32FC1"
) -> Any:
    """Depth in metres -> sensor_msgs/Image, little-endian.

    depth_m: float32 H×W, metres along the optical axis; NaN where it is not known.
    header: the photo's, which is put into the message as it is: the same stamp, the same optical frame.
    encoding: "32FC1", metres, NaN kept; or "16UC1", round(1000 × metres) with 0 for NaN and for what 16 bits
        do not hold (below 0.5 mm, beyond 65.5 m).

    Raises MessageError for a DepthMap: its values are not metres.
    """
    if isinstance(depth_m, DepthMap):
        raise MessageError(
            "A DepthMap is relative, and this message holds metres: align it first (DepthMap.align), or "
            "publish it as relative_image, on a topic that ends in relative_depth."
        )
    if encoding == "32FC1":
        return _image(depth_m.astype("<f4"), encoding, header, types)
    millimetres = np.rint(np.nan_to_num(depth_m * MILLIMETRES, nan=0.0, posinf=0.0, neginf=0.0))
    millimetres[(millimetres < 0) | (millimetres > np.iinfo(np.uint16).max)] = 0
    return _image(millimetres.astype("<u2"), encoding, header, types)


def relative_image(depth_map: DepthMap, *, header: Any, types: MessageTypes) -> Any:
    """Depth map -> sensor_msgs/Image, 32FC1: its values in [0, 1], in the space that the model speaks.

    For a topic that ends in `relative_depth`, which no program takes for metres. header: the photo's.
    """
    return _image(depth_map.values.astype("<f4"), "32FC1", header, types)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Encoding:
    """dtype and channels of a pixel, and OpenCV's conversion to RGB; None where none is needed."""

    dtype: type[np.uint8] | type[np.uint16]
    channels: int
    to_rgb: int | None


def _each(depth: int, dtype: type[np.uint8] | type[np.uint16]) -> dict[str, _Encoding]:
    def encoding(channels: int, to_rgb: int | None) -> _Encoding:
        return _Encoding(dtype=dtype, channels=channels, to_rgb=to_rgb)

    return {
        f"mono{depth}": encoding(1, cv2.COLOR_GRAY2RGB),
        f"rgb{depth}": encoding(3, None),
        f"bgr{depth}": encoding(3, cv2.COLOR_BGR2RGB),
        f"rgba{depth}": encoding(4, cv2.COLOR_RGBA2RGB),
        f"bgra{depth}": encoding(4, cv2.COLOR_BGRA2RGB),
        # ROS names the first pixels of two rows; OpenCV the second row from its second pixel on.
        f"bayer_rggb{depth}": encoding(1, cv2.COLOR_BayerBG2RGB),
        f"bayer_bggr{depth}": encoding(1, cv2.COLOR_BayerRG2RGB),
        f"bayer_gbrg{depth}": encoding(1, cv2.COLOR_BayerGR2RGB),
        f"bayer_grbg{depth}": encoding(1, cv2.COLOR_BayerGB2RGB),
    }


_EIGHT = _each(8, np.uint8)
_UYVY = _Encoding(dtype=np.uint8, channels=2, to_rgb=cv2.COLOR_YUV2RGB_UYVY)
_YUYV = _Encoding(dtype=np.uint8, channels=2, to_rgb=cv2.COLOR_YUV2RGB_YUY2)
ENCODINGS: Mapping[str, _Encoding] = {
    **_EIGHT,
    **_each(16, np.uint16),
    "8UC1": _EIGHT["mono8"],
    "8UC3": _EIGHT["bgr8"],
    "8UC4": _EIGHT["bgra8"],
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
}
"""ROS's names for the encodings that are read as a photo."""


def _photo(message: Any) -> Pixels:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise MessageError(
            f"An image of encoding {shortened(message.encoding, 40)!r} is no photo that is read here "
            f"({', '.join(ENCODINGS)})"
            + (
                ": it is a depth or infrared image; name the topic of a colour camera."
                if message.encoding in ("16UC1", "32FC1")
                else ": convert it, such as by image_proc or image_transport."
            )
        )
    check_extent(int(message.height), int(message.width))
    samples = _samples(message, np.dtype(encoding.dtype), encoding.channels)
    if encoding.channels == 2 and message.width % 2:
        raise MessageError(f"YUV 4:2:2 holds pairs of pixels, and this image is {message.width} px wide.")
    pixels = samples[:, :, 0] if encoding.channels == 1 else samples
    return as_rgb(_to_rgb(np.ascontiguousarray(pixels), encoding))


def _to_rgb(pixels: npt.NDArray[Any], encoding: _Encoding) -> npt.NDArray[Any]:
    return pixels.copy() if encoding.to_rgb is None else np.asarray(cv2.cvtColor(pixels, encoding.to_rgb))


def _samples(message: Any, dtype: np.dtype[Any], channels: int) -> npt.NDArray[Any]:
    """The pixels of a message -> H×W×channels in this machine's byte order; may be the message's memory."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * channels * dtype.itemsize
    octets = octets_of(message)
    if not height or not width or step < row or octets.size < step * (height - 1) + row:
        raise MessageError(
            f"{height}×{width} px in {shortened(message.encoding, 40)} need rows of {row} bytes, and this "
            f"image says step {step} and holds {octets.size} bytes: it was cut off, or its driver is wrong."
        )
    padded = np.lib.stride_tricks.as_strided(octets, (height, row), (step, 1), writeable=False)
    in_message = dtype.newbyteorder(">" if message.is_bigendian else "<")
    samples = np.ascontiguousarray(padded).view(in_message).reshape(height, width, channels)
    return np.asarray(samples, dtype=dtype)


_PICTURES = ("JPEG", "PNG", "WEBP")


def _decompressed(message: Any) -> Pixels:
    """Header before pixels: what claims to be a picture may claim any size."""
    from PIL import Image

    if "compressedDepth" in message.format:
        raise MessageError(
            "A compressedDepth image holds a depth camera's distances, not a photo: name the topic of a "
            "colour camera."
        )
    data = octets_of(message).tobytes()
    try:
        if data.startswith(b"\xff\xd8\xff"):
            jpeg.check_scans(data)
        with Image.open(io.BytesIO(data), formats=_PICTURES) as picture:
            check_extent(picture.height, picture.width)
            picture.load()
            if picture.mode == "L" and (bayer := ENCODINGS.get(message.format.partition(";")[0])) is not None:
                return as_rgb(_to_rgb(np.asarray(picture), bayer))
            return as_rgb(picture)
    except ImageError:
        raise
    except Exception as error:  # decoders raise a dozen different kinds on damaged pictures
        raise MessageError(
            f"A compressed image of format {shortened(message.format, 40)!r} is damaged, cut off, or none of "
            f"{', '.join(_PICTURES)} ({shortened(error, 120)})."
        ) from error


def _image(values: npt.NDArray[Any], encoding: str, header: Any, types: MessageTypes) -> Any:
    rows: Octets = np.ascontiguousarray(values).view(np.uint8)
    return types.image(
        header=header,
        height=int(values.shape[0]),
        width=int(values.shape[1]),
        encoding=encoding,
        is_bigendian=0,
        step=int(rows.shape[1]),
        data=types.octets(rows.reshape(-1)),
    )

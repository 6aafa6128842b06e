"""Promises of image messages: every encoding is seen in its colours, and only metres are called depth."""

from __future__ import annotations

import array
import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from fiffdepth_rt.depth_map import DepthMap
from fiffdepth_rt.errors import MessageError
from fiffdepth_rt.ros.images import ENCODINGS, metric_image, relative_image, to_metres, to_photo
from tests.support.ros.messages import RCLPY_LIKE, TYPES, compressed, header, image

ORANGE = (240, 120, 40)  # of one colour: what demosaicing and chroma at half the width keep


def orange(height: int = 20, width: int = 24) -> np.ndarray:
    return np.full((height, width, 3), ORANGE, np.uint8)


def colors(encoding: str) -> np.ndarray:
    """The orange picture in an encoding, written down by hand."""
    rgb = orange()
    deep = encoding.endswith("16")
    kind = encoding.removesuffix("16").removesuffix("8")
    if kind.startswith("bayer_"):
        mosaic = np.empty(rgb.shape[:2], np.uint8)
        for place, letter in enumerate(kind.removeprefix("bayer_")):
            mosaic[place // 2 :: 2, place % 2 :: 2] = ORANGE["rgb".index(letter)]
        pixels = mosaic
    elif kind in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        r, g, b = ORANGE  # ITU-R BT.601, studio range
        y, u, v = 16 + (66 * r + 129 * g + 25 * b) / 256, 128 + (-38 * r - 74 * g + 112 * b) / 256, 0.0
        v = 128 + (112 * r - 94 * g - 18 * b) / 256
        pair = (u, y, v, y) if kind in ("yuv422", "uyvy") else (y, u, y, v)
        pixels = np.tile(np.rint(pair).astype(np.uint8).reshape(2, 2), (20, 12, 1)).reshape(20, 24, 2)
    elif kind == "mono" or encoding == "8UC1":
        pixels = np.full(rgb.shape[:2], 120, np.uint8)
    else:
        order = {"8UC3": "bgr", "8UC4": "bgra"}.get(encoding, kind)
        pixels = np.stack(
            [np.full(rgb.shape[:2], (*ORANGE, 9)["rgba".index(c)], np.uint8) for c in order], -1
        )
    return pixels.astype(np.uint16) * 257 if deep else pixels


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_seen_in_its_colours(encoding: str) -> None:
    expected = np.full_like(orange(), 120) if encoding in ("mono8", "mono16", "8UC1") else orange()
    photo = to_photo(image(colors(encoding), encoding, padding=5))
    assert photo.dtype == np.uint8
    np.testing.assert_allclose(
        photo.astype(int), expected, atol=2 if "uy" in encoding or "yuv" in encoding else 0
    )


def test_big_endian_pixels_are_those_of_little_endian_ones() -> None:
    ramp = np.arange(20 * 24 * 3, dtype=np.uint16).reshape(20, 24, 3) * 40
    np.testing.assert_array_equal(
        to_photo(image(ramp, "rgb16", big=True)), to_photo(image(ramp, "rgb16", padding=3))
    )
    depth = np.arange(1, 481, dtype=np.float32).reshape(20, 24) / 7
    np.testing.assert_array_equal(to_metres(image(depth, "32FC1", big=True)), depth)


def test_rows_are_read_by_their_step_and_the_photo_is_a_copy() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (17, 23, 3), dtype=np.uint8)
    message = image(pixels, "rgb8", padding=11)
    photo = to_photo(message)
    message.data[:] = 0
    np.testing.assert_array_equal(photo, pixels)


def test_data_of_rclpy_is_read_as_that_of_rosbags() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (17, 23, 3), dtype=np.uint8)
    message = image(pixels, "bgr8")
    message.data = array.array("B", message.data.tobytes())
    np.testing.assert_array_equal(to_photo(message), pixels[:, :, ::-1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_compressed_images_are_read_by_their_first_bytes(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(orange()).save(buffer, kind)
    photo = to_photo(compressed(buffer.getvalue(), "bgr8; whatever compressed bgr8"))
    np.testing.assert_allclose(photo.astype(int), orange(), atol=4)


def test_a_compressed_mosaic_is_demosaiced() -> None:
    buffer = io.BytesIO()
    Image.fromarray(colors("bayer_grbg8")).save(buffer, "PNG")
    np.testing.assert_array_equal(
        to_photo(compressed(buffer.getvalue(), "bayer_grbg8; png compressed ")), orange()
    )


def test_no_orientation_is_applied_since_camera_info_counts_the_pixels_as_they_lie() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(orange()).save(buffer, "JPEG", exif=exif)
    assert to_photo(compressed(buffer.getvalue(), "jpeg")).shape == (20, 24, 3)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (image(np.zeros((20, 24), np.uint16), "16UC1"), "depth or infrared"),
        (image(np.zeros((20, 24), np.float32), "32FC1"), "depth or infrared"),
        (image(orange(), "nv12"), "'nv12' is no photo that is read here"),
        (image(orange(20, 23)[:, :, :2], "uyvy"), "holds pairs of pixels"),
        (image(orange(8, 24), "rgb8"), "at least 16 px"),
        (compressed(b"\xff\xd8\xff\xe0 and then nothing", "jpeg"), "damaged, cut off"),
        (compressed(b"GIF89a" + bytes(50), "gif"), "none of JPEG, PNG, WEBP"),
        (compressed(b"", "png"), "damaged, cut off"),
        (compressed(b"x" * 30, "16UC1; compressedDepth png"), "holds a depth camera's distances"),
    ],
)
def test_what_is_no_photo_is_refused_with_the_reason(message: object, said: str) -> None:
    with pytest.raises(MessageError, match=said):
        to_photo(message)


@pytest.mark.parametrize("field", ["height", "width", "step", "data"])
def test_a_message_that_claims_more_than_it_holds_is_refused(field: str) -> None:
    message = image(orange(), "rgb8")
    value = {"height": 10_000, "width": 25, "step": 71, "data": message.data[:-1]}[field]
    setattr(message, field, value)
    with pytest.raises(MessageError, match="cut off, or its driver is wrong"):
        to_photo(message)


def test_a_picture_that_claims_a_hundred_million_pixels_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(MessageError, match="damaged"):
        to_photo(compressed(bytes(data), "png"))


def test_metres_are_32fc1_with_nan_and_the_photos_header() -> None:
    depth_m = np.array([[1.5, np.nan], [0.25, 70.0]], np.float32)
    head = header()
    message = metric_image(depth_m, header=head, types=TYPES)
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", 2, 2, 8)
    assert message.header is head
    assert message.is_bigendian == 0
    np.testing.assert_array_equal(to_metres(message), depth_m)


def test_millimetres_are_16uc1_with_zero_for_what_is_not_known_or_not_held() -> None:
    depth_m = np.array([[1.5, np.nan], [70.0, np.inf], [-1.0, 65.535], [0.0004, 0.0006]], np.float32)
    message = metric_image(depth_m, header=header(), types=TYPES, encoding="16UC1")
    assert message.data.view("<u2").tolist() == [1500, 0, 0, 0, 0, 65535, 0, 1]
    known = np.array([[1.5, np.nan], [np.nan, np.nan], [np.nan, 65.535], [np.nan, 0.001]], np.float32)
    np.testing.assert_allclose(to_metres(message), known)


def test_a_relative_map_is_never_written_as_metres() -> None:
    relative = DepthMap(values=np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24), space="depth")
    with pytest.raises(MessageError, match="align it first"):
        metric_image(relative, header=header(), types=TYPES)  # type: ignore[arg-type]
    message = relative_image(relative, header=header(), types=TYPES)
    np.testing.assert_array_equal(message.data.view("<f4").reshape(20, 24), relative.values)


def test_classes_that_check_their_fields_as_rclpy_does_are_filled() -> None:
    depth_m = np.ones((3, 4), np.float32)
    message = metric_image(depth_m, header=object(), types=RCLPY_LIKE)
    np.testing.assert_array_equal(to_metres(message), depth_m)


def test_a_colour_image_holds_no_depth() -> None:
    with pytest.raises(MessageError, match="holds no depth"):
        to_metres(image(orange(), "rgb8"))


def test_demosaicing_by_opencv_means_what_ros_means() -> None:
    # A red corner pixel alone: rggb begins with red.
    mosaic = np.zeros((20, 24), np.uint8)
    mosaic[0::2, 0::2] = 200
    photo = cv2.cvtColor(mosaic, ENCODINGS["bayer_rggb8"].to_rgb)
    assert photo[5:-5, 5:-5].reshape(-1, 3).max(axis=0).tolist() == [200, 0, 0]

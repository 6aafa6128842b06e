"""Promises of the way onto the grid and back."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.image import MAX_PIXELS, as_rgb, fit, grid_for, to_grid, to_photo
from tests.support.paths import ROOT

RGB = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]

sides = st.integers(16, 100_000)
grid_sides = st.integers(1, 32).map(lambda n: 64 * n)


# --- as_rgb: what a photo may be ---


def test_rgb_bytes_stay_as_they_are() -> None:
    np.testing.assert_array_equal(as_rgb(RGB), RGB)


def test_bgr_is_turned_round() -> None:
    np.testing.assert_array_equal(as_rgb(RGB, color="bgr"), RGB[:, :, ::-1])


def test_alpha_is_dropped_and_the_color_stays() -> None:
    alpha = np.dstack([RGB, np.zeros((40, 50), dtype=np.uint8)])
    np.testing.assert_array_equal(as_rgb(alpha), RGB)
    np.testing.assert_array_equal(as_rgb(alpha, color="bgr"), RGB[:, :, ::-1])


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_grey_becomes_three_equal_channels(color: Any) -> None:
    np.testing.assert_array_equal(as_rgb(GREY, color=color), np.dstack([GREY] * 3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_become_eight_by_rounding(order: str) -> None:
    deep = np.arange(65536, dtype=f"{order}u2").reshape(256, 256)
    expected = np.rint(np.arange(65536) / 257).reshape(256, 256)
    np.testing.assert_array_equal(as_rgb(deep)[:, :, 1], expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_in_0_1_become_the_bytes_they_came_from(dtype: Any) -> None:
    np.testing.assert_array_equal(as_rgb((RGB / 255).astype(dtype)), RGB)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
def test_floats_outside_0_1_are_refused(value: float) -> None:
    pixels = np.zeros((32, 32, 3), dtype=np.float32)
    pixels[5, 5, 1] = value
    with pytest.raises(ImageError, match=r"in \[0, 1\]"):
        as_rgb(pixels)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *((dtype, -1) for dtype in (np.int8, np.int16, np.int32, np.int64)),
        *((dtype, 256) for dtype in (np.int16, np.int32, np.uint32, np.uint64)),
        *((dtype, 0) for dtype in (bool, np.complex64, object, "U1", "M8[s]")),
    ],
)
def test_other_dtypes_are_refused_with_those_that_work(dtype: Any, value: int) -> None:
    with pytest.raises(ImageError, match="uint8, uint16, or floats"):
        as_rgb(np.full((32, 32, 3), value).astype(dtype))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_whole_numbers_of_0_to_255_are_taken_for_what_they_are(dtype: Any) -> None:
    np.testing.assert_array_equal(as_rgb(RGB.astype(dtype)), RGB)
    np.testing.assert_array_equal(as_rgb(RGB.tolist()), RGB)


def test_one_channel_is_grey() -> None:
    np.testing.assert_array_equal(as_rgb(RGB[:, :, :1]), as_rgb(RGB[:, :, 0]))


def test_none_is_what_opencv_gives_for_a_file_that_it_cannot_read() -> None:
    with pytest.raises(ImageError, match=r"cv2\.imread gives .* Pass the file's path"):
        as_rgb(None)


@pytest.mark.parametrize("shape", [(), (32,), (32, 32, 2), (32, 32, 5), (3, 32, 32), (2, 32, 32, 3)])
def test_other_shapes_are_refused_with_those_that_work(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="height×width×3"):
        as_rgb(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 32, 3), (32, 0), (15, 32, 3), (32, 15), (1, 100_000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_photos_below_16_px_are_refused(shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(ImageError, match="at least 16 px"):
        as_rgb(np.zeros(shape, dtype=dtype))


def test_photos_beyond_the_pixel_limit_are_refused() -> None:
    huge = np.broadcast_to(np.uint8(7), (MAX_PIXELS // 16 + 1, 16, 3))  # takes one byte of memory
    with pytest.raises(ImageError, match="at most 100 million pixels"):
        as_rgb(huge)


@pytest.mark.parametrize("thing", ["photo.jpg", b"\xff\xd8", 3, np.uint8(3), memoryview(b"abc")])
def test_what_is_no_image_is_refused_by_its_kind(thing: Any) -> None:
    with pytest.raises(ImageError, match=type(thing).__name__):
        as_rgb(thing)


def test_an_unknown_color_order_is_refused() -> None:
    with pytest.raises(ImageError, match="'rgb', or 'bgr'"):
        as_rgb(RGB, color="yuv")  # type: ignore[arg-type]


@given(
    channels=st.sampled_from([(), (3,), (4,)]),
    steps=st.tuples(st.sampled_from([-3, -1, 1, 2]), st.sampled_from([-2, 1, 3])),
)
def test_strides_change_nothing(channels: tuple[int, ...], steps: tuple[int, int]) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (60, 66, *channels), dtype=np.uint8)
    view = whole[:: steps[0], :: steps[1]]
    view.flags.writeable = False
    result = as_rgb(view)
    np.testing.assert_array_equal(result, as_rgb(view.copy()))
    assert result.flags.c_contiguous


# --- PIL images ---


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_pil_images_of_every_mode_are_taken(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(as_rgb(image), expected)


def test_deep_pil_images_are_scaled_not_clipped() -> None:
    deep = (GREY.astype(np.uint16) * 257).astype(np.uint16)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(deep))[:, :, 0], GREY)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(deep.astype(np.int32)))[:, :, 0], GREY)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(GREY.astype(np.float32) / 255))[:, :, 0], GREY)


def test_a_pil_image_that_breaks_off_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    with Image.open(io.BytesIO(file.getvalue()[:900])) as image, pytest.raises(ImageError, match="decoded"):
        as_rgb(image)


def test_a_pil_bomb_is_refused_before_it_is_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (10_100, 10_000)).save(file, "PNG")
    code = (
        "import io, resource, sys, warnings; from PIL import Image; from fiffdepth_rt.image import "
        "as_rgb\nwarnings.simplefilter('ignore'); Image.MAX_IMAGE_PIXELS = None\nimage = "
        "Image.open(io.BytesIO(sys.stdin.buffer.read()))\nbefore = "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\ntry: as_rgb(image)\nexcept ValueError as "
        "error: print(error)\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], input=file.getvalue(), capture_output=True, check=True
    )
    said = result.stdout.decode().splitlines()
    assert "too large" in said[0]
    assert said[1] == "True"


# --- grid and fit: where a photo lies ---


@given(height=sides, width=sides, size=st.integers(16, 2048), multiple=st.sampled_from([8, 64]))
def test_every_grid_holds_the_size_in_multiples(height: int, width: int, size: int, multiple: int) -> None:
    grid = grid_for((height, width), size=size, multiple=multiple)
    assert all(side % multiple == 0 and side >= multiple for side in grid)
    assert size <= max(grid) < size + multiple
    assert grid_for((width, height), size=size, multiple=multiple) == grid[::-1]


@pytest.mark.parametrize(
    "photo_hw, size, grid",
    [
        ((480, 640), 256, (192, 256)),
        ((640, 480), 256, (256, 192)),
        ((480, 640), 512, (384, 512)),
        ((1080, 1920), 512, (320, 512)),
        ((100, 100), 100, (128, 128)),
        ((16, 5000), 256, (64, 256)),
    ],
)
def test_grids_by_value(photo_hw: tuple[int, int], size: int, grid: tuple[int, int]) -> None:
    assert grid_for(photo_hw, size=size) == grid


@given(photo_hw=st.tuples(sides, sides), grid_hw=st.tuples(grid_sides, grid_sides))
def test_every_fit_keeps_the_aspect_and_is_as_large_as_it_can_be(
    photo_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> None:
    fitted = fit(photo_hw, grid_hw)
    height, width = fitted.content_hw
    assert height == grid_hw[0] or width == grid_hw[1]
    scale = min(grid_hw[0] / photo_hw[0], grid_hw[1] / photo_hw[1])
    assert abs(height - photo_hw[0] * scale) < 1
    assert abs(width - photo_hw[1] * scale) < 1
    assert 0 <= fitted.top <= grid_hw[0] - height - fitted.top <= fitted.top + 1
    assert 0 <= fitted.left <= grid_hw[1] - width - fitted.left <= fitted.left + 1


# --- to_grid and to_photo ---


def test_a_depth_map_taken_back_is_the_caller_s_own_and_the_grid_s_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    for photo_hw in ((192, 256), (100, 256), (300, 400), (50, 60)):
        grid = rng.random((192, 256), dtype=np.float32)
        before = grid.copy()
        depth = to_photo(grid, fit(photo_hw, (192, 256)))
        depth[:] = -1
        np.testing.assert_array_equal(grid, before)
        assert depth.shape == photo_hw and depth.flags.c_contiguous


def test_a_photo_of_the_grids_size_is_not_touched() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    fitted = fit((64, 128), (64, 128))
    np.testing.assert_array_equal(to_grid(photo, fitted), photo)
    depth = np.random.default_rng(0).random((64, 128), dtype=np.float32)
    np.testing.assert_array_equal(to_photo(depth, fitted), depth)


def test_shrinking_takes_the_mean_of_what_it_covers() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    image = to_grid(photo, fit((256, 256), (64, 64)))
    means = photo.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(image - means).max() <= 0.5 + 1e-6


def test_the_padding_repeats_the_border() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    image = to_grid(photo, fit((32, 64), (64, 64)))
    np.testing.assert_array_equal(image[16:48], photo)
    np.testing.assert_array_equal(image[:16], np.broadcast_to(photo[0], (16, 64, 3)))
    np.testing.assert_array_equal(image[48:], np.broadcast_to(photo[-1], (16, 64, 3)))


def test_the_way_back_cuts_the_padding_off() -> None:
    depth = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    np.testing.assert_array_equal(to_photo(depth, fit((32, 64), (64, 64))), depth[16:48])


@pytest.mark.parametrize("photo_hw", [(100, 37), (37, 100), (300, 200), (16, 700)])
def test_there_and_back_moves_nothing(photo_hw: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0 : photo_hw[0], 0 : photo_hw[1]]
    ramp = (rows / photo_hw[0] * 150 + columns / photo_hw[1] * 100).astype(np.uint8)
    fitted = fit(photo_hw, grid_for(photo_hw, size=512))
    back = to_photo(to_grid(as_rgb(ramp), fitted)[:, :, 0].astype(np.float32) / 255, fitted)
    assert back.shape == photo_hw
    assert np.abs(back * 255 - ramp).max() < 6
    assert np.abs(back * 255 - ramp).mean() < 0.7


@given(
    photo_hw=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    grid_hw=st.tuples(st.sampled_from([64, 128, 192]), st.sampled_from([64, 128, 192])),
    level=st.integers(0, 255),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_every_way_back_stays_in_0_1_and_keeps_flat_things_flat(
    photo_hw: tuple[int, int], grid_hw: tuple[int, int], level: int, seed: int
) -> None:
    fitted = fit(photo_hw, grid_hw)
    flat = to_grid(np.full((*photo_hw, 3), level, dtype=np.uint8), fitted)
    assert (flat == level).all()
    extremes = np.random.default_rng(seed).integers(0, 2, grid_hw).astype(np.float32)
    depth = to_photo(extremes, fitted)
    assert (depth.shape, depth.dtype) == (photo_hw, np.float32)
    assert depth.min() >= 0
    assert depth.max() <= 1


def test_a_list_that_is_no_photo_is_refused() -> None:
    for rows in ([[0, 1], [0]], [["a"] * 20] * 20, []):
        with pytest.raises(ImageError):
            as_rgb(rows)


def test_a_small_photo_is_enlarged_by_cubics_and_its_depth_linearly() -> None:
    """Beside an edge a cubic overshoots, which keeps a photo crisp, and would leave a depth map's range."""
    photo = np.full((32, 32, 3), 60, np.uint8)
    photo[:, 16:] = 180
    enlarged = to_grid(photo, fit((32, 32), (128, 128)))
    assert enlarged.min() < 60 - 5 and enlarged.max() > 180 + 5
    depth = photo[:, :, 0].astype(np.float32) / 255
    back = to_photo(depth, fit((128, 128), (32, 32)))
    assert back.shape == (128, 128)
    assert (back.min(), back.max()) == pytest.approx((60 / 255, 180 / 255), abs=1e-6)


def test_area_means_are_near_the_authors_bilinear_pixels() -> None:
    """docs/deploy.md: 0.4 grey levels apart in the mean on this photo."""
    photo = np.asarray(Image.open(ROOT / "examples" / "coffee.jpg").convert("RGB"))
    fitted = fit(photo.shape[:2], grid_for(photo.shape[:2], size=512))
    (height, width), top, left = fitted.content_hw, fitted.top, fitted.left
    ours = to_grid(photo, fitted)[top : top + height, left : left + width].astype(int)
    theirs = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).mean() == pytest.approx(0.4, abs=0.05)

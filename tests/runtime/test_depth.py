"""Promises of the journey: photo in, depth map out."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import STAGES, read_manifest, write_manifest
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    ImageError,
    InferenceError,
    SizeError,
    StageMismatchError,
)
from fiffdepth_rt.image import fit, grid_for, to_grid, to_photo
from tests.support.toy import grids_seen, toy_depth, write_toy_engine_dir


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- what comes out ---


def test_the_depth_map_is_what_the_plain_twin_computes(depth: fiffdepth_rt.Depth) -> None:
    image = noise(192, 256, 3)
    np.testing.assert_allclose(depth.infer(image), toy_depth(image[None])[0], atol=1e-6)


def test_a_photo_of_any_size_goes_through_the_grid_and_back(depth: fiffdepth_rt.Depth) -> None:
    image = noise(333, 217, 3)
    fitted = fit((333, 217), grid_for((333, 217), size=256))
    expected = to_photo(toy_depth(to_grid(image, fitted)[None])[0], fitted)
    np.testing.assert_allclose(depth.infer(image), expected, atol=1e-6)


def test_a_portrait_photo_comes_back_portrait(depth: fiffdepth_rt.Depth, photo: np.ndarray) -> None:
    depth_map = depth.infer(photo)
    assert depth_map.photo_hw == (320, 200)
    d = depth_map.values
    assert (d.shape, d.dtype) == ((320, 200), np.float32)
    assert d[80, 55] > d[240, 150] > d[300, 20]  # bright, grey, dark, each where the photo has it


def test_a_landscape_photo_comes_back_landscape(depth: fiffdepth_rt.Depth, photo: np.ndarray) -> None:
    d = depth.infer(photo.transpose(1, 0, 2)).values
    assert d.shape == (200, 320)
    assert d[55, 80] > d[150, 240] > d[20, 300]


def test_the_backend_gives_the_grids_values_that_infer_brings_back(depth: fiffdepth_rt.Depth) -> None:
    image = noise(100, 300, 3)
    fitted = fit((100, 300), depth.grid_for((100, 300)))
    on_grid = depth.backend.run(to_grid(image, fitted)[None])
    assert on_grid.shape == (1, 128, 256)
    np.testing.assert_array_equal(to_photo(on_grid[0], fitted), depth.infer(image))


@pytest.mark.parametrize(
    "size, grid", [(16, (64, 64)), (64, (64, 64)), (65, (128, 128)), (1024, (1024, 1024))]
)
def test_the_processing_size_is_the_callers_choice(
    depth: fiffdepth_rt.Depth, size: int, grid: tuple[int, int]
) -> None:
    assert grids_seen(depth, lambda: depth.infer(noise(80, 80, 3), size=size)) == [grid]


def test_the_size_given_at_the_door_is_the_default_of_every_call(toy_dir: Path) -> None:
    with fiffdepth_rt.Depth(toy_dir, size=384) as opened:
        assert opened.size == 384
        assert grids_seen(opened, lambda: opened.infer(noise(90, 120, 3))) == [(320, 384)]


def test_the_same_photo_twice_gives_the_same_bits(depth: fiffdepth_rt.Depth, toy_dir: Path) -> None:
    image = noise(211, 307, 3)
    first = depth.infer(image).values
    assert first.tobytes() == depth.infer(image).values.tobytes()
    with fiffdepth_rt.Depth(toy_dir, threads=1) as another:
        assert first.tobytes() == another.infer(image).values.tobytes()


def test_the_photo_is_left_as_it_was(depth: fiffdepth_rt.Depth) -> None:
    image = noise(64, 64, 3)
    before = image.copy()
    depth.infer(image)
    np.testing.assert_array_equal(image, before)


# --- what may go in ---


def test_a_photo_by_its_path_comes_out_as_a_viewer_shows_it(
    depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    lying = noise(70, 90, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(lying).save(tmp_path / "phone.png", exif=exif)
    upright = depth.infer(np.rot90(lying, -1))
    assert upright.photo_hw == (90, 70)
    for path in (tmp_path / "phone.png", str(tmp_path / "phone.png")):
        np.testing.assert_array_equal(depth.infer(path), upright)
        np.testing.assert_array_equal(depth.infer(path, color="bgr"), upright)  # a file says what it holds
        np.testing.assert_array_equal(depth.infer_batch([path])[0], upright)


def test_threads_may_read_files_at_once_and_warnings_stay_as_they_were(
    depth: fiffdepth_rt.Depth, tmp_path: Path
) -> None:
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "photo.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(depth.infer, [tmp_path / "photo.png"] * 40))
    assert all(np.array_equal(d, maps[0]) for d in maps)
    assert warnings.filters == before


def test_one_path_is_not_taken_for_a_batch_of_letters(depth: fiffdepth_rt.Depth) -> None:
    with pytest.raises(ImageError, match=r"'photo\.jpg' is one path.*pass a list"):
        depth.infer_batch("photo.jpg")


def pictures() -> st.SearchStrategy[np.ndarray]:
    """Any uint8 picture: tiny, flat, very long, grey, with alpha, strided, mirrored, read-only."""

    @st.composite
    def build(draw: st.DrawFn) -> np.ndarray:
        short, long = draw(st.integers(16, 80)), draw(st.integers(16, 80) | st.integers(500, 4000))
        shape = draw(st.permutations([short, long]))
        channels = draw(st.sampled_from([(), (3,), (4,)]))
        step = draw(st.sampled_from([1, 2, 3]))
        full = (shape[0] * step, shape[1] * step, *channels)
        fill = draw(st.sampled_from(["noise", "flat", "black and white"]))
        if fill == "flat":
            picture = np.full(full, draw(st.integers(0, 255)), dtype=np.uint8)
        else:
            picture = noise(*full, seed=draw(st.integers(0, 2**32 - 1)))
            if fill == "black and white":
                picture = np.where(picture < 128, 0, 255).astype(np.uint8)
        picture = picture[::step, ::step]
        if draw(st.booleans()):
            picture = picture[::-1, ::-1]
        picture.flags.writeable = draw(st.booleans())
        return picture

    return build()


def check_any_picture(depth: fiffdepth_rt.Depth, picture: np.ndarray) -> None:
    d = depth.infer(picture, size=128).values
    assert d.shape == picture.shape[:2]
    assert d.dtype == np.float32
    assert np.isfinite(d).all()
    assert d.min() >= 0
    assert d.max() <= 1


@given(picture=pictures())
@settings(max_examples=60)
def test_every_uint8_picture_gives_finite_depth_in_0_1(
    depth: fiffdepth_rt.Depth, picture: np.ndarray
) -> None:
    check_any_picture(depth, picture)


@pytest.mark.soak
@given(picture=pictures())
@settings(max_examples=5000, derandomize=False)
def test_every_uint8_picture_gives_finite_depth_in_0_1_many_times(
    depth: fiffdepth_rt.Depth, picture: np.ndarray
) -> None:
    check_any_picture(depth, picture)


def test_a_flat_picture_gives_a_flat_depth_map(depth: fiffdepth_rt.Depth) -> None:
    d = depth.infer(np.full((50, 333, 3), 128, dtype=np.uint8)).values
    np.testing.assert_allclose(d, d[0, 0], atol=1e-6)


def test_layout_in_memory_changes_nothing(depth: fiffdepth_rt.Depth) -> None:
    image = noise(90, 70, 3)
    wide = np.zeros((90, 140, 3), dtype=np.uint8)
    wide[:, ::2] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    for same in (wide[:, ::2], np.asfortranarray(image), image[::-1].copy()[::-1], frozen):
        np.testing.assert_array_equal(depth.infer(same), depth.infer(image))


def test_opencv_colors_are_understood_when_named(depth: fiffdepth_rt.Depth) -> None:
    image = noise(70, 90, 3)
    np.testing.assert_array_equal(depth.infer(image[:, :, ::-1], color="bgr"), depth.infer(image))
    assert np.abs(np.subtract(depth.infer(image[:, :, ::-1]), depth.infer(image))).max() > 0.01


def test_a_pil_image_is_taken_in_its_own_colors(depth: fiffdepth_rt.Depth) -> None:
    image = noise(70, 90, 3)
    for color in ("rgb", "bgr"):
        np.testing.assert_array_equal(depth.infer(Image.fromarray(image), color=color), depth.infer(image))


@pytest.mark.parametrize(
    "bad",
    [
        np.full((32, 32, 3), 256, dtype=np.int64),
        np.zeros((32, 32, 2), dtype=np.uint8),
        np.zeros((1, 32, 32, 3), dtype=np.uint8),
        np.zeros((0, 32, 3), dtype=np.uint8),
        np.full((32, 32, 3), np.nan, dtype=np.float32),
        "nowhere.jpg",
        None,
    ],
    ids=["beyond uint8", "two channels", "four dimensions", "zero-sized", "NaN", "no such file", "None"],
)
def test_what_is_no_photo_is_refused_alone_and_in_a_batch(depth: fiffdepth_rt.Depth, bad: Any) -> None:
    with pytest.raises(ImageError):
        depth.infer(bad)
    with pytest.raises(ImageError):
        depth.infer_batch([noise(32, 32, 3), bad])


@pytest.mark.parametrize("size", [15, 1025, 0, -64, 256.0, "256", True])
def test_an_impossible_size_is_refused_with_what_is_possible(
    depth: fiffdepth_rt.Depth, toy_dir: Path, size: Any
) -> None:
    with pytest.raises(SizeError, match="from 16 to 1024 px"):
        depth.infer(noise(32, 32, 3), size=size)
    with pytest.raises(SizeError, match="from 16 to 1024 px"):
        fiffdepth_rt.Depth(toy_dir, size=size)


# --- batches and threads ---


def test_a_batch_of_mixed_sizes_equals_one_by_one(depth: fiffdepth_rt.Depth) -> None:
    shapes = [(64, 64, 3), (300, 200, 3), (128, 128), (200, 300, 4), (64, 64, 3), (16, 900, 3)]
    images = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    together = depth.infer_batch(iter(images))
    for image, d in zip(images, together, strict=True):
        np.testing.assert_allclose(d, depth.infer(image), atol=1e-5)


def test_a_batch_larger_than_one_call_takes_keeps_its_order(depth: fiffdepth_rt.Depth) -> None:
    levels = list(range(0, 250, 10))  # 25 images of 256×256; one call takes 16 of them
    images = [np.full((256, 256, 3), level, dtype=np.uint8) for level in levels]
    for level, d in zip(levels, depth.infer_batch(images), strict=True):
        np.testing.assert_allclose(
            d, depth.infer(np.full((64, 64, 3), level, dtype=np.uint8)).values[0, 0], atol=1e-5
        )


def test_an_empty_batch_gives_an_empty_list(depth: fiffdepth_rt.Depth) -> None:
    assert depth.infer_batch([]) == []


def test_threads_that_share_a_depth_get_the_bits_they_would_get_alone(depth: fiffdepth_rt.Depth) -> None:
    images = [noise(100 + 9 * i, 160 - 7 * i, 3, seed=i) for i in range(12)]
    alone = [depth.infer(image).values.tobytes() for image in images]
    with ThreadPoolExecutor(8) as pool:
        at_once = [d.values.tobytes() for d in pool.map(depth.infer, images * 4)]
    assert at_once == alone * 4


@pytest.mark.soak
def test_a_long_life_with_ever_new_sizes_takes_no_more_memory(toy_dir: Path) -> None:
    rng = np.random.default_rng(0)

    def work(calls: int) -> int:
        for _ in range(calls):
            height, width = rng.integers(16, 700, 2)
            opened.infer(noise(height, width, 3), size=int(rng.integers(16, 1025)))
        with Path("/proc/self/statm").open() as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with fiffdepth_rt.Depth(toy_dir, threads=2) as opened:
        warm = work(500)
        assert work(3000) - warm < 30e6


# --- the object ---


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_the_output_space_is_the_manifests(tmp_path: Path, space: str) -> None:
    with fiffdepth_rt.Depth(write_toy_engine_dir(tmp_path / "toy", output_space=space)) as opened:
        assert opened.output_space == space == opened.infer(noise(32, 32, 3)).space
        assert opened.describe()["output_space"] == space
        json.dumps(opened.describe())


def test_a_depth_map_says_which_graphs_computed_it(tmp_path: Path) -> None:
    maps = []
    for name, shift in (("one", 0.0), ("two", 0.0), ("three", 0.1)):
        with fiffdepth_rt.Depth(write_toy_engine_dir(tmp_path / name, shift=shift)) as opened:
            maps.append(opened.infer(noise(32, 32, 3)))
            assert maps[-1].model_sha256 == opened.describe()["model_sha256"]
    assert [d.model for d in maps] == ["toy"] * 3
    assert maps[0].model_sha256 == maps[1].model_sha256 != maps[2].model_sha256


def test_describe_tells_what_a_result_depends_on(toy_dir: Path) -> None:
    with fiffdepth_rt.Depth(toy_dir, threads=1, size=320) as opened:
        said = opened.describe()
        manifest = opened.manifest
    assert (said["name"], said["backend"], said["device"], said["precision"]) == (
        "toy",
        "onnxruntime",
        "cpu",
        "fp32",
    )
    assert said["size"] == {"default": 320, "max": 1024, "multiple": 64}
    assert said["sha256"]["unet"] == manifest.files["graphs/fp32/unet.onnx"].sha256
    lines = [
        f"{manifest.files[f'graphs/fp32/{s}.onnx'].sha256}  graphs/fp32/{s}.onnx\n" for s in sorted(STAGES)
    ]
    assert (
        said["model_sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    )  # sha256sum * | sha256sum
    assert said["engine"]["threads"] == 1
    assert said["versions"]["fiffdepth_rt"] == fiffdepth_rt.__version__


def test_a_closed_depth_says_so(toy_dir: Path) -> None:
    with fiffdepth_rt.Depth(toy_dir) as opened:
        opened.infer(noise(32, 32, 3))
    opened.close()
    with pytest.raises(InferenceError, match="closed"):
        opened.infer(noise(32, 32, 3))
    assert opened.describe()["name"] == "toy"


def test_an_engine_that_overflows_is_an_error_and_not_a_picture(tmp_path: Path) -> None:
    with (
        fiffdepth_rt.Depth(write_toy_engine_dir(tmp_path / "toy", shift=float("nan"))) as opened,
        pytest.raises(InferenceError, match="not finite"),
    ):
        opened.infer(noise(32, 32, 3))


def crop_the_depth(directory: Path, rows: tuple[int, int]) -> None:
    """The decoder's depth map loses all rows but those from `rows[0]` to before `rows[1]`; hashes follow."""
    file = directory / "graphs/fp32/decoder.onnx"
    model = onnx.load(file)
    model.graph.node[-1].output[0] = "whole"
    for name, value in (("first", rows[0]), ("last", rows[1]), ("axis", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.node.append(onnx.helper.make_node("Slice", ["whole", "first", "last", "axis"], ["depth"]))
    onnx.save(model, file)
    manifest = read_manifest(directory)
    files = {name: hash_file(directory / name) for name in manifest.files}
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))


@pytest.mark.parametrize(
    ("backend", "rows", "left"),
    [
        ("onnxruntime", (0, 0), 0),
        *((backend, (8, 999), 56) for backend in ("onnxruntime", "openvino")),
        *((backend, (0, 1), 1) for backend in ("onnxruntime", "openvino")),
    ],
)
def test_a_decoder_that_gives_another_shape_than_the_grids_is_an_error_that_names_both(
    tmp_path: Path, backend: str, rows: tuple[int, int], left: int
) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    crop_the_depth(directory, rows)
    said = rf"The decoder gave float32 \(1, {left}, 128\) for an image of \(1, 64, 128, 3\), .*\(1, 64, 128\)"
    with fiffdepth_rt.Depth(directory, backend=backend, size=128, threads=1) as opened:
        with pytest.raises(InferenceError, match=said):
            opened.infer(noise(64, 128, 3))
        with pytest.raises(InferenceError, match="The decoder gave"):
            opened.infer_batch([noise(64, 128, 3), noise(128, 128, 3)])
        with pytest.raises(InferenceError, match="The decoder gave"), opened.stream([noise(64, 128, 3)]) as s:
            next(s)


def test_a_decoder_of_which_openvino_knows_that_it_gives_nothing_is_refused_when_it_is_opened(
    tmp_path: Path,
) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    crop_the_depth(directory, (0, 0))
    with pytest.raises(StageMismatchError, match=r"decoder gives depth as \[\?,0,.*; the manifest lists"):
        fiffdepth_rt.Depth(directory, backend="openvino", threads=1)


@pytest.mark.parametrize("threads", ["2", 2.0, True, -1, 0])
def test_threads_are_a_whole_number_and_another_value_is_said(toy_dir: Path, threads: Any) -> None:
    with pytest.raises(
        BackendUnavailableError, match=f"threads={threads!r} .*say a whole number, 1 or more, or None"
    ):
        fiffdepth_rt.Depth(toy_dir, threads=threads)

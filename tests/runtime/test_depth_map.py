"""Promises of a depth map: what its values mean, that it is an array for numpy, and what it is on disk."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt import DepthMap, Space
from fiffdepth_rt.errors import ImageError, OutputError

RAMP = np.linspace(0, 1, 32 * 48, dtype=np.float32).reshape(32, 48)


@pytest.fixture(params=["depth", "disparity"])
def ramp(request: pytest.FixtureRequest) -> DepthMap:
    """32×48, from 0 to 1 inclusive."""
    return DepthMap(values=RAMP, space=request.param, model="nano", model_sha256="ab" * 32)


# --- what 0 and 1 mean ---


def test_a_space_is_its_own_name() -> None:
    assert Space.DEPTH == "depth" and {"disparity": 1}[Space.DISPARITY] == 1
    assert f"{Space.DEPTH} {Space.DISPARITY!s}" == "depth disparity" == " ".join(Space)
    assert json.dumps([Space.DISPARITY]) == '["disparity"]'
    assert Space("depth") is Space.DEPTH


def test_an_unknown_space_names_those_there_are() -> None:
    with pytest.raises(ImageError, match="'metres' is not known: say 'depth' or 'disparity'"):
        Space("metres")


def test_a_space_says_which_end_is_near() -> None:
    assert (Space.DEPTH.zero, Space.DISPARITY.zero) == ("nearest", "farthest")
    assert Space.DEPTH.ends() == "0 = nearest, 1 = farthest"
    assert Space.DISPARITY.ends("-1", "+1") == "+1 = nearest, -1 = farthest"


def test_nearness_is_1_where_it_is_nearest_in_either_space(ramp: DepthMap) -> None:
    near = ramp.nearness()
    assert near.dtype == np.float32
    np.testing.assert_array_equal(near, 1 - RAMP if ramp.space == "depth" else RAMP)
    near[:] = 0  # an array of the caller's own
    np.testing.assert_array_equal(ramp.values, RAMP)


def test_near_is_bright_and_warm_in_either_space() -> None:
    as_depth = DepthMap(values=RAMP, space=Space.DEPTH).colors()
    as_disparity = DepthMap(values=1 - RAMP, space=Space.DISPARITY).colors()
    assert (as_depth.shape, as_depth.dtype) == ((32, 48, 3), np.uint8)
    np.testing.assert_array_equal(as_depth, as_disparity)
    near, middle, far = (as_depth[at].astype(int) for at in ((0, 0), (16, 0), (-1, -1)))
    assert near.sum() > 500
    assert far.sum() < 30
    assert middle[0] > middle[2]  # more red than blue


def test_the_colours_use_all_of_the_map_from_end_to_end() -> None:
    inferno = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[..., ::-1]
    levels = (np.arange(256, dtype=np.float32) / 255)[None]
    np.testing.assert_array_equal(DepthMap(values=levels, space=Space.DISPARITY).colors(), inferno)


# --- a value ---


def test_it_says_what_it_is(ramp: DepthMap) -> None:
    assert ramp.photo_hw == (32, 48) == ramp.values.shape
    assert (ramp.model, ramp.model_sha256) == ("nano", "ab" * 32)
    assert repr(ramp) in (
        "<DepthMap 32×48 px, depth (0 = nearest, 1 = farthest), nano>",
        "<DepthMap 32×48 px, disparity (1 = nearest, 0 = farthest), nano>",
    )


def test_it_is_frozen_and_so_are_its_values(ramp: DepthMap) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ramp.space = Space.DEPTH  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        ramp.values[0, 0] = 0.5


def test_the_array_it_is_made_of_stays_writable() -> None:
    values = RAMP.copy()
    DepthMap(values=values, space=Space.DEPTH)
    values[0, 0] = 0.5


def test_a_copy_through_pickle_holds_the_same_and_is_frozen_too(ramp: DepthMap) -> None:
    for other in (pickle.loads(pickle.dumps(ramp)), copy.deepcopy(ramp)):
        np.testing.assert_array_equal(other, ramp)
        assert (other.space, other.model, other.model_sha256) == (ramp.space, "nano", "ab" * 32)
        assert isinstance(other.space, Space)
        with pytest.raises(ValueError, match="read-only"):
            other.values[0, 0] = 0.5


def test_equal_is_what_is_the_same_object(ramp: DepthMap) -> None:
    other = dataclasses.replace(ramp)
    assert ramp == ramp and ramp != other and len({ramp, other}) == 2
    assert np.array_equal(ramp, other)


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), 1.5, np.float32),
        np.full((4, 4), -0.1, np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4), np.float32),
        [[0.0, 1.0]],
    ],
    ids=["NaN", "above 1", "below 0", "uint8", "three dimensions", "empty", "a list"],
)
def test_what_is_no_depth_map_is_refused(values: Any) -> None:
    with pytest.raises(ImageError, match="values of a depth map"):
        DepthMap(values=values, space=Space.DEPTH)


def test_other_floats_become_float32() -> None:
    assert DepthMap(values=RAMP.astype(np.float64), space=Space.DEPTH).values.dtype == np.float32


# --- an array for numpy ---


def test_numpy_takes_it_for_its_values(ramp: DepthMap) -> None:
    assert np.asarray(ramp) is ramp.values
    assert np.shape(ramp) == (32, 48) and np.max(ramp) == 1
    np.testing.assert_array_equal(np.quantile(ramp, [0.1, 0.9]), np.quantile(RAMP, [0.1, 0.9]))
    np.testing.assert_array_equal(np.clip(ramp, 0.2, 0.8), np.clip(RAMP, 0.2, 0.8))
    assert np.abs(RAMP - ramp).max() == 0  # an array on one side makes it an array
    assert type(np.multiply(ramp, 2)) is np.ndarray


def test_np_array_is_a_copy_to_write_into(ramp: DepthMap) -> None:
    mine = np.array(ramp)
    mine[:] = 0
    np.testing.assert_array_equal(ramp.values, RAMP)


def test_another_dtype_is_a_copy(ramp: DepthMap) -> None:
    doubles = np.asarray(ramp, dtype=np.float64)
    assert doubles.dtype == np.float64
    np.testing.assert_array_equal(doubles, RAMP.astype(np.float64))


def test_copy_means_what_numpy_2_says_under_every_numpy(ramp: DepthMap) -> None:
    assert ramp.__array__() is ramp.values
    assert ramp.__array__(np.float32, copy=None) is ramp.values
    assert ramp.__array__(copy=False) is ramp.values
    assert ramp.__array__(np.dtype("float32"), copy=False) is ramp.values
    copied = ramp.__array__(copy=True)
    assert copied.flags.writeable and not np.shares_memory(copied, ramp.values)
    assert ramp.__array__(np.float16, copy=True).dtype == np.float16
    with pytest.raises(ValueError, match="values are float32: as float64 they have to be copied"):
        ramp.__array__(np.float64, copy=False)


def test_opencv_takes_its_values(ramp: DepthMap) -> None:
    assert cv2.resize(ramp.values, (24, 16), interpolation=cv2.INTER_AREA).shape == (16, 24)
    assert cv2.applyColorMap((ramp.values * 255).astype(np.uint8), cv2.COLORMAP_BONE).shape == (32, 48, 3)


# --- on disk ---


def test_a_16_bit_png_holds_the_values_and_says_what_they_mean(tmp_path: Path, ramp: DepthMap) -> None:
    ramp.save(tmp_path / "d.png")
    levels = cv2.imread(str(tmp_path / "d.png"), cv2.IMREAD_UNCHANGED)
    assert levels.dtype == np.uint16
    np.testing.assert_array_equal(levels, np.rint(RAMP * np.float32(65535)))
    with Image.open(tmp_path / "d.png") as picture:
        text = picture.text
    convention = {
        "depth": "affine-invariant depth: 0 = nearest, 65535 = farthest; not metres",
        "disparity": "affine-invariant disparity: 65535 = nearest, 0 = farthest; not inverse metres",
    }[ramp.space]
    assert text == {"Space": str(ramp.space), "Convention": convention, "Model": "nano"}


def test_a_png_of_an_unknown_model_does_not_name_one(tmp_path: Path) -> None:
    DepthMap(values=RAMP, space=Space.DEPTH).save(str(tmp_path / "D.PNG"))
    with Image.open(tmp_path / "D.PNG") as picture:
        assert "Model" not in picture.text


def test_npy_holds_the_very_values(tmp_path: Path, ramp: DepthMap) -> None:
    ramp.save(tmp_path / "d.npy")
    read = np.load(tmp_path / "d.npy", allow_pickle=False)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, RAMP)


@pytest.mark.parametrize("name", ["d.jpg", "d", "d.tiff"])
def test_another_ending_is_refused_with_those_there_are(tmp_path: Path, ramp: DepthMap, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.png \(16 bits\) or \.npy.*colors\(\)"):
        ramp.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["d.png", "d.npy"])
def test_a_file_that_is_there_is_replaced_only_on_request(tmp_path: Path, ramp: DepthMap, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        ramp.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"precious"
    ramp.save(tmp_path / name, overwrite=True)
    assert (tmp_path / name).stat().st_size > 100


def test_what_infer_gives_goes_the_whole_way(
    depth: fiffdepth_rt.Depth, photo: np.ndarray, tmp_path: Path
) -> None:
    found = depth.infer(photo)
    assert isinstance(found, DepthMap) and found.model == "toy"
    found.save(tmp_path / "d.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), found)
    assert found.colors().shape == photo.shape

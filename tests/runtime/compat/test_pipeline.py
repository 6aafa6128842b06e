"""Promises of fiffdepth_rt.compat: results like those of transformers' pipeline for depth estimation.

What that pipeline itself gives is held against ours in tests/house/test_compat_peer.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fiffdepth_rt import Depth
from fiffdepth_rt.compat import DepthEstimationPipeline, pipeline
from fiffdepth_rt.errors import EngineDirError, ImageError, InferenceError
from tests.support.paths import ROOT
from tests.support.toy import write_toy_engine_dir


@pytest.fixture
def estimate(depth: Depth) -> DepthEstimationPipeline:
    return DepthEstimationPipeline(depth)


def test_a_photo_gives_nearness_and_an_8_bit_picture_of_it(
    estimate: DepthEstimationPipeline, depth: Depth, photo: np.ndarray
) -> None:
    found = estimate(Image.fromarray(photo))
    assert set(found) == {"predicted_depth", "depth"}
    near = np.asarray(found["predicted_depth"])
    assert (near.shape, near.dtype) == (photo.shape[:2], np.float32)
    np.testing.assert_array_equal(near, depth.infer(photo).nearness())
    picture = found["depth"]
    assert (picture.mode, picture.size) == ("L", (200, 320))
    levels = np.asarray(picture)
    assert (levels.min(), levels.max()) == (0, 255)
    expected = (near - near.min()) / (near.max() - near.min()) * 255
    np.testing.assert_array_equal(levels, expected.astype(np.uint8))
    assert near[100, 150] > near[80, 50]  # dark is near to the toy, and nearer is larger


def test_nearer_is_larger_whatever_the_model_speaks(tmp_path: Path, photo: np.ndarray) -> None:
    with pipeline(model=write_toy_engine_dir(tmp_path / "toy", output_space="disparity")) as estimate:
        near = np.asarray(estimate(photo)["predicted_depth"])
        np.testing.assert_array_equal(near, estimate.model.infer(photo).values)


def test_one_list_and_iterator_of_paths_pictures_and_arrays(
    estimate: DepthEstimationPipeline, tmp_path: Path, photo: np.ndarray
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    photos = [str(path), path, Image.fromarray(photo), photo]
    expected = np.asarray(estimate(photo)["predicted_depth"])
    for batch_size in (1, 3):
        found = estimate(photos, batch_size=batch_size)
        assert isinstance(found, list) and len(found) == 4
        for one in found:
            np.testing.assert_array_equal(np.asarray(one["predicted_depth"]), expected)
    assert isinstance(estimate([photo]), list) and estimate([]) == []


def test_an_iterator_is_computed_when_it_is_asked(
    estimate: DepthEstimationPipeline, photo: np.ndarray
) -> None:
    taken = []

    def photos() -> Iterator[np.ndarray]:
        for number in range(3):
            taken.append(number)
            yield photo

    found = estimate(photos())
    assert taken == []
    next(found)
    assert taken == [0]
    assert len(list(found)) == 2


def test_a_flat_depth_map_is_a_black_picture(estimate: DepthEstimationPipeline) -> None:
    found = estimate(np.full((32, 32, 3), 90, np.uint8))
    assert np.asarray(found["depth"]).max() == 0


@pytest.mark.parametrize("device", ["cpu", -1])
def test_a_device_is_named_as_there(toy_dir: Path, device: str | int) -> None:
    with pipeline("depth-estimation", model=str(toy_dir), device=device) as estimate:
        assert estimate.model.describe()["device"] == "cpu"
    with pytest.raises(InferenceError):
        estimate(np.zeros((32, 32, 3), np.uint8))


def test_what_is_not_done_here_is_said(estimate: DepthEstimationPipeline) -> None:
    with pytest.raises(ValueError, match="'text-generation' is not possible"):
        pipeline("text-generation")  # type: ignore[arg-type]
    with pytest.raises(EngineDirError):
        pipeline("depth-estimation", model="Intel/dpt-large")
    with pytest.raises(ImageError, match="is an address, and nothing is fetched here"):
        estimate("http://localhost/photo.jpg")
    with pytest.raises(ImageError):
        estimate("nothing.jpg")


def test_without_torch_it_is_a_numpy_array(toy_dir: Path) -> None:
    code = """
import sys
import numpy as np
from fiffdepth_rt.compat import pipeline
with pipeline(model=sys.argv[1]) as estimate:
    found = estimate(np.zeros((64, 64, 3), np.uint8))
print(type(found["predicted_depth"]).__name__, "torch" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(toy_dir)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "ndarray False\n"), run.stderr

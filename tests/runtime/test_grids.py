"""Promises of the grids: what was asked for first, then the one that wastes least of a photo."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiffdepth_rt.backends.grids import (
    Grids,
    families,
    is_possible,
    least_wasteful,
    own_grid,
    split,
    tensor_shape,
    wasted_share,
)
from fiffdepth_rt.engine_dir.manifest import Manifest, SizeLimits, TensorSpec, read_manifest
from fiffdepth_rt.errors import SizeError
from tests.support import plans
from tests.support.toy import write_toy_engine_dir

LIMITS = SizeLimits(default=512, max=1024, multiple=64)
FOUR = ((512, 512), (384, 640), (640, 384), (768, 768))
fixed = Grids(limits=LIMITS, fixed=FOUR)
free = Grids(limits=LIMITS)


# --- what a grid wastes ---


@pytest.mark.parametrize(
    ("photo_hw", "grid", "share"),
    [
        ((512, 512), (512, 512), Fraction(0)),
        ((100, 100), (768, 768), Fraction(0)),
        ((1080, 1920), (512, 512), Fraction(7, 16)),
        ((1080, 1920), (384, 640), Fraction(1, 16)),
        ((1920, 1080), (640, 384), Fraction(1, 16)),
        ((480, 640), (384, 640), Fraction(1, 5)),
        ((480, 640), (512, 512), Fraction(1, 4)),
    ],
)
def test_the_share_of_padding(photo_hw: tuple[int, int], grid: tuple[int, int], share: Fraction) -> None:
    assert wasted_share(photo_hw, grid) == share


# --- of fixed grids ---


@pytest.mark.parametrize(
    ("photo_hw", "grid"),
    [
        ((1080, 1920), (384, 640)),
        ((1920, 1080), (640, 384)),
        ((480, 640), (384, 640)),
        ((2000, 2000), (512, 512)),  # 768×768 wastes as little; 512 is the default
        ((100, 5000), (384, 640)),
        ((1000, 1100), (512, 512)),
    ],
)
def test_a_photo_goes_on_the_grid_that_wastes_least_of_it(
    photo_hw: tuple[int, int], grid: tuple[int, int]
) -> None:
    assert fixed.choose(photo_hw) == grid


def test_ties_go_to_the_default_size_then_to_fewer_pixels_then_to_the_lower_one() -> None:
    square = (300, 300)
    assert least_wasteful(square, [(256, 256), (768, 768)], default=700) == (768, 768)
    assert least_wasteful(square, [(768, 768), (256, 256)], default=512) == (256, 256)  # 256 px from both
    assert least_wasteful(square, [(640, 384), (384, 640)], default=512) == (384, 640)


def test_a_size_asked_for_is_kept_as_well_as_the_grids_allow() -> None:
    assert fixed.choose((1080, 1920), 512) == (512, 512)
    assert fixed.choose((1080, 1920), 640) == (384, 640)
    assert fixed.choose((1920, 1080), 640) == (640, 384)
    assert fixed.choose((1080, 1920), 1024) == (768, 768)
    assert fixed.choose((1920, 1080), 576) == (640, 384)  # 64 px from both; it wastes less


def test_a_grid_asked_for_is_the_grid() -> None:
    for grid in FOUR:
        assert fixed.choose((1080, 1920), grid) == grid
    assert free.choose((1080, 1920), (192, 1024)) == (192, 1024)


def test_a_grid_that_no_engine_takes_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(SizeError, match=r"grid 256x256; there is one for 512x512, 384x640, 640x384, 768x768"):
        fixed.choose((100, 100), (256, 256))
    for grid in ((100, 128), (64, 1088), (0, 64), (-64, 64)):
        with pytest.raises(SizeError, match="multiples of 64 px, up to 1024"):
            free.choose((100, 100), grid)


@given(
    photo_hw=st.tuples(st.integers(16, 9000), st.integers(16, 9000)),
    grids=st.lists(st.sampled_from([(h, w) for h in range(64, 1025, 64) for w in (64, 640)]), min_size=1),
)
def test_for_every_photo_the_order_of_the_grids_changes_nothing(
    photo_hw: tuple[int, int], grids: list[tuple[int, int]]
) -> None:
    chosen = least_wasteful(photo_hw, grids, default=512)
    assert chosen == least_wasteful(photo_hw, reversed(grids), default=512)
    assert wasted_share(photo_hw, chosen) == min(wasted_share(photo_hw, grid) for grid in grids)


# --- of free grids ---


def test_free_grids_have_the_size_asked_for_along_the_longer_side() -> None:
    assert free.choose((480, 640)) == (384, 512)
    assert free.choose((480, 640), 256) == (192, 256)
    assert free.choose((1920, 1080), 1024) == (1024, 576)


# --- shapes of tensors ---


def test_a_manifest_says_itself_how_much_smaller_a_latent_is() -> None:
    """Nothing here knows of eighths or of 4 channels: an f32 VAE's directory needs no other code."""
    latent = TensorSpec(name="latent", dtype="float32", shape=("batch", 16, "height/32", "width/32"))
    assert tensor_shape(latent, (512, 768), 2) == (2, 16, 16, 24)
    image = TensorSpec(name="image", dtype="uint8", shape=("batch", "height", 640, 3))
    assert tensor_shape(image, (512, 640), 1) == (1, 512, 640, 3)


# --- sets of graphs that belong together ---


def _manifest(directory: Path, *keys: str) -> Manifest:
    """The toy's manifest with graph sets of these names, static where the name ends in a grid."""
    manifest = read_manifest(write_toy_engine_dir(directory / "toy"))
    graphs = manifest.graph_sets["fp32"]
    sets = {}
    for key in keys:
        height, _, width = key.rpartition("-")[2].partition("x")
        encoder = graphs.stages["encoder"]
        if height.isdecimal() and width.isdecimal():
            image = msgspec.structs.replace(encoder.inputs[0], shape=("batch", int(height), int(width), 3))
            encoder = msgspec.structs.replace(encoder, inputs=(image,))
        form = "camera" if "camera" in key else "grid"
        stages = {**graphs.stages, "encoder": encoder}
        sets[key] = msgspec.structs.replace(graphs, form=form, stages=stages)
    return msgspec.structs.replace(manifest, graph_sets=sets)


def test_sets_that_differ_in_their_grid_alone_can_be_asked_for_together(tmp_path: Path) -> None:
    manifest = _manifest(
        tmp_path, "fp16-512x512", "fp16-384x640", "fp16-trt8.5-512x512", "fp32", "fp32-64x64"
    )
    assert own_grid(manifest.graph_sets["fp16-384x640"]) == (384, 640)
    found = families(manifest)
    assert found["fp16"] == {(512, 512): "fp16-512x512", (384, 640): "fp16-384x640"}
    assert found["fp16-trt8.5"] == {(512, 512): "fp16-trt8.5-512x512"}
    assert found["fp16-384x640"] == {(384, 640): "fp16-384x640"}
    assert found["fp32"] == {None: "fp32"}  # a set of its own by that name


def test_a_camera_s_graphs_belong_to_no_family(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, "fp16-camera-480x640", "fp16-512x512")
    assert set(families(manifest)) == {"fp16", "fp16-camera-480x640", "fp16-512x512"}
    assert families(manifest)["fp16"] == {(512, 512): "fp16-512x512"}


@pytest.mark.parametrize(
    ("grid", "possible"),
    [
        ((512, 512), True),
        ((64, 1024), True),
        ((500, 512), False),
        ((512, 1088), False),
        ((0, 64), False),
        ((64, -64), False),
    ],
)
def test_a_free_grid_is_made_of_multiples_within_the_limits(grid: tuple[int, int], possible: bool) -> None:
    assert is_possible(grid, LIMITS) == possible


def test_a_grid_and_a_batch_give_every_tensor_its_shape(toy_dir: Path) -> None:
    manifest = read_manifest(toy_dir)
    stages = manifest.graph_sets["fp32"].stages
    assert tensor_shape(stages["encoder"].inputs[0], (192, 320), 2) == (2, 192, 320, 3)
    assert tensor_shape(stages["unet"].inputs[0], (192, 320), 2) == (2, 4, 24, 40)
    assert tensor_shape(stages["decoder"].inputs[0], (192, 320), 2) == (2, 4, 24, 40)
    assert tensor_shape(stages["decoder"].outputs[0], (192, 320), 2) == (2, 192, 320)
    static = plans.fixed(manifest, 480, 640).stages
    assert tensor_shape(static["unet"].inputs[0], (480, 640), 1) == (1, 4, 60, 80)


@pytest.mark.parametrize(("batch", "parts"), [(1, [1]), (16, [16]), (17, [16, 1]), (40, [16, 16, 8])])
def test_a_part_of_a_batch_has_no_more_pixels_than_one_image_of_the_largest_size(
    batch: int, parts: list[int]
) -> None:
    limits = SizeLimits(default=256, max=512, multiple=64)
    images = np.arange(batch, dtype=np.uint8)[:, None, None, None] * np.ones((1, 128, 128, 3), np.uint8)
    found = list(split(images, limits))
    assert [len(part) for part in found] == parts
    np.testing.assert_array_equal(np.concatenate(found), images)

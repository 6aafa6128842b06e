"""Promises of where tensors lie and how images become batches. All by value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiffdepth_rt.backends.tensorrt.buffers import (
    ALIGNMENT,
    Buffer,
    batch_parts,
    journey_buffers,
    place,
    tensor_nbytes,
)
from fiffdepth_rt.engine_dir.manifest import STAGES, Manifest, read_manifest
from tests.support.plans import fixed, profile
from tests.support.toy import write_toy_engine_dir

MIB = 2**20


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(
        write_toy_engine_dir(tmp_path_factory.mktemp("e") / "t", precisions=("fp32", "bf16"))
    )


# --- where tensors lie ---


def test_the_tensors_of_a_frame_have_their_sizes(toy: Manifest) -> None:
    stages = toy.graph_sets["fp32"].stages
    assert tensor_nbytes(stages, profile(512, 512)) == {
        "image": 512 * 512 * 3,
        "latent": 64 * 64 * 4 * 4,
        "depth_latent": 64 * 64 * 4 * 4,
        "depth": 512 * 512 * 4,
        "depth_unclipped": 512 * 512 * 4,
    }
    assert tensor_nbytes(stages, profile(384, 640, 4))["image"] == 4 * 384 * 640 * 3
    camera = fixed(toy, 1080, 1920).stages
    assert tensor_nbytes(camera, profile(1080, 1920))["depth"] == 1080 * 1920 * 4


def test_a_tensor_is_needed_from_its_writer_to_its_last_reader(toy: Manifest) -> None:
    activations = dict.fromkeys(STAGES, 1000)
    found = journey_buffers(toy.graph_sets["fp32"].stages, profile(64, 64), activations)
    assert {buffer.name: (buffer.first, buffer.last) for buffer in found} == {
        "image": (0, 1),
        "latent": (1, 2),
        "depth_latent": (2, 3),
        "depth": (3, 4),
        "depth_unclipped": (3, 3),
        "encoder activations": (1, 1),
        "unet activations": (2, 2),
        "decoder activations": (3, 3),
    }


def test_stages_share_the_memory_that_they_compute_in(toy: Manifest) -> None:
    activations = {"encoder": 900 * MIB, "unet": 300 * MIB, "decoder": 1500 * MIB}
    stages = toy.graph_sets["fp32"].stages
    placement = place(journey_buffers(stages, profile(512, 512), activations))
    assert [placement.offsets[f"{stage} activations"] for stage in STAGES] == [0, 0, 0]
    tensors = tensor_nbytes(stages, profile(512, 512))
    # the decoder's step is the fullest: it holds its input and both outputs
    fullest = 1500 * MIB + tensors["depth_latent"] + tensors["depth"] + tensors["depth_unclipped"]
    assert placement.nbytes == fullest


def test_what_is_needed_at_the_same_step_lies_side_by_side() -> None:
    a, b = Buffer(name="a", nbytes=600, first=0, last=1), Buffer(name="b", nbytes=100, first=1, last=2)
    c = Buffer(name="c", nbytes=1, first=2, last=2)
    placement = place((c, b, a))
    assert placement.offsets == {"a": 0, "b": 1024, "c": 0}
    assert placement.nbytes == 1536
    assert place(()).nbytes == 0


buffers = st.lists(
    st.builds(
        lambda nbytes, first, length: (nbytes, first, first + length),
        st.integers(1, 5000),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    max_size=12,
).map(
    lambda rows: tuple(
        Buffer(name=str(i), nbytes=n, first=f, last=last) for i, (n, f, last) in enumerate(rows)
    )
)


@given(buffers)
def test_for_every_set_of_buffers_none_overlaps_another_that_is_needed_with_it(
    chosen: tuple[Buffer, ...],
) -> None:
    placement = place(chosen)
    for one in chosen:
        start = placement.offsets[one.name]
        assert start % ALIGNMENT == 0 and start + one.nbytes <= placement.nbytes
        for other in chosen:
            if other is not one and one.first <= other.last and other.first <= one.last:
                begin = placement.offsets[other.name]
                assert start + one.nbytes <= begin or begin + other.nbytes <= start


# --- batches ---


@pytest.mark.parametrize(
    ("images", "batches", "parts"),
    [
        (1, (1,), ((1, 1),)),
        (3, (1,), ((1, 1), (1, 1), (1, 1))),
        (6, (1, 4), ((4, 4), (1, 1), (1, 1))),
        (8, (4, 1), ((4, 4), (4, 4))),
        (6, (4,), ((4, 4), (2, 4))),
        (1, (4, 8), ((1, 4),)),
        (0, (1,), ()),
    ],
)
def test_images_go_through_the_batches_that_there_are(
    images: int, batches: tuple[int, ...], parts: tuple[tuple[int, int], ...]
) -> None:
    assert batch_parts(images, batches) == parts

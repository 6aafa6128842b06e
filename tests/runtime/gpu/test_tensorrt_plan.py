"""Promises of where tensors lie, which copies a frame makes, and which plans run where. All by value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plan_rules import L4, fixed, profile, record

from fiffdepth_rt.backends.tensorrt.buffers import (
    ALIGNMENT,
    Buffer,
    GraphKey,
    batch_parts,
    copies,
    graph_key,
    journey_buffers,
    place,
    tensor_nbytes,
)
from fiffdepth_rt.backends.tensorrt.fit import (
    check_tensorrt_driver,
    lanes,
    ready_sets,
    requested_bytes,
    says_no_memory,
)
from fiffdepth_rt.backends.tensorrt.versions import graph_digest
from fiffdepth_rt.engine_dir.manifest import STAGES, Manifest, PlanRecord, read_manifest
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    DriverError,
    PlanGpuError,
    PlanMismatchError,
    PlanVersionError,
)
from fiffdepth_rt.gpu import cuda
from fiffdepth_rt.gpu.cuda import Copy
from tests.support.toy import write_toy_engine_dir

ENGINES = Path("engines/toy")
MIB = 2**20


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(
        write_toy_engine_dir(tmp_path_factory.mktemp("e") / "t", precisions=("fp32", "bf16"))
    )


def plans(toy: Manifest, precision: str = "fp32", **changes: object) -> tuple[PlanRecord, ...]:
    """A plan of every stage, as a build would list it."""
    return tuple(
        record(
            stage=stage,
            precision=precision,
            graph_sha256=graph_digest(toy, precision, stage),
            file=f"plans/{stage}.{changes.get('file', precision)}.plan",
            **{key: value for key, value in changes.items() if key != "file"},
        )
        for stage in STAGES
    )


def with_plans(toy: Manifest, *listed: PlanRecord) -> Manifest:
    return dataclasses.replace(toy, plans=listed)


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


# --- copies, graphs, batches ---


@pytest.mark.parametrize(
    ("source", "result", "made"),
    [
        ("host", "host", (Copy.FILL, Copy.UP, Copy.DOWN, Copy.DRAIN)),
        ("host", "gpu", (Copy.FILL, Copy.UP, Copy.ACROSS)),
        ("gpu", "host", (Copy.ACROSS, Copy.DOWN, Copy.DRAIN)),
        ("gpu", "gpu", (Copy.ACROSS, Copy.ACROSS)),
    ],
)
def test_a_frame_makes_these_copies(source: str, result: str, made: tuple[Copy, ...]) -> None:
    assert copies(source, result) == made  # type: ignore[arg-type]


def test_a_graph_is_for_one_shape_its_copies_and_its_pinned_memory() -> None:
    one = profile(512, 512)
    assert graph_key(one, copies("host", "host"), 1) == GraphKey(profile=one, up=True, down=True, slot=1)
    assert graph_key(one, copies("gpu", "host"), 0) == GraphKey(profile=one, up=False, down=True, slot=0)
    assert graph_key(one, copies("gpu", "gpu"), 0) == GraphKey(profile=one, up=False, down=False, slot=None)
    assert graph_key(one, copies("gpu", "gpu"), 0) == graph_key(one, copies("gpu", "gpu"), None)
    assert graph_key(one, (), None) != graph_key(profile(512, 512, 2), (), None)


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


# --- which plans run here ---


def test_a_lane_is_a_shape_with_a_plan_for_every_stage(toy: Manifest) -> None:
    shapes = (profile(512, 512), profile(512, 512, 4))
    listed = plans(toy, profiles=shapes)
    found = lanes(with_plans(toy, *listed), ("fp32",), L4, ENGINES)
    assert [(lane.precision, lane.profile) for lane in found] == [("fp32", shape) for shape in shapes]
    assert found[0].plans == dict(zip(STAGES, listed, strict=True))


def test_static_plans_make_a_lane_each(toy: Manifest) -> None:
    small, large = profile(512, 512), profile(768, 768)
    listed = (
        *plans(toy, profiles=(small,), file="small"),
        *plans(toy, profiles=(large,), file="large"),
    )
    found = lanes(with_plans(toy, *listed), ("fp32",), L4, ENGINES)
    assert [(lane.profile, lane.plans["unet"].file) for lane in found] == [
        (small, "plans/unet.small.plan"),
        (large, "plans/unet.large.plan"),
    ]


def test_this_gpus_own_plan_comes_before_one_for_its_whole_capability(toy: Manifest) -> None:
    own = plans(toy, file="own")
    shared = plans(toy, file="any", hardware_compatibility="same_compute_capability")
    for listed in ((*own, *shared), (*shared, *own)):
        (lane,) = lanes(with_plans(toy, *listed), ("fp32",), L4, ENGINES)
        assert lane.plans["encoder"].file == "plans/encoder.own.plan"
    l40 = dataclasses.replace(L4, gpu_name="NVIDIA L40")
    (lane,) = lanes(with_plans(toy, *own, *shared), ("fp32",), l40, ENGINES)
    assert lane.plans["encoder"].file == "plans/encoder.any.plan"


def test_where_no_plan_fits_the_first_says_why(toy: Manifest) -> None:
    manifest = with_plans(toy, *plans(toy))
    for changed, error in (
        ({"tensorrt_version": "11.4.0.106"}, PlanVersionError),
        ({"compute_capability": "9.0", "gpu_name": "NVIDIA H200"}, PlanGpuError),
        ({"gpu_name": "NVIDIA L40"}, PlanGpuError),
    ):
        with pytest.raises(error, match="Run: fiffdepth build engines/toy"):
            lanes(manifest, ("fp32",), dataclasses.replace(L4, **changed), ENGINES)
    stale = with_plans(toy, *(dataclasses.replace(plan, graph_sha256="f" * 64) for plan in plans(toy)))
    with pytest.raises(PlanMismatchError, match="built from other graphs"):
        lanes(stale, ("fp32",), L4, ENGINES)


def test_a_shape_without_all_stages_is_no_lane(toy: Manifest) -> None:
    manifest = with_plans(toy, *plans(toy)[:2])
    with pytest.raises(BackendUnavailableError, match="plans for some stages only of fp32"):
        lanes(manifest, ("fp32",), L4, ENGINES)
    with pytest.raises(BackendUnavailableError, match=r"no TensorRT plans of bf16\. Run: .*--precision bf16"):
        lanes(manifest, ("bf16",), L4, ENGINES)


def test_the_sets_that_are_ready_have_plans_for_this_machine(toy: Manifest) -> None:
    assert ready_sets(toy, L4, ENGINES) == ()
    manifest = with_plans(toy, *plans(toy, "bf16"), *plans(toy, "fp32", tensorrt_version="10.3.0"))
    assert ready_sets(manifest, L4, ENGINES) == ("bf16",)


# --- drivers ---


@pytest.mark.parametrize(("driver", "runtime"), [(13000, 13000), (13000, 12080), (12020, 12090)])
def test_a_driver_serves_its_own_major_version_and_older_ones(driver: int, runtime: int) -> None:
    cuda.check_driver(driver, runtime)


def test_a_driver_that_is_too_old_names_both_versions_and_both_ways() -> None:
    with pytest.raises(DriverError) as error:
        cuda.check_driver(12040, 13000)
    said = str(error.value)
    assert "serves CUDA up to 12.4" in said and "for CUDA 13.0" in said
    assert "Update the driver" in said and "pip install 'cuda-python>=12,<13'" in said
    with pytest.raises(BackendUnavailableError, match="no driver") as none:
        cuda.check_driver(0, 13000)
    assert not isinstance(none.value, DriverError)


def test_tensorrt_11_wants_a_driver_for_cuda_13() -> None:
    check_tensorrt_driver("11.4.0.106", "13.0")
    check_tensorrt_driver("10.16.1.11", "12.2")
    with pytest.raises(
        DriverError, match=r"up to 12\.8, and TensorRT 11\.4\.0\.106 is for CUDA 13.*'tensorrt<11'"
    ):
        check_tensorrt_driver("11.4.0.106", "12.8")


# --- what TensorRT says about memory: lines as users reported them ---

OUT_OF_MEMORY = [
    "ERROR: 1: [defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
    "WARNING: Requested amount of GPU memory (17920000000 bytes) could not be allocated. There may not be "
    "enough free memory for allocation to succeed.",
    "ERROR: 2: [executionContext.cpp::470] Error Code 2: OutOfMemory (no further information)",
]


def test_a_log_that_tells_of_memory_is_understood() -> None:
    assert all(says_no_memory([line]) for line in OUT_OF_MEMORY)
    assert requested_bytes(OUT_OF_MEMORY) == 17_920_000_000
    newer = ["ERROR: Error Code 2: OutOfMemory (Requested size was 734003200 bytes.)"]
    assert says_no_memory(newer) and requested_bytes(newer) == 734_003_200


def test_a_log_about_something_else_is_not_taken_for_memory() -> None:
    lines = ["ERROR: Serialization assertion magicTagRead == kMAGIC_TAG failed", "INFO: Loaded 12 MiB"]
    assert not says_no_memory(lines)
    assert requested_bytes(lines) is None

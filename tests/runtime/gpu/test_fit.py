"""Promises of which plans run here: where a single plan fits, and which shapes have one for every stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from fiffdepth_rt.backends.tensorrt.fit import check_fits, lanes, ready_sets, rebuild_command
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.jobs import graph_digest
from fiffdepth_rt.engine_dir.manifest import STAGES, Manifest, PlanRecord, read_manifest
from fiffdepth_rt.errors import BackendUnavailableError, PlanGpuError, PlanMismatchError, PlanVersionError
from tests.support.plans import L4, ORIN, RTX, profile, record
from tests.support.toy import write_toy_engine_dir

ENGINES = Path("engines/fiffdepth")


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
    return msgspec.structs.replace(toy, plans=listed)


# --- where a plan may run ---


def test_a_plan_runs_where_it_was_built() -> None:
    check_fits(record(), L4, ENGINES)


def test_another_tensorrt_names_both_versions_and_the_command() -> None:
    with pytest.raises(PlanMismatchError) as error:
        check_fits(record(), dataclasses.replace(L4, tensorrt_version="11.4.0.106"), ENGINES)
    message = str(error.value)
    assert "TensorRT 10.16.1.11; this machine has 11.4.0.106" in message
    assert "Run: fiffdepth build engines/fiffdepth --precision fp16 --grid 512x512" in message


def test_another_capability_is_refused_also_for_a_compatible_plan() -> None:
    a10 = dataclasses.replace(L4, gpu_name="NVIDIA A10", compute_capability="8.6")
    for compatibility in ("none", "same_compute_capability"):
        with pytest.raises(PlanMismatchError, match=r"capability 8\.9; this machine has NVIDIA A10, of 8\.6"):
            check_fits(record(hardware_compatibility=compatibility), a10, ENGINES)


def test_another_gpu_of_the_capability_needs_a_compatible_plan() -> None:
    l40 = dataclasses.replace(L4, gpu_name="NVIDIA L40")
    with pytest.raises(
        PlanMismatchError, match=r"for NVIDIA L4 only.*--hardware-compatible, a plan is for every"
    ):
        check_fits(record(), l40, ENGINES)
    check_fits(record(hardware_compatibility="same_compute_capability"), l40, ENGINES)


def test_an_old_tensorrt_is_not_offered_what_it_cannot_do() -> None:
    other = dataclasses.replace(ORIN, gpu_name="Orin NX")
    with pytest.raises(PlanMismatchError) as error:
        check_fits(record(ORIN), other, ENGINES)
    assert "--hardware-compatible" not in str(error.value)
    assert "Run: fiffdepth build engines/fiffdepth" in str(error.value)


def test_the_mending_command_asks_for_what_the_plan_had() -> None:
    plan = record(profiles=(profile(512, 512), profile(512, 512, 4), profile(384, 640), profile(384, 640, 4)))
    assert rebuild_command(plan, ENGINES) == (
        "fiffdepth build engines/fiffdepth --precision fp16 --grid 512x512 --grid 384x640 --batch 1 --batch 4"
    )


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
        with pytest.raises(error, match="Run: fiffdepth build engines/fiffdepth"):
            lanes(manifest, ("fp32",), dataclasses.replace(L4, **changed), ENGINES)
    stale = with_plans(toy, *(msgspec.structs.replace(plan, graph_sha256="f" * 64) for plan in plans(toy)))
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


# --- TensorRT for RTX ---

PORTABLE = record(RTX, hardware_compatibility="ampere_plus")
TURING = record(RTX, compute_capability="7.5", hardware_compatibility="same_compute_capability")


def card(compute_capability: str, version: str = "1.7.1.116") -> Target:
    return Target(
        flavour=TENSORRT_RTX,
        gpu_name="NVIDIA GeForce",
        compute_capability=compute_capability,
        tensorrt_version=version,
    )


@pytest.mark.parametrize("compute_capability", ["8.0", "8.6", "8.9", "12.0", "12.1"])
def test_a_portable_plan_is_for_ampere_and_newer(compute_capability: str) -> None:
    check_fits(PORTABLE, card(compute_capability), ENGINES)
    with pytest.raises(PlanGpuError, match=r"built for GPUs of compute capability 7\.5"):
        check_fits(TURING, card(compute_capability), ENGINES)


def test_turing_has_a_plan_of_its_own_and_older_gpus_none() -> None:
    check_fits(TURING, card("7.5"), ENGINES)
    for older in ("7.5", "6.1"):
        with pytest.raises(PlanGpuError, match=r"\(Ampere\) and newer.*--compute-capability 7\.5"):
            check_fits(PORTABLE, card(older), ENGINES)


def test_a_portable_plan_is_for_one_release_whatever_its_build_number() -> None:
    check_fits(PORTABLE, card("8.9", "1.7.1.115"), ENGINES)
    for version in ("1.7.2.116", "1.6.1.120", "1.8.0.1"):
        with pytest.raises(PlanVersionError, match=r"built by TensorRT for RTX 1\.7\.1\.116.*--flavour rtx"):
            check_fits(PORTABLE, card("8.9", version), ENGINES)

"""Promises of which plans are built: options, graph sets, shapes, names and digests. All by value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.jobs import (
    PlanJob,
    Request,
    check_exported,
    check_options,
    check_profile,
    choose_precision,
    choose_profiles,
    find_built,
    find_profile,
    graph_digest,
    number_format,
    plan_file,
    plan_jobs,
    portable_target,
)
from fiffdepth_rt.backends.tensorrt.versions import Release, parse_version
from fiffdepth_rt.engine_dir.manifest import FileRecord, Manifest, SizeLimits, read_manifest
from fiffdepth_rt.errors import BuildError, SizeError
from tests.support.plans import L4, ORIN, RTX, fixed, profile, record
from tests.support.toy import write_toy_engine_dir

ENGINES = Path("engines/fiffdepth")


def trt(version: str) -> Release:
    return Release(flavour=TENSORRT, version=parse_version(version))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The toy's: default 256 px, at most 1024, in multiples of 64; fp32 and bf16 graphs."""
    return read_manifest(
        write_toy_engine_dir(tmp_path_factory.mktemp("e") / "t", precisions=("fp32", "bf16"))
    )


# --- options ---


@pytest.mark.parametrize(
    ("version", "request_", "words"),
    [
        ("8.5.3.1", Request(opt_level=3), ("--opt-level", "8.6", "8.5.3.1")),
        ("8.6.1", Request(strip_plan=True), ("--strip-plan", "10.0", "8.6.1")),
        ("10.3.0", Request(hardware_compatible=True), ("10.12", "10.3.0", "on each GPU model")),
        ("10.3.0", Request(opt_level=6), ("0 to 5",)),
        ("10.3.0", Request(workspace_mib=0), ("MiB",)),
    ],
)
def test_an_option_that_is_not_there_names_the_alternative(
    version: str, request_: Request, words: tuple[str, ...]
) -> None:
    with pytest.raises(BuildError) as error:
        check_options(trt(version), request_)
    for word in words:
        assert word in str(error.value)


def test_options_that_are_there_are_taken() -> None:
    everything = Request(opt_level=5, workspace_mib=4096, strip_plan=True, hardware_compatible=True)
    check_options(trt("10.12.0"), everything)
    check_options(trt("11.4.0.106"), everything)
    check_options(trt("8.5.3.1"), Request(workspace_mib=1))


# --- graph sets ---


def with_sets(manifest: Manifest, **opsets: int) -> Manifest:
    graphs = manifest.graph_sets["fp32"]
    return msgspec.structs.replace(
        manifest,
        graph_sets={
            name.replace("_", "-").replace("trt85", "trt8.5"): msgspec.structs.replace(graphs, opset=opset)
            for name, opset in opsets.items()
        },
    )


@pytest.mark.parametrize(
    ("precision", "found"), [("fp16", "fp16"), ("fp16-trt8.5", "fp16"), ("bf16-512x512", "bf16")]
)
def test_a_graph_set_names_the_number_format_it_computes_in(precision: str, found: str) -> None:
    assert number_format(precision) == found


def test_a_precision_that_was_not_exported_names_the_export_command(manifest: Manifest) -> None:
    with pytest.raises(
        BuildError, match=r"fp16 was not exported.*python -m export\.build_engines CHECKPOINT "
    ):
        check_exported(manifest, "fp16", ENGINES)
    with pytest.raises(BuildError, match=r"-o engines/fiffdepth --precision fp16$"):
        check_exported(manifest, "fp16", ENGINES)


def test_a_set_that_is_not_for_tensorrt_is_not_built(manifest: Manifest) -> None:
    graphs = msgspec.structs.replace(manifest.graph_sets["fp32"], opset=99)
    elsewhere = msgspec.structs.replace(manifest, graph_sets={"fp32": graphs})
    for precision in ("fp32", None):
        with pytest.raises(BuildError, match="holds none for TensorRT"):
            check_exported(elsewhere, precision, ENGINES)


@pytest.mark.parametrize(
    ("version", "opsets", "chosen"),
    [
        ("10.3.0", {"fp32": 18, "fp16": 18, "bf16": 22}, "fp16"),
        ("11.4.0.106", {"fp32": 18, "bf16": 22}, "bf16"),
        ("10.3.0", {"fp32": 18, "bf16": 22}, "fp32"),  # it reads no opset 22
        ("8.5.3.1", {"fp16": 18, "fp16_trt85": 16}, "fp16-trt8.5"),
        ("10.3.0", {"fp16": 18, "fp16_trt85": 16}, "fp16"),
    ],
)
def test_the_fastest_set_that_this_tensorrt_reads_is_chosen(
    manifest: Manifest, version: str, opsets: dict[str, int], chosen: str
) -> None:
    assert choose_precision(with_sets(manifest, **opsets), None, trt(version), ENGINES) == chosen


def test_a_set_asked_for_by_name_is_that_set(manifest: Manifest) -> None:
    sets = with_sets(manifest, fp16=18, fp32=18)
    assert choose_precision(sets, "fp32", trt("10.3.0"), ENGINES) == "fp32"


def test_graphs_too_new_for_this_tensorrt_name_the_export_that_is_not(manifest: Manifest) -> None:
    with pytest.raises(BuildError, match=r"up to opset 17.*--target trt8\.5"):
        choose_precision(with_sets(manifest, fp16=18), None, trt("8.5.3.1"), ENGINES)


def test_the_graph_digest_changes_with_the_weights_beside_the_graph(manifest: Manifest) -> None:
    graphs = manifest.graph_sets["fp32"]
    unet = msgspec.structs.replace(graphs.stages["unet"], external_data=("graphs/fp32/unet.onnx.data",))
    sets = {"fp32": msgspec.structs.replace(graphs, stages={**graphs.stages, "unet": unet})}

    def digest(weights: str) -> str:
        data = FileRecord(sha256=weights * 64, bytes=1)
        files = {**manifest.files, "graphs/fp32/unet.onnx.data": data}
        return graph_digest(msgspec.structs.replace(manifest, graph_sets=sets, files=files), "fp32", "unet")

    assert digest("a") != digest("b")
    assert digest("a") == digest("a")
    assert digest("a") != graph_digest(manifest, "fp32", "unet")


# --- profiles ---


def test_each_grid_goes_with_each_batch(manifest: Manifest) -> None:
    request = Request(grids=((256, 256), (192, 320)), batches=(1, 4))
    profiles = choose_profiles(request, manifest, manifest.graph_sets["fp32"], [(192, 320)])
    assert profiles == (profile(256, 256), profile(256, 256, 4), profile(192, 320), profile(192, 320, 4))


def test_without_a_grid_it_is_a_square_of_the_default_size(manifest: Manifest) -> None:
    graphs = manifest.graph_sets["fp32"]
    assert choose_profiles(Request(), manifest, graphs, [(256, 256)]) == (profile(256, 256),)
    odd = msgspec.structs.replace(manifest, size=SizeLimits(default=250, max=1024, multiple=64))
    assert choose_profiles(Request(), odd, graphs, [(256, 256)]) == (profile(256, 256),)


def test_a_grid_without_a_golden_photo_brings_one_that_has(manifest: Manifest) -> None:
    profiles = choose_profiles(
        Request(batches=(2,)), manifest, manifest.graph_sets["fp32"], [(192, 256), (256, 192)]
    )
    assert profiles == (profile(256, 256, 2), profile(192, 256, 1))


def test_the_same_grid_twice_is_one_profile(manifest: Manifest) -> None:
    request = Request(grids=((256, 256), (256, 256)), batches=(1, 1))
    assert choose_profiles(request, manifest, manifest.graph_sets["fp32"], [(256, 256)]) == (
        profile(256, 256),
    )


@pytest.mark.parametrize(("height", "width"), [(250, 256), (256, 1088), (0, 64), (64, -64)])
def test_a_grid_that_the_model_does_not_take_is_refused(manifest: Manifest, height: int, width: int) -> None:
    with pytest.raises(SizeError, match="takes sides in multiples of 64, up to 1024"):
        check_profile(profile(height, width), manifest, manifest.graph_sets["fp32"])


def test_fixed_graphs_are_built_for_what_they_are_for(manifest: Manifest) -> None:
    graphs = fixed(manifest, 480, 640)
    assert choose_profiles(Request(), manifest, graphs, [(480, 640)]) == (profile(480, 640),)
    assert choose_profiles(Request(), manifest, graphs, [(256, 256)]) == (profile(480, 640),)
    with pytest.raises(SizeError, match="exported for images of batch×480×640×3"):
        check_profile(profile(512, 512), manifest, graphs)


def test_an_input_finds_the_profile_of_its_shape(manifest: Manifest) -> None:
    plan = record(profiles=(profile(256, 256), profile(192, 320), profile(192, 320, 4)))
    job = PlanJob(record=plan, graph=Path("unet.onnx"), stage=manifest.graph_sets["fp32"].stages["unet"])
    assert find_profile(job, (1, 4, 32, 32)) == 0
    assert find_profile(job, (1, 4, 24, 40)) == 1
    assert find_profile(job, (4, 4, 24, 40)) == 2
    with pytest.raises(SizeError, match="1×4×32×32, 1×4×24×40, 4×4×24×40, not 2×4×24×40"):
        find_profile(job, (2, 4, 24, 40))


# --- names, journeys ---


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (L4, "plans/unet.fp16.nvidia-l4-sm89.trt10.16.1.11.plan"),
        (ORIN, "plans/unet.fp16.orin-sm87.trt10.3.0.plan"),
        (
            Target(
                gpu_name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
                compute_capability="9.0",
                tensorrt_version="11.4.0.106",
            ),
            "plans/unet.fp16.nvidia-h100-80gb-hbm3-mig-1g-10gb-sm90.trt11.4.0.106.plan",
        ),
        (
            Target(gpu_name="../\0", compute_capability="12.0", tensorrt_version="8.5.3.1"),
            "plans/unet.fp16.gpu-sm120.trt8.5.3.1.plan",
        ),
    ],
)
def test_a_plan_is_named_by_stage_precision_gpu_and_version(target: Target, name: str) -> None:
    assert plan_file("unet", "fp16", target) == name


def test_a_plan_for_every_gpu_of_a_capability_names_none() -> None:
    name = plan_file("unet", "fp16", L4, compatibility="same_compute_capability")
    assert name == "plans/unet.fp16.any-sm89.trt10.16.1.11.plan"


def test_a_static_plan_is_named_by_its_grid_and_batch() -> None:
    name = plan_file("decoder", "fp32", L4, static=profile(384, 640, 4))
    assert name == "plans/decoder.fp32.nvidia-l4-sm89.trt10.16.1.11.384x640b4.plan"


@given(name=st.text(max_size=40))
def test_no_name_of_a_gpu_leads_out_of_the_folder(name: str) -> None:
    target = dataclasses.replace(L4, gpu_name=name)
    folder, _, file = plan_file("unet", "fp16", target).partition("/")
    assert folder == "plans" and "/" not in file and "\\" not in file and ":" not in file
    assert not file.startswith(".") and file.isprintable() and file.endswith(".plan")


def jobs(manifest: Manifest, **options: object) -> tuple[tuple[PlanJob, ...], ...]:
    return plan_jobs(
        Request(**options),  # type: ignore[arg-type]
        manifest,
        L4,
        directory=ENGINES,
        precision="fp32",
        profiles=(profile(256, 256), profile(192, 320)),
    )


def test_one_plan_per_stage_holds_all_profiles(manifest: Manifest) -> None:
    (journey,) = jobs(manifest)
    assert [job.record.stage for job in journey] == ["encoder", "unet", "decoder"]
    assert {job.record.profiles for job in journey} == {(profile(256, 256), profile(192, 320))}
    assert journey[1].graph == ENGINES / "graphs" / "fp32" / "unet.onnx"
    assert journey[1].record.graph_sha256 == graph_digest(manifest, "fp32", "unet")


def test_static_makes_a_journey_of_plans_per_profile(manifest: Manifest) -> None:
    first, second = jobs(manifest, static=True)
    assert {job.record.profiles for job in first} == {(profile(256, 256),)}
    assert {job.record.profiles for job in second} == {(profile(192, 320),)}
    assert len({job.record.file for job in (*first, *second)}) == 6


def test_the_options_of_a_build_are_recorded(manifest: Manifest) -> None:
    options = {"opt_level": 2, "workspace_mib": 512, "strip_plan": True, "hardware_compatible": True}
    plan = jobs(manifest, **options)[0][0].record
    assert (plan.opt_level, plan.workspace_mib, plan.stripped) == (2, 512, True)
    assert plan.hardware_compatibility == "same_compute_capability"


def test_a_plan_is_found_again_whenever_it_was_built() -> None:
    built = record(built={"date": "2026-01-01", "seconds": 3.0})
    assert find_built([record(stage="encoder"), built], record()) == built


@pytest.mark.parametrize(
    "change",
    [
        {"graph_sha256": "1" * 64},
        {"opt_level": 5},
        {"workspace_mib": 1},
        {"stripped": True},
        {"profiles": (profile(512, 512), profile(256, 256))},
        {"gpu_name": "NVIDIA L40"},
        {"tensorrt_version": "10.16.0"},
        {"hardware_compatibility": "same_compute_capability"},
    ],
)
def test_a_plan_of_another_graph_option_gpu_or_version_is_another_plan(change: dict[str, object]) -> None:
    assert find_built([record(**change)], record()) is None


# --- TensorRT for RTX ---


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(opt_level=3), ("--opt-level is for TensorRT", "ignores it", "Leave it out")),
        (Request(strip_plan=True), ("--strip-plan is for TensorRT", "on a GPU only")),
        (Request(hardware_compatible=True), ("--hardware-compatible", "--compute-capability")),
        (Request(compute_capability="9.0"), ("9.0", "7.5, 8.0, 8.6, 8.9, 12.0, 12.1")),
        (Request(workspace_mib=0), ("MiB",)),
    ],
)
def test_rtx_refuses_what_it_lacks_or_ignores(request_: Request, words: tuple[str, ...]) -> None:
    with pytest.raises(BuildError) as error:
        check_options(RTX.release, dataclasses.replace(request_, flavour=TENSORRT_RTX))
    assert all(word in str(error.value) for word in words)


def test_tensorrt_builds_for_no_other_gpu_than_its_own() -> None:
    with pytest.raises(BuildError, match=r"Leave --compute-capability out, or say --flavour rtx"):
        check_options(trt("10.16.1.11"), Request(compute_capability="7.5"))


def test_turing_gets_fp16_alone(manifest: Manifest) -> None:
    sets = with_sets(manifest, fp16=20, bf16=20, fp32=20)
    assert choose_precision(sets, None, RTX.release, ENGINES) == "fp16"
    assert choose_precision(sets, None, RTX.release, ENGINES, "7.5") == "fp16"
    for precision in ("bf16", "fp32"):
        assert choose_precision(sets, precision, RTX.release, ENGINES) == precision
        with pytest.raises(BuildError, match=rf"computes no {precision} on GPUs of .* 7\.5 \(Turing\)"):
            choose_precision(sets, precision, RTX.release, ENGINES, "7.5")


@pytest.mark.parametrize(
    ("asked", "name", "capability", "compatibility"),
    [
        (None, "plans/unet.fp32.sm80plus.trtrtx1.7.1.116.plan", "8.0", "ampere_plus"),
        ("7.5", "plans/unet.fp32.sm75.trtrtx1.7.1.116.plan", "7.5", "same_compute_capability"),
        ("12.0", "plans/unet.fp32.sm120.trtrtx1.7.1.116.plan", "12.0", "same_compute_capability"),
    ],
)
def test_a_portable_plan_names_capability_and_version(
    manifest: Manifest, asked: str | None, name: str, capability: str, compatibility: str
) -> None:
    request = Request(flavour=TENSORRT_RTX, compute_capability=asked)
    ((_, unet, _),) = plan_jobs(
        request,
        manifest,
        portable_target(request, RTX.release),
        directory=ENGINES,
        precision="fp32",
        profiles=(profile(256, 256),),
    )
    assert unet.record.file == name
    assert (unet.record.flavour, unet.record.gpu_name) == ("tensorrt-rtx", None)
    assert (unet.record.compute_capability, unet.record.hardware_compatibility) == (capability, compatibility)

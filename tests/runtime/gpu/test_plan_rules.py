"""Promises of the plans' names, their shapes, their options, and of where they may run. All by value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiffdepth_rt.backends.tensorrt.versions import (
    PlanJob,
    Request,
    Target,
    builder_flags,
    check_exported,
    check_fits,
    check_options,
    check_profile,
    check_supported,
    choose_precision,
    choose_profiles,
    find_built,
    find_profile,
    graph_digest,
    input_shape,
    max_opset,
    network_flags,
    parse_version,
    parser_flags,
    plan_file,
    plan_jobs,
    rebuild_command,
    replace_parity,
    tactic_sources,
)
from fiffdepth_rt.engine_dir.manifest import (
    FileRecord,
    GraphSet,
    Manifest,
    PlanProfile,
    PlanRecord,
    SizeLimits,
    Stage,
    TensorSpec,
    read_manifest,
)
from fiffdepth_rt.errors import BackendUnavailableError, BuildError, PlanMismatchError, SizeError
from tests.support.toy import write_toy_engine_dir

L4 = Target(gpu_name="NVIDIA L4", compute_capability="8.9", tensorrt_version="10.16.1.11")
ORIN = Target(gpu_name="Orin", compute_capability="8.7", tensorrt_version="10.3.0")
ENGINES = Path("engines/fiffdepth")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The toy's: default 256 px, at most 1024, in multiples of 64; fp32 and bf16 graphs."""
    return read_manifest(
        write_toy_engine_dir(tmp_path_factory.mktemp("e") / "t", precisions=("fp32", "bf16"))
    )


def profile(height: int, width: int, batch: int = 1) -> PlanProfile:
    return PlanProfile(grid=(height, width), batch=batch)


def record(target: Target = L4, **changes: object) -> PlanRecord:
    plan = PlanRecord(
        stage="unet",
        precision="fp16",
        file=plan_file("unet", "fp16", target),
        gpu_name=target.gpu_name,
        compute_capability=target.compute_capability,
        tensorrt_version=target.tensorrt_version,
        profiles=(profile(512, 512),),
        hardware_compatibility="none",
        stripped=False,
        opt_level=None,
        workspace_mib=None,
        graph_sha256="0" * 64,
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def fixed(manifest: Manifest, height: int, width: int) -> GraphSet:
    """The toy's fp32 graphs as an export with --static would list them."""
    sizes = {"height": height, "width": width, "height/8": height // 8, "width/8": width // 8}

    def fix(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            dataclasses.replace(spec, shape=tuple(sizes.get(d, d) for d in spec.shape))
            for spec in specs  # type: ignore[call-overload]
        )

    graphs = manifest.graph_sets["fp32"]
    stages = {
        name: Stage(file=stage.file, inputs=fix(stage.inputs), outputs=fix(stage.outputs))
        for name, stage in graphs.stages.items()
    }
    return dataclasses.replace(graphs, stages=stages)


# --- versions ---


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("8.5.3.1", (8, 5, 3, 1)),
        ("8.6.1.post1", (8, 6, 1)),
        ("10.3.0", (10, 3, 0)),
        ("10.16.1.11", (10, 16, 1, 11)),
        ("11.4.0.106", (11, 4, 0, 106)),
    ],
)
def test_a_version_is_its_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_versions_are_ordered_by_number_not_by_letter() -> None:
    assert parse_version("10.3.0") < parse_version("10.12.0") < parse_version("11.4.0.106")
    assert parse_version("8.5.3.1") < parse_version("10.3.0")


@pytest.mark.parametrize("text", ["", "ten", "v10.3"])
def test_what_is_no_version_is_said_to_be_none(text: str) -> None:
    with pytest.raises(BackendUnavailableError, match="is not understood"):
        parse_version(text)


@pytest.mark.parametrize("text", ["8.4.3", "12.0.0", "7.1"])
def test_an_unknown_tensorrt_is_refused_with_a_command(text: str) -> None:
    with pytest.raises(
        BackendUnavailableError, match=r"8\.5 to 11 are\. Run: pip install 'fiffdepth-rt\[tens"
    ):
        check_supported(text)


@pytest.mark.parametrize("text", ["8.5.3.1", "8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106"])
def test_the_versions_on_robots_are_supported(text: str) -> None:
    check_supported(text)


@pytest.mark.parametrize(
    ("version", "network", "parser", "tactics", "opset"),
    [
        ("8.5.3.1", ("EXPLICIT_BATCH",), (), ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"), 17),
        (
            "8.6.1",
            ("EXPLICIT_BATCH",),
            ("NATIVE_INSTANCENORM",),
            ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
            17,
        ),
        (
            "9.3.0",
            ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
            ("NATIVE_INSTANCENORM",),
            ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
            19,
        ),
        ("10.3.0", ("STRONGLY_TYPED",), (), None, 20),
        ("10.9.0", ("STRONGLY_TYPED",), (), None, 22),
        ("10.16.1.11", ("STRONGLY_TYPED",), (), None, 24),
        ("11.4.0.106", ("STRONGLY_TYPED",), (), None, 25),
    ],
)
def test_each_version_is_driven_by_its_own_flags(
    version: str,
    network: tuple[str, ...],
    parser: tuple[str, ...],
    tactics: tuple[str, ...] | None,
    opset: int,
) -> None:
    number = parse_version(version)
    assert network_flags(number) == network
    assert parser_flags(number) == parser
    assert tactic_sources(number) == tactics
    assert max_opset(number) == opset


def test_precision_is_a_flag_only_where_types_are_weak() -> None:
    old, new = parse_version("8.5.3.1"), parse_version("11.4.0.106")
    assert builder_flags(old, record(precision="fp16-trt8.5")) == ("FP16",)
    assert builder_flags(old, record(precision="fp32")) == ()
    for precision in ("fp32", "fp16", "bf16"):
        assert builder_flags(new, record(precision=precision)) == ("DISABLE_COMPILATION_CACHE",)


def test_bf16_before_tensorrt_9_is_refused() -> None:
    with pytest.raises(BuildError, match=r"8\.5\.3\.1 computes no bf16.*Build --precision fp16 or fp32"):
        builder_flags(parse_version("8.5.3.1"), record(precision="bf16"))


def test_a_stripped_plan_can_be_refitted_with_the_same_weights() -> None:
    flags = builder_flags(parse_version("10.3.0"), record(stripped=True))
    assert flags[-2:] == ("STRIP_PLAN", "REFIT_IDENTICAL")


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
        check_options(parse_version(version), request_)
    for word in words:
        assert word in str(error.value)


def test_options_that_are_there_are_taken() -> None:
    everything = Request(opt_level=5, workspace_mib=4096, strip_plan=True, hardware_compatible=True)
    check_options(parse_version("10.12.0"), everything)
    check_options(parse_version("11.4.0.106"), everything)
    check_options(parse_version("8.5.3.1"), Request(workspace_mib=1))


# --- graph sets ---


def with_sets(manifest: Manifest, **opsets: int) -> Manifest:
    graphs = manifest.graph_sets["fp32"]
    return dataclasses.replace(
        manifest,
        graph_sets={
            name.replace("_", "-").replace("trt85", "trt8.5"): dataclasses.replace(graphs, opset=opset)
            for name, opset in opsets.items()
        },
    )


def test_a_precision_that_was_not_exported_names_the_export_command(manifest: Manifest) -> None:
    with pytest.raises(
        BuildError, match=r"fp16 was not exported.*python -m export\.build_engines CHECKPOINT "
    ):
        check_exported(manifest, "fp16", ENGINES)
    with pytest.raises(BuildError, match=r"-o engines/fiffdepth --precision fp16$"):
        check_exported(manifest, "fp16", ENGINES)


def test_a_set_that_is_not_for_tensorrt_is_not_built(manifest: Manifest) -> None:
    graphs = dataclasses.replace(manifest.graph_sets["fp32"], backends=("onnxruntime",))
    elsewhere = dataclasses.replace(manifest, graph_sets={"fp32": graphs})
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
    assert choose_precision(with_sets(manifest, **opsets), None, parse_version(version), ENGINES) == chosen


def test_a_set_asked_for_by_name_is_that_set(manifest: Manifest) -> None:
    sets = with_sets(manifest, fp16=18, fp32=18)
    assert choose_precision(sets, "fp32", parse_version("10.3.0"), ENGINES) == "fp32"


def test_graphs_too_new_for_this_tensorrt_name_the_export_that_is_not(manifest: Manifest) -> None:
    with pytest.raises(BuildError, match=r"up to opset 17.*--target trt8\.5"):
        choose_precision(with_sets(manifest, fp16=18), None, parse_version("8.5.3.1"), ENGINES)


def test_the_graph_digest_changes_with_the_weights_beside_the_graph(manifest: Manifest) -> None:
    graphs = manifest.graph_sets["fp32"]
    unet = dataclasses.replace(graphs.stages["unet"], external_data=("graphs/fp32/unet.onnx.data",))
    sets = {"fp32": dataclasses.replace(graphs, stages={**graphs.stages, "unet": unet})}

    def digest(weights: str) -> str:
        data = FileRecord(sha256=weights * 64, bytes=1)
        files = {**manifest.files, "graphs/fp32/unet.onnx.data": data}
        return graph_digest(dataclasses.replace(manifest, graph_sets=sets, files=files), "fp32", "unet")

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
    odd = dataclasses.replace(manifest, size=SizeLimits(default=250, max=1024, multiple=64))
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


def test_a_profile_gives_every_tensor_its_shape(manifest: Manifest) -> None:
    stages = manifest.graph_sets["fp32"].stages
    two = profile(192, 320, 2)
    assert input_shape(stages["encoder"].inputs[0], two) == (2, 192, 320, 3)
    assert input_shape(stages["unet"].inputs[0], two) == (2, 4, 24, 40)
    assert input_shape(stages["decoder"].inputs[0], two) == (2, 4, 24, 40)
    assert input_shape(stages["decoder"].outputs[0], two) == (2, 192, 320)
    static = fixed(manifest, 480, 640).stages
    assert input_shape(static["unet"].inputs[0], profile(480, 640)) == (1, 4, 60, 80)


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
    name = plan_file("unet", "fp16", L4, hardware_compatible=True)
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


# --- the parity table ---


def test_new_parity_takes_the_place_of_its_own_plans_rows_only() -> None:
    def row(**changes: object) -> dict[str, object]:
        return {
            "graph_set": "fp16",
            "backend": "tensorrt",
            "device": "NVIDIA L4",
            "tensorrt_version": "10.16.1.11",
            "stage": "unet",
            "grid": "512x512",
        } | changes

    kept = [
        row(backend="onnxruntime", device="cpu"),
        row(stage="encoder"),
        row(graph_set="fp32"),
        row(device="Orin"),
        row(tensorrt_version="10.3.0"),
        row(grid="256x256"),
    ]
    gone = [row(), row(stage="chain")]
    new = [row(passed=True)]
    assert replace_parity([*gone, *kept, *gone], record(), new) == (*kept, *new)

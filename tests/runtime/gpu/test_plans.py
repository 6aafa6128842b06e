"""Promises of building plans. TensorRT needs a GPU; here ONNX Runtime stands in for it, behind `Workshop`.

What decides which plan is built, checked, listed, kept or refused is the real thing; a "plan" is a copy of
the graph, and running one runs the graph. The tests at the end are marked gpu: they want TensorRT itself.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from fiffdepth_rt.backends.tensorrt import backend as tensorrt_here
from fiffdepth_rt.backends.tensorrt.build import Finished, build_plans
from fiffdepth_rt.backends.tensorrt.progress import OnProgress, Phases
from fiffdepth_rt.backends.tensorrt.versions import PlanJob, Request, Target, find_profile
from fiffdepth_rt.engine_dir.manifest import (
    JOURNEY,
    STAGES,
    PlanProfile,
    TensorSpec,
    hash_file,
    open_engine_dir,
    read_manifest,
    write_manifest,
)
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    BuildError,
    HashMismatchError,
    ManifestError,
    OutputError,
    ParityError,
    SizeError,
)
from fiffdepth_rt.program import program
from tests.support.toy import toy_golden, write_toy_engine_dir

GOLDEN_GRID = (128, 192)  # where the toy's golden images lie
AT_GOLDEN = Request(grids=(GOLDEN_GRID,), precision="fp32")
L4 = Target(gpu_name="NVIDIA L4", compute_capability="8.9", tensorrt_version="10.16.1.11")


class StandIn:
    """ONNX Runtime in the place of TensorRT. spoil: what is added to the outputs of a stage, by stage."""

    versions = {"driver_cuda": "13.0"}  # noqa: RUF012

    def __init__(self, target: Target = L4, **spoil: float) -> None:
        self.target = target
        self.spoil = spoil
        self.built: list[str] = []
        self.breaks_at: str | None = None

    def build(
        self, job: PlanJob, into: BinaryIO, *, timing_cache: Path, on_progress: OnProgress | None
    ) -> None:
        if job.record.stage == self.breaks_at:
            into.write(b"half a plan")
            raise KeyboardInterrupt
        into.write(job.graph.read_bytes())
        timing_cache.write_bytes(b"timings")
        self.built.append(job.record.stage)

    def open(self, plan: Path, job: PlanJob) -> StandInPlan:
        return StandInPlan(plan, job, self.spoil.get(job.record.stage, 0.0))


class StandInPlan:
    """A copy of a graph, which runs at the profiles of its record only."""

    def __init__(self, plan: Path, job: PlanJob, spoil: float) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(plan.read_bytes(), options)
        self._job = job
        self._spoil = np.float32(spoil)

    def __call__(self, value: np.ndarray) -> np.ndarray:
        find_profile(self._job, value.shape)
        takes, gives = JOURNEY[self._job.record.stage]
        return self._session.run([gives[-1]], {takes[0]: value})[0] + self._spoil

    def close(self) -> None:
        del self._session


def plan_files(directory: Path) -> set[str]:
    """Everything that lies in plans/, hidden or not."""
    return {path.name for path in (directory / "plans").iterdir()}


def edit(directory: Path, **changes: Any) -> None:
    write_manifest(directory, dataclasses.replace(read_manifest(directory), **changes))


# --- what a build leaves ---


def test_a_build_lists_a_checked_plan_for_every_stage(toy_dir: Path) -> None:
    before = read_manifest(toy_dir)
    records = build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    manifest = open_engine_dir(toy_dir).manifest  # every hash agrees
    assert manifest.plans == records
    assert [plan.stage for plan in records] == list(STAGES)
    for plan in records:
        assert plan.file == f"plans/{plan.stage}.fp32.nvidia-l4-sm89.trt10.16.1.11.plan"
        assert manifest.files[plan.file] == hash_file(toy_dir / plan.file)
        assert plan.profiles == (PlanProfile(grid=GOLDEN_GRID, batch=1),)
        assert plan.built["driver_cuda"] == "13.0"
    assert plan_files(toy_dir) == {Path(plan.file).name for plan in records}
    unchanged = {"graph_sets", "golden", "provenance", "licence", "size", "name"}
    for field in unchanged:
        assert getattr(manifest, field) == getattr(before, field)
    assert manifest.files.items() >= before.files.items()


def test_the_parity_of_every_stage_and_of_the_journey_is_recorded(toy_dir: Path) -> None:
    before = read_manifest(toy_dir).parity
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    rows = read_manifest(toy_dir).parity
    assert rows[: len(before)] == before
    new = rows[len(before) :]
    assert [(row["stage"], row["image"]) for row in new] == [
        (stage, image) for stage in (*STAGES, "chain") for image in ("photo0", "photo1", "noise")
    ]
    for row in new:
        assert (row["backend"], row["device"], row["grid"]) == ("tensorrt", "NVIDIA L4", "128x192")
        assert row["tensorrt_version"] == "10.16.1.11"
        assert row["passed"] is True and row["max_abs"] < 1e-5


def test_plans_are_listed_for_a_reader_of_info(toy_dir: Path) -> None:
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    text = CliRunner().invoke(program, ["info", str(toy_dir)]).stdout
    assert (
        "fp32 unet: 0.0 MB, for NVIDIA L4 of compute capability 8.9 and TensorRT 10.16.1.11; 128x192 batch 1"
        in text
    )


def test_a_directory_with_plans_still_gives_depth(toy_dir: Path, photo: np.ndarray) -> None:
    import fiffdepth_rt

    with fiffdepth_rt.Depth(toy_dir, threads=1) as depth:
        before = depth.infer(photo)
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    with fiffdepth_rt.Depth(toy_dir, threads=1) as depth:
        np.testing.assert_array_equal(depth.infer(photo), before)


def test_each_grid_and_batch_is_a_profile_of_one_plan(toy_dir: Path) -> None:
    request = Request(grids=(GOLDEN_GRID, (64, 128)), batches=(1, 3), precision="fp32")
    records = build_plans(toy_dir, request, workshop=StandIn())
    assert len(records) == 3
    assert records[0].profiles == tuple(
        PlanProfile(grid=grid, batch=batch) for grid in (GOLDEN_GRID, (64, 128)) for batch in (1, 3)
    )
    judged = {
        (row["grid"], row["batch"]) for row in read_manifest(toy_dir).parity if row["backend"] == "tensorrt"
    }
    assert judged == {("128x192", 1), ("128x192", 3), ("64x128", 1), ("64x128", 3)}


def test_a_grid_without_reference_is_checked_where_there_is_one_and_says_so(
    toy_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fiffdepth_rt"):
        records = build_plans(toy_dir, Request(precision="fp32"), workshop=StandIn())
    assert [p.grid for p in records[0].profiles] == [(256, 256), GOLDEN_GRID]
    (row,) = [row for row in read_manifest(toy_dir).parity if row.get("grid") == "256x256"]
    assert (row["stage"], row["gated"]) == ("chain", False)
    assert row["note"] == "no reference at this grid: only checked for finite depth"
    assert "256x256: golden.npz has no reference there" in caplog.text


def test_static_plans_stand_side_by_side(toy_dir: Path) -> None:
    request = Request(grids=(GOLDEN_GRID, (64, 64)), precision="fp32", static=True)
    records = build_plans(toy_dir, request, workshop=StandIn())
    assert [(plan.stage, plan.profiles[0].grid) for plan in records] == [
        (stage, grid) for grid in (GOLDEN_GRID, (64, 64)) for stage in STAGES
    ]
    assert plan_files(toy_dir) == {Path(plan.file).name for plan in records}
    open_engine_dir(toy_dir)


def test_plans_of_several_machines_share_a_directory(toy_dir: Path) -> None:
    orin = Target(gpu_name="Orin", compute_capability="8.7", tensorrt_version="10.3.0")
    first = build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    second = build_plans(toy_dir, AT_GOLDEN, workshop=StandIn(orin))
    manifest = open_engine_dir(toy_dir).manifest
    assert manifest.plans == (*first, *second)
    devices = [row["device"] for row in manifest.parity if row["backend"] == "tensorrt"]
    assert sorted(set(devices)) == ["NVIDIA L4", "Orin"] and len(devices) == 24


# --- resuming, replacing ---


def test_the_same_build_again_keeps_every_plan(toy_dir: Path) -> None:
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    before = (toy_dir / "manifest.json").read_bytes()
    again, finished = StandIn(), list[Finished]()
    build_plans(toy_dir, AT_GOLDEN, workshop=again, on_finished=finished.append)
    assert again.built == []
    assert [one.kept for one in finished] == [True, True, True]
    assert (toy_dir / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_build_goes_on_where_it_was(toy_dir: Path, stage: str) -> None:
    stopped = StandIn()
    stopped.breaks_at = stage
    with pytest.raises(KeyboardInterrupt):
        build_plans(toy_dir, AT_GOLDEN, workshop=stopped)
    done = STAGES[: STAGES.index(stage)]
    assert [plan.stage for plan in open_engine_dir(toy_dir).manifest.plans] == list(done)
    assert len(plan_files(toy_dir)) == len(done)  # nothing half-written

    again = StandIn()
    assert len(build_plans(toy_dir, AT_GOLDEN, workshop=again)) == 3
    assert again.built == list(STAGES[STAGES.index(stage) :])
    chains = [row for row in read_manifest(toy_dir).parity if row["stage"] == "chain"]
    assert len([row for row in chains if row["backend"] == "tensorrt"]) == 3


def test_what_a_killed_build_left_is_swept_away(toy_dir: Path) -> None:
    (toy_dir / "plans").mkdir()
    (toy_dir / "plans" / ".unet.fp32.nvidia-l4-sm89.trt10.16.1.11.plan.0a1b2c3d.tmp").write_bytes(b"half")
    (toy_dir / "plans" / "notes.txt").write_text("mine")
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    assert len(plan_files(toy_dir)) == 4 and (toy_dir / "plans" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("changes", [{"opt_level": 5}, {"batches": (2,)}, {"strip_plan": True}])
def test_other_options_replace_the_plan_and_its_parity(toy_dir: Path, changes: dict[str, Any]) -> None:
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    again = StandIn()
    records = build_plans(toy_dir, dataclasses.replace(AT_GOLDEN, **changes), workshop=again)
    assert again.built == list(STAGES)
    manifest = open_engine_dir(toy_dir).manifest
    assert manifest.plans == records
    assert len([row for row in manifest.parity if row["backend"] == "tensorrt"]) == 12


def test_another_graph_is_another_plan(toy_dir: Path) -> None:
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    unet = toy_dir / "graphs" / "fp32" / "unet.onnx"
    unet.write_bytes(unet.read_bytes() + b"\x32\x00")  # an empty doc string: the same graph in other bytes
    edit(toy_dir, files={**read_manifest(toy_dir).files, "graphs/fp32/unet.onnx": hash_file(unet)})
    again = StandIn()
    build_plans(toy_dir, AT_GOLDEN, workshop=again)
    assert again.built == ["unet"]
    assert len([row for row in read_manifest(toy_dir).parity if row["stage"] == "chain"]) == 4


# --- parity ---


@pytest.mark.parametrize("stage", STAGES)
def test_a_plan_that_computes_something_else_is_never_listed(toy_dir: Path, stage: str) -> None:
    with pytest.raises(
        ParityError, match=rf"^fp32/{stage} on photo0 \(128x192, tensorrt\) differs .* --opt-level"
    ):
        build_plans(toy_dir, AT_GOLDEN, workshop=StandIn(**{stage: 1e-3}))
    done = STAGES[: STAGES.index(stage)]
    assert [plan.stage for plan in open_engine_dir(toy_dir).manifest.plans] == list(done)
    assert len(plan_files(toy_dir)) == len(done)


def test_a_plan_that_overflows_is_never_listed(toy_dir: Path) -> None:
    with pytest.raises(ParityError, match=r"fp32/unet on photo0 .* gives NaN or infinity"):
        build_plans(toy_dir, AT_GOLDEN, workshop=StandIn(unet=float("nan")))
    assert [plan.stage for plan in read_manifest(toy_dir).plans] == ["encoder"]


def test_a_journey_that_does_not_agree_is_not_completed(toy_dir: Path) -> None:
    """Each stage within its gate, but their errors add up."""
    with pytest.raises(ParityError, match="fp32/chain"):
        build_plans(toy_dir, AT_GOLDEN, workshop=StandIn(encoder=4e-6, unet=4e-6, decoder=4e-6))
    assert [plan.stage for plan in read_manifest(toy_dir).plans] == ["encoder", "unet"]


def test_a_failed_rebuild_leaves_the_plan_that_was_there(toy_dir: Path) -> None:
    before = build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    with pytest.raises(ParityError):
        build_plans(toy_dir, dataclasses.replace(AT_GOLDEN, opt_level=5), workshop=StandIn(encoder=1.0))
    assert open_engine_dir(toy_dir).manifest.plans == before


def test_half_precision_has_wider_gates(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy", precisions=("fp32", "fp16"))
    records = build_plans(directory, Request(grids=(GOLDEN_GRID,)), workshop=StandIn(unet=5e-4))
    assert {plan.precision for plan in records} == {"fp16"}
    with pytest.raises(ParityError, match=r"fp16/unet .* --precision bf16 or fp32 .* --keep-fp32"):
        build_plans(directory, Request(grids=(GOLDEN_GRID,), opt_level=1), workshop=StandIn(unet=5e-2))


def rewrite_golden(directory: Path, golden: dict[str, np.ndarray]) -> None:
    np.savez(directory / "golden.npz", **golden)
    files = {**read_manifest(directory).files, "golden.npz": hash_file(directory / "golden.npz")}
    edit(directory, files=files)


def test_agreement_with_a_constant_or_a_saturated_reference_proves_nothing(toy_dir: Path) -> None:
    golden = toy_golden()
    flat = {key: np.full_like(value, 0.5) for key, value in golden.items() if key.endswith("decoder/output")}
    rewrite_golden(toy_dir, golden | flat)
    with pytest.raises(ParityError, match="photo0 is constant"):
        build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    rewrite_golden(toy_dir, golden | {"photo1/decoder/output": golden["photo1/decoder/output"] * 4})
    with pytest.raises(ParityError, match=r"of photo1 lie far outside \[-1, 1\]"):
        build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())


def test_without_golden_values_nothing_is_built(toy_dir: Path) -> None:
    edit(toy_dir, golden=None)
    workshop = StandIn()
    with pytest.raises(ParityError, match=r"holds no golden values.*Export it again"):
        build_plans(toy_dir, AT_GOLDEN, workshop=workshop)
    assert workshop.built == [] and not (toy_dir / "plans").exists()


def test_graphs_of_a_shape_without_golden_photos_are_not_built(toy_dir: Path) -> None:
    """As an export for a camera lists them: its resolution at the doors, other latents than the photo's."""
    graphs = read_manifest(toy_dir).graph_sets["fp32"]
    sizes = {"height": 128, "width": 192, "height/8": 24, "width/8": 32}

    def fix(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            dataclasses.replace(spec, shape=tuple(sizes.get(str(dim), dim) for dim in spec.shape))
            for spec in specs
        )

    stages = {
        name: dataclasses.replace(stage, inputs=fix(stage.inputs), outputs=fix(stage.outputs))
        for name, stage in graphs.stages.items()
    }
    sets = {"fp32-camera-128x192": dataclasses.replace(graphs, stages=stages)}
    edit(toy_dir, graph_sets=sets)
    workshop = StandIn()
    with pytest.raises(ParityError, match=r"No golden photo .* fp32-camera-128x192 take"):
        build_plans(toy_dir, Request(), workshop=workshop)
    assert workshop.built == []


# --- refusals, before anything is built ---


def test_a_damaged_plan_is_an_error_of_its_own(toy_dir: Path) -> None:
    records = build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    with (toy_dir / records[1].file).open("ab") as file:
        file.write(b"!")
    with pytest.raises(HashMismatchError, match=r"plans/unet\.fp32"):
        open_engine_dir(toy_dir)


def test_a_precision_that_was_not_exported_names_the_command(toy_dir: Path) -> None:
    with pytest.raises(
        BuildError, match=r"python -m export\.build_engines CHECKPOINT -o .* --precision fp16"
    ):
        build_plans(toy_dir, Request(precision="fp16"), workshop=StandIn())


def test_a_grid_beyond_the_model_is_refused(toy_dir: Path) -> None:
    with pytest.raises(SizeError, match="multiples of 64, up to 1024"):
        build_plans(toy_dir, Request(grids=((100, 100),), precision="fp32"), workshop=StandIn())
    assert not (toy_dir / "plans").exists()


def test_two_builds_at_once_in_one_directory_are_refused(toy_dir: Path) -> None:
    class Nosy(StandIn):
        def build(self, job: PlanJob, into: BinaryIO, **how: Any) -> None:
            with pytest.raises(BuildError, match="Another `fiffdepth build` is at work"):
                build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
            super().build(job, into, **how)

    assert len(build_plans(toy_dir, AT_GOLDEN, workshop=Nosy())) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_said_so(toy_dir: Path) -> None:
    toy_dir.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Copy the engine directory to a folder that you may write to"):
            build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    finally:
        toy_dir.chmod(0o755)


# --- plans in the manifest ---


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stage", "text_encoder", "should be one of encoder, unet, decoder"),
        ("precision", "fp8", "is no graph set"),
        ("file", "plans/other.plan", "does not list 'plans/other.plan'"),
        ("profiles", [], "profiles is empty"),
        ("profiles", [{"grid": [64], "batch": 1}], "is not a height and a width"),
        ("profiles", [{"grid": [64, 0], "batch": 1}], "at least 1"),
        ("tensorrt_version", "ten", "numbers with dots"),
        ("compute_capability", "sm_89", "numbers with dots"),
        ("hardware_compatibility", "everything", "should be one of none, same_compute_capability"),
        ("stripped", 0, "should be true or false"),
        ("opt_level", "3", "should be a whole number"),
        ("graph_sha256", "abc", "64 lower-case hexadecimal digits"),
    ],
)
def test_a_plan_that_is_not_understood_is_named(toy_dir: Path, key: str, value: Any, words: str) -> None:
    build_plans(toy_dir, AT_GOLDEN, workshop=StandIn())
    path = toy_dir / "manifest.json"
    content = json.loads(path.read_text())
    content["plans"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=words):
        read_manifest(toy_dir)


# --- progress ---


def test_progress_never_falls_and_ends_at_one() -> None:
    phases, seen = Phases(), []
    phases.start("Building Engine", None, 2)
    phases.start("Tactics", "Building Engine", 4)
    seen += [phases.step("Tactics", step) for step in range(4)]
    phases.finish("Tactics")
    seen.append(phases.step("Building Engine", 0))
    phases.start("Weights", "Building Engine", 1)
    seen.append(phases.step("Weights", 0))
    phases.finish("Weights")
    seen.append(phases.step("Building Engine", 1))
    assert seen == [("Building Engine", x) for x in (0.125, 0.25, 0.375, 0.5, 0.5, 1.0, 1.0)]


def test_a_phase_that_nobody_started_is_no_error() -> None:
    assert Phases().step("unheard of", 3) == ("unheard of", 0.0)


# --- without TensorRT ---

NO_TENSORRT = pytest.mark.skipif(tensorrt_here.usable().usable, reason="TensorRT works here")


@NO_TENSORRT
def test_without_tensorrt_the_program_says_what_to_install(
    toy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = CliRunner().invoke(program, ["build", str(toy_dir), "--precision", "fp32"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: TensorRT cannot be used: tensorrt ")
    assert "Run: pip install " in result.stderr and "fiffdepth-rt[tensorrt]" in result.stderr
    assert not (toy_dir / "plans").exists()


def test_usable_never_raises_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for body, words in (
        (
            "raise OSError('libnvinfer.so.10: cannot open')",
            "cannot be imported (libnvinfer.so.10: cannot open)",
        ),
        ("__version__ = '10.3.0'", "TensorRT 10.3.0 is here, but "),
        ("__version__ = '7.2.3'", "TensorRT 7.2.3 is not supported; 8.5 to 11 are"),
        ("__version__ = 'soon'", "is not understood"),
        ("", "cannot be imported (module 'tensorrt' has no attribute '__version__')"),
    ):
        (tmp_path / "tensorrt.py").write_text(body)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        usability = tensorrt_here.usable()
        assert not usability.usable and words in usability.why and usability.mend
        with pytest.raises(BackendUnavailableError, match="Run: "):
            tensorrt_here.require()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


def test_a_bad_grid_is_a_usage_error(toy_dir: Path) -> None:
    result = CliRunner().invoke(program, ["build", str(toy_dir), "--grid", "512"])
    assert result.exit_code == 2 and "'512' is no size" in result.stderr


# --- TensorRT itself ---

_here = tensorrt_here.usable()


@pytest.mark.gpu
@pytest.mark.skipif(not _here.usable, reason=f"TensorRT cannot be used here: {_here.why}")
class TestOnTheGpu:
    def test_the_toy_is_built_checked_and_listed(self, toy_dir: Path) -> None:
        request = Request(grids=(GOLDEN_GRID, (64, 128)), batches=(1, 2), precision="fp32")
        progress: list[float] = []
        records = build_plans(toy_dir, request, on_progress=lambda at: progress.append(at.fraction))
        assert [plan.stage for plan in records] == list(STAGES)
        assert open_engine_dir(toy_dir).manifest.plans == records
        assert (toy_dir / "timing.cache").stat().st_size > 0
        assert all(0 <= fraction <= 1 for fraction in progress)

    def test_static_and_stripped_plans_compute_the_same(self, toy_dir: Path) -> None:
        request = dataclasses.replace(AT_GOLDEN, static=True, strip_plan=True)
        assert len(build_plans(toy_dir, request)) == 3

    def test_a_graph_that_tensorrt_cannot_read_brings_its_log(self, toy_dir: Path) -> None:
        graph = toy_dir / "graphs" / "fp32" / "encoder.onnx"
        graph.write_bytes(b"not a graph")
        edit(toy_dir, files={**read_manifest(toy_dir).files, "graphs/fp32/encoder.onnx": hash_file(graph)})
        with pytest.raises(BuildError) as error:
            build_plans(toy_dir, AT_GOLDEN)
        assert error.value.log and "ONNX parser" in str(error.value)
        assert read_manifest(toy_dir).plans == ()

    def test_ctrl_c_ends_a_build_and_leaves_nothing(self, toy_dir: Path) -> None:
        def stop(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_plans(toy_dir, AT_GOLDEN, on_progress=stop)
        assert plan_files(toy_dir) == set()

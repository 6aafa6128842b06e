"""Promises of building plans. TensorRT needs a GPU; here ONNX Runtime stands in for it, behind `Builder`.

What decides which plan is built, checked, listed, kept or refused is the real thing. With TensorRT itself:
test_on_a_gpu.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from fiffdepth_rt.backends.tensorrt.build import LOCK, Finished, build_plans
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, Request
from fiffdepth_rt.backends.tensorrt.parity import replace_rows
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import STAGES, PlanProfile, TensorSpec, read_manifest
from fiffdepth_rt.errors import (
    BuildError,
    HashMismatchError,
    ManifestError,
    OutputError,
    ParityError,
    SizeError,
)
from fiffdepth_rt.program import program
from tests.support.paths import ROOT
from tests.support.plans import AT_GOLDEN, GOLDEN_GRID, ORIN, StandInBuilder, edit, plan_files, record
from tests.support.toy import toy_golden, write_toy_engine_dir

# --- what a build leaves ---


def test_a_build_lists_a_checked_plan_for_every_stage(toy_dir: Path) -> None:
    before = read_manifest(toy_dir)
    records = build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
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
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
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
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    text = CliRunner().invoke(program, ["info", str(toy_dir)]).stdout
    assert (
        "fp32 unet: 0.0 MB, for NVIDIA L4 of compute capability 8.9 and TensorRT 10.16.1.11; 128x192 batch 1"
        in text
    )


def test_a_directory_with_plans_still_gives_depth(toy_dir: Path, photo: np.ndarray) -> None:
    import fiffdepth_rt

    with fiffdepth_rt.Depth(toy_dir, threads=1) as depth:
        before = depth.infer(photo)
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    with fiffdepth_rt.Depth(toy_dir, threads=1) as depth:
        np.testing.assert_array_equal(depth.infer(photo), before)


def test_each_grid_and_batch_is_a_profile_of_one_plan(toy_dir: Path) -> None:
    request = Request(grids=(GOLDEN_GRID, (64, 128)), batches=(1, 3), precision="fp32")
    records = build_plans(toy_dir, request, builder=StandInBuilder())
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
        records = build_plans(toy_dir, Request(precision="fp32"), builder=StandInBuilder())
    assert [p.grid for p in records[0].profiles] == [(256, 256), GOLDEN_GRID]
    (row,) = [row for row in read_manifest(toy_dir).parity if row.get("grid") == "256x256"]
    assert (row["stage"], row["gated"]) == ("chain", False)
    assert row["note"] == "no reference at this grid: only checked for finite depth"
    assert "256x256: golden.npz has no reference there" in caplog.text


def test_static_plans_stand_side_by_side(toy_dir: Path) -> None:
    request = Request(grids=(GOLDEN_GRID, (64, 64)), precision="fp32", static=True)
    records = build_plans(toy_dir, request, builder=StandInBuilder())
    assert [(plan.stage, plan.profiles[0].grid) for plan in records] == [
        (stage, grid) for grid in (GOLDEN_GRID, (64, 64)) for stage in STAGES
    ]
    assert plan_files(toy_dir) == {Path(plan.file).name for plan in records}
    open_engine_dir(toy_dir)


def test_plans_of_several_machines_share_a_directory(toy_dir: Path) -> None:
    first = build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    second = build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder(ORIN))
    manifest = open_engine_dir(toy_dir).manifest
    assert manifest.plans == (*first, *second)
    devices = [row["device"] for row in manifest.parity if row["backend"] == "tensorrt"]
    assert sorted(set(devices)) == ["NVIDIA L4", "Orin"] and len(devices) == 24


# --- resuming, replacing ---


def test_the_same_build_again_keeps_every_plan(toy_dir: Path) -> None:
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    before = (toy_dir / "manifest.json").read_bytes()
    again, finished = StandInBuilder(), list[Finished]()
    build_plans(toy_dir, AT_GOLDEN, builder=again, on_finished=finished.append)
    assert again.built == []
    assert [one.kept for one in finished] == [True, True, True]
    assert (toy_dir / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_build_goes_on_where_it_was(toy_dir: Path, stage: str) -> None:
    stopped = StandInBuilder()
    stopped.breaks_at = stage
    with pytest.raises(KeyboardInterrupt):
        build_plans(toy_dir, AT_GOLDEN, builder=stopped)
    done = STAGES[: STAGES.index(stage)]
    assert [plan.stage for plan in open_engine_dir(toy_dir).manifest.plans] == list(done)
    assert len(plan_files(toy_dir)) == len(done)  # nothing half-written

    again = StandInBuilder()
    assert len(build_plans(toy_dir, AT_GOLDEN, builder=again)) == 3
    assert again.built == list(STAGES[STAGES.index(stage) :])
    chains = [row for row in read_manifest(toy_dir).parity if row["stage"] == "chain"]
    assert len([row for row in chains if row["backend"] == "tensorrt"]) == 3


def test_what_a_killed_build_left_is_swept_away(toy_dir: Path) -> None:
    (toy_dir / "plans").mkdir()
    (toy_dir / "plans" / ".0a1b2c3d.tmp").write_bytes(b"half")
    (toy_dir / "plans" / "notes.txt").write_text("mine")
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    assert len(plan_files(toy_dir)) == 4 and (toy_dir / "plans" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("changes", [{"opt_level": 5}, {"batches": (2,)}, {"strip_plan": True}])
def test_other_options_replace_the_plan_and_its_parity(toy_dir: Path, changes: dict[str, Any]) -> None:
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    again = StandInBuilder()
    records = build_plans(toy_dir, dataclasses.replace(AT_GOLDEN, **changes), builder=again)
    assert again.built == list(STAGES)
    manifest = open_engine_dir(toy_dir).manifest
    assert manifest.plans == records
    assert len([row for row in manifest.parity if row["backend"] == "tensorrt"]) == 12


def test_another_graph_is_another_plan(toy_dir: Path) -> None:
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    unet = toy_dir / "graphs" / "fp32" / "unet.onnx"
    unet.write_bytes(unet.read_bytes() + b"\x32\x00")  # an empty doc string: the same graph in other bytes
    edit(toy_dir, files={**read_manifest(toy_dir).files, "graphs/fp32/unet.onnx": hash_file(unet)})
    again = StandInBuilder()
    build_plans(toy_dir, AT_GOLDEN, builder=again)
    assert again.built == ["unet"]
    assert len([row for row in read_manifest(toy_dir).parity if row["stage"] == "chain"]) == 4


# --- parity ---


@pytest.mark.parametrize("stage", STAGES)
def test_a_plan_that_computes_something_else_is_never_listed(toy_dir: Path, stage: str) -> None:
    with pytest.raises(
        ParityError, match=rf"^fp32/{stage} on photo0 \(128x192, tensorrt\) differs .* --opt-level"
    ):
        build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder(**{stage: 1e-3}))
    done = STAGES[: STAGES.index(stage)]
    assert [plan.stage for plan in open_engine_dir(toy_dir).manifest.plans] == list(done)
    assert len(plan_files(toy_dir)) == len(done)


def test_a_plan_that_overflows_is_never_listed(toy_dir: Path) -> None:
    with pytest.raises(ParityError, match=r"fp32/unet on photo0 .* gives NaN or infinity"):
        build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder(unet=float("nan")))
    assert [plan.stage for plan in read_manifest(toy_dir).plans] == ["encoder"]


def test_a_journey_that_does_not_agree_is_not_completed(toy_dir: Path) -> None:
    """Each stage within its gate, but their errors add up."""
    with pytest.raises(ParityError, match="fp32/chain"):
        build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder(encoder=4e-6, unet=4e-6, decoder=4e-6))
    assert [plan.stage for plan in read_manifest(toy_dir).plans] == ["encoder", "unet"]


def test_a_failed_rebuild_leaves_the_plan_that_was_there(toy_dir: Path) -> None:
    before = build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    with pytest.raises(ParityError):
        build_plans(toy_dir, dataclasses.replace(AT_GOLDEN, opt_level=5), builder=StandInBuilder(encoder=1.0))
    assert open_engine_dir(toy_dir).manifest.plans == before


def test_half_precision_has_wider_gates(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy", precisions=("fp32", "fp16"))
    records = build_plans(directory, Request(grids=(GOLDEN_GRID,)), builder=StandInBuilder(unet=5e-4))
    assert {plan.precision for plan in records} == {"fp16"}
    with pytest.raises(ParityError, match=r"fp16/unet .* --precision bf16 or fp32 .* --keep-fp32"):
        build_plans(directory, Request(grids=(GOLDEN_GRID,), opt_level=1), builder=StandInBuilder(unet=5e-2))


def rewrite_golden(directory: Path, golden: dict[str, np.ndarray]) -> None:
    np.savez(directory / "golden.npz", **golden)
    files = {**read_manifest(directory).files, "golden.npz": hash_file(directory / "golden.npz")}
    edit(directory, files=files)


def test_agreement_with_a_constant_or_a_saturated_reference_proves_nothing(toy_dir: Path) -> None:
    golden = toy_golden()
    flat = {key: np.full_like(value, 0.5) for key, value in golden.items() if key.endswith("decoder/output")}
    rewrite_golden(toy_dir, golden | flat)
    with pytest.raises(ParityError, match="photo0 is constant"):
        build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    rewrite_golden(toy_dir, golden | {"photo1/decoder/output": golden["photo1/decoder/output"] * 4})
    with pytest.raises(ParityError, match=r"of photo1 lie far outside \[-1, 1\]"):
        build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())


def test_without_golden_values_nothing_is_built(toy_dir: Path) -> None:
    edit(toy_dir, golden=None)
    builder = StandInBuilder()
    with pytest.raises(ParityError, match=r"holds no golden values.*Export it again"):
        build_plans(toy_dir, AT_GOLDEN, builder=builder)
    assert builder.built == [] and not (toy_dir / "plans").exists()


def test_graphs_of_a_shape_without_golden_photos_are_not_built(toy_dir: Path) -> None:
    """As an export for a camera lists them: its resolution at the doors, other latents than the photo's."""
    graphs = read_manifest(toy_dir).graph_sets["fp32"]
    sizes = {"height": 128, "width": 192, "height/8": 24, "width/8": 32}

    def fix(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            msgspec.structs.replace(spec, shape=tuple(sizes.get(str(dim), dim) for dim in spec.shape))
            for spec in specs
        )

    stages = {
        name: msgspec.structs.replace(stage, inputs=fix(stage.inputs), outputs=fix(stage.outputs))
        for name, stage in graphs.stages.items()
    }
    sets = {"fp32-camera-128x192": msgspec.structs.replace(graphs, stages=stages)}
    edit(toy_dir, graph_sets=sets)
    builder = StandInBuilder()
    with pytest.raises(ParityError, match=r"No golden photo .* fp32-camera-128x192 take"):
        build_plans(toy_dir, Request(), builder=builder)
    assert builder.built == []


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
    assert replace_rows([*gone, *kept, *gone], record(), new) == (*kept, *new)


# --- refusals, before anything is built ---


def test_a_damaged_plan_is_an_error_of_its_own(toy_dir: Path) -> None:
    records = build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    with (toy_dir / records[1].file).open("ab") as file:
        file.write(b"!")
    with pytest.raises(HashMismatchError, match=r"plans/unet\.fp32"):
        open_engine_dir(toy_dir)


def test_a_precision_that_was_not_exported_names_the_command(toy_dir: Path) -> None:
    with pytest.raises(
        BuildError, match=r"python -m export\.build_engines CHECKPOINT -o .* --precision fp16"
    ):
        build_plans(toy_dir, Request(precision="fp16"), builder=StandInBuilder())


def test_a_grid_beyond_the_model_is_refused(toy_dir: Path) -> None:
    with pytest.raises(SizeError, match="multiples of 64, up to 1024"):
        build_plans(toy_dir, Request(grids=((100, 100),), precision="fp32"), builder=StandInBuilder())
    assert not (toy_dir / "plans").exists()


def test_two_builds_at_once_in_one_directory_are_refused(toy_dir: Path) -> None:
    class Nosy(StandInBuilder):
        def build(self, job: PlanJob, into: Path, **how: Any) -> Any:
            with pytest.raises(BuildError, match="Another `fiffdepth build` is at work"):
                build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
            return super().build(job, into, **how)

    assert len(build_plans(toy_dir, AT_GOLDEN, builder=Nosy())) == 3


def test_a_build_that_was_killed_leaves_no_lock_behind(toy_dir: Path) -> None:
    """Killed for real, with the lock held: the system gives it back."""
    code = """
import os, signal, sys
from tests.support.plans import AT_GOLDEN, StandInBuilder
from fiffdepth_rt.backends.tensorrt.build import build_plans

class Killed(StandInBuilder):
    def build(self, *job, **how):
        os.kill(os.getpid(), signal.SIGKILL)

build_plans(sys.argv[1], AT_GOLDEN, builder=Killed())
"""
    killed = subprocess.run([sys.executable, "-c", code, str(toy_dir)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (toy_dir / "plans" / LOCK).exists()
    assert len(build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())) == 3


def test_a_folder_that_cannot_be_made_is_said_so(toy_dir: Path) -> None:
    (toy_dir / "plans").write_text("a file in the way")
    with pytest.raises(OutputError, match="Copy the engine directory to a folder that you may write to"):
        build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_said_so(toy_dir: Path) -> None:
    toy_dir.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Copy the engine directory to a folder that you may write to"):
            build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    finally:
        toy_dir.chmod(0o755)


# --- plans in the manifest ---


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stage", "text_encoder", "should be one of encoder, unet, decoder"),
        ("precision", "fp8", "is no graph set"),
        ("file", "plans/other.plan", "does not list 'plans/other.plan'"),
        ("profiles", [], "profiles should be a list that is not empty"),
        ("profiles", [{"grid": [64], "batch": 1}], "grid should be a list of 2"),
        ("profiles", [{"grid": [64, 0], "batch": 1}], "at least 1"),
        ("tensorrt_version", "ten", "numbers with dots"),
        ("compute_capability", "sm_89", "numbers with dots"),
        (
            "hardware_compatibility",
            "everything",
            "should be one of none, same_compute_capability, amp",
        ),
        ("stripped", 0, "should be true or false"),
        ("opt_level", "3", "should be a whole number"),
        ("graph_sha256", "abc", "64 lower-case hexadecimal digits"),
    ],
)
def test_a_plan_that_is_not_understood_is_named(toy_dir: Path, key: str, value: Any, words: str) -> None:
    build_plans(toy_dir, AT_GOLDEN, builder=StandInBuilder())
    path = toy_dir / "manifest.json"
    content = json.loads(path.read_text())
    content["plans"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=words):
        read_manifest(toy_dir)


def test_a_bad_grid_is_a_usage_error(toy_dir: Path) -> None:
    result = CliRunner().invoke(program, ["build", str(toy_dir), "--grid", "512"])
    assert result.exit_code == 2 and "'512' is no size" in result.stderr

"""The whole way: checkpoint -> engine directory -> depth, equal to what diffusers' own modules compute."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import fiffdepth_rt
from export import parity
from export.build_engines import export_engine_dir, main
from export.engines import OnnxRuntimeStages
from export.options import Options
from export.precision import Precision
from export.stages import STAGES
from fiffdepth_rt.backends.tensorrt.build import LOCK
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.golden import CHAIN, ParityRow, StageValues, Where, check_reference
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.errors import OutputError, ParityError
from tests.support.paths import ROOT
from tests.support.tiny_models import depth_by_diffusers


@pytest.fixture(scope="session")
def checkpoint(plain_export) -> Path:
    return plain_export.checkpoint


@pytest.fixture(scope="session")
def exported(plain_export) -> Path:
    return plain_export.target


def images(*shape):
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def test_the_graphs_compute_what_diffusers_computes_at_every_grid_and_batch(exported, plain_export):
    run = OnnxRuntimeStages(exported / "graphs" / "fp32", threads=1)
    for image in (images(1, 64, 64, 3), images(1, 64, 192, 3), images(3, 128, 64, 3)):
        value = image
        for stage in STAGES:
            value = run(stage, value)
        expected = depth_by_diffusers(plain_export.made, image)
        assert value.dtype == np.float32 and value.shape == expected.shape
        assert np.abs(value - expected).max() <= 1e-4
        assert expected.std() > 0.01


def test_the_runtime_infers_from_an_exported_directory(exported, plain_export):
    image = images(128, 64, 3)
    with fiffdepth_rt.Depth(exported, size=128, threads=1) as depth:
        found = depth.infer(image)
        assert depth.output_space == "depth"
    expected = (np.clip(depth_by_diffusers(plain_export.made, image[None])[0], -1, 1) + 1) / 2
    assert np.abs(found - expected).max() <= 1e-4


def test_the_directory_opens_and_says_where_it_comes_from(exported):
    manifest = open_engine_dir(exported).manifest
    assert (manifest.name, manifest.recipe, manifest.output_space) == ("tiny", "fiffdepth", "depth")
    assert (manifest.size.default, manifest.size.max, manifest.size.multiple) == (128, 512, 64)
    assert (manifest.licence.model, manifest.licence.data_sources) == ("CC0-1.0", ("random numbers",))
    assert manifest.provenance["command"] == "python -m export.build_engines ckpt.v1.safetensors"
    files = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert files - {f"plans/{LOCK}"} == {*manifest.files, "manifest.json"}


def test_every_stage_and_the_chain_are_in_the_parity_table(exported):
    rows = [r for r in open_engine_dir(exported).manifest.parity if r["graph_set"] == "fp32"]
    assert {(row["stage"], row["image"]) for row in rows} == {
        (stage, image) for stage in (*STAGES, "chain") for image in ("photo0", "photo1", "noise")
    }
    assert all(row["passed"] and row["max_abs"] <= 1e-4 and row["reference_std"] > 0.01 for row in rows)
    assert all(0 < row["rounding_mean_abs"] < row["rounding_p999"] <= row["rounding_max_abs"] for row in rows)


def test_the_golden_values_chain_and_are_the_references(exported, plain_export):
    golden = read_golden(exported / "golden.npz")
    assert list(golden) == ["photo0", "photo1", "noise"]
    for stages in golden.values():
        assert np.array_equal(stages["encoder"].output, stages["unet"].input)
        assert np.array_equal(stages["unet"].output, stages["decoder"].input)
        expected = depth_by_diffusers(plain_export.made, stages["encoder"].input)
        assert np.abs(stages["decoder"].output - expected).max() <= 1e-4
    shapes = [stages["encoder"].input.shape for stages in golden.values()]
    assert shapes == [(1, 128, 128, 3), (1, 128, 128, 3), (1, 128, 128, 3)]


def test_no_file_names_the_machine_that_made_it(exported):
    forbidden = (str(ROOT), str(exported.parent), str(Path.home()), "site-packages", sys.prefix)
    for path in (p for p in exported.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert not [f for f in forbidden if f.encode() in content], path.name


def test_the_graphs_hold_the_computation_and_nothing_else(exported):
    for stage in STAGES:
        model = onnx.load(exported / "graphs" / "fp32" / f"{stage}.onnx")
        assert not model.metadata_props and not model.doc_string and not model.graph.doc_string
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert [o.version for o in model.opset_import if o.domain == ""] == [18]


def test_inputs_and_outputs_are_named_with_their_free_sizes(exported):
    def dims(value):
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    load = lambda stage: onnx.load(exported / "graphs" / "fp32" / f"{stage}.onnx").graph  # noqa: E731
    assert dims(load("encoder").input[0]) == ["batch", "height", "width", 3]
    assert dims(load("unet").output[0]) == ["batch", 4, "height/8", "width/8"]
    assert [o.name for o in load("decoder").output] == ["depth", "depth_unclipped"]


def start_export(checkpoint, target, **environment):
    command = [sys.executable, "-m", "export.build_engines", str(checkpoint), "-o", str(target)]
    command += ["--precision", "fp32"]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.soak
def test_a_killed_export_looks_unfinished_and_the_same_command_goes_on_to_the_same_bytes(
    checkpoint, exported, tmp_path, caplog
):
    target = tmp_path / "tiny"
    process = start_export(checkpoint, target, PYTHONHASHSEED="1", OMP_NUM_THREADS="1")
    state = tmp_path / ".tiny.partial" / "state.json"
    while not (state.exists() and "fp32/unet" in state.read_text()) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    assert not (tmp_path / ".tiny.partial" / "manifest.json").exists()

    with caplog.at_level("INFO", logger="fiffdepth_export"):
        export_engine_dir(Options(checkpoint=checkpoint, output=target, plans=False, memory=False))
    assert "going on after golden" in caplog.text
    assert "tracing fp32 unet" not in caplog.text and "tracing fp32 decoder" in caplog.text
    ours, theirs = open_engine_dir(target).manifest, open_engine_dir(exported).manifest
    fp32 = {name: record for name, record in theirs.files.items() if "fp16" not in name}
    assert ours.files == fp32  # every graph by SHA-256, encoder and unet from another hash seed
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_an_existing_directory_is_refused_before_any_work(checkpoint, exported):
    before = (exported / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        export_engine_dir(Options(checkpoint=checkpoint, output=exported))
    assert (exported / "manifest.json").read_bytes() == before


def test_a_folder_that_is_no_engine_directory_is_never_overwritten(checkpoint, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="not an engine directory"):
        export_engine_dir(Options(checkpoint=checkpoint, output=tmp_path, overwrite=True))
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_place_that_cannot_be_written_is_said(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        export_engine_dir(Options(checkpoint=checkpoint, output=tmp_path / "file" / "engines"))


@pytest.fixture
def a_disk_that_is_full_after_100_kb():
    """Writes beyond the limit fail, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_and_leaves_nothing_that_looks_finished(
    checkpoint, tmp_path, a_disk_that_is_full_after_100_kb
):
    run = CliRunner().invoke(
        main, [str(checkpoint), "-o", str(tmp_path / "tiny"), "--no-plans", "--no-memory"]
    )
    assert run.exit_code == 1
    assert "cannot be written" in run.output and "Traceback" not in run.output
    assert [p.name for p in tmp_path.iterdir()] == [".tiny.partial"]
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_reference_that_is_constant_or_saturated_fails_the_check_itself():
    def check(depth):
        check_reference({"photo0": {CHAIN: StageValues(input=depth, output=depth)}})

    flat = np.full((1, 8, 8), 0.25, np.float32)
    ramp = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    check(ramp)
    with pytest.raises(ParityError, match="constant"):
        check(flat)
    with pytest.raises(ParityError, match="outside"):
        check(ramp * 2)
    with pytest.raises(ParityError, match="NaN"):
        check(ramp * np.nan)


def wrong_by(golden, error, *, stage, image="photo0"):
    """A run that answers as the reference does, with an error added to one stage of one image."""

    def run(name, value):
        alike = {i: s[name] for i, s in golden.items() if s[name].input.shape == value.shape}
        nearest = min(alike, key=lambda i: np.abs(alike[i].input.astype(float) - value).mean())
        return alike[nearest].output + (error if (name, nearest) == (stage, image) else 0)

    return run


def test_an_error_beyond_the_gate_names_the_stage_and_the_next_thing_to_try(exported):
    golden = read_golden(exported / "golden.npz")
    where = Where(graph_set="fp32", backend="onnxruntime", device="cpu")
    rows = parity.compare(golden, wrong_by(golden, 0.9e-5, stage="unet"), where)
    parity.judge(rows, Precision.FP32)
    rows = parity.compare(golden, wrong_by(golden, 1.1e-4, stage="unet"), where)
    with pytest.raises(ParityError, match=r"fp32/unet on photo0 .*--leave-out.*--accept-parity"):
        parity.judge(rows, Precision.FP32)


def test_the_half_precision_gates_are_for_photos_and_nan_is_for_all(exported):
    golden = read_golden(exported / "golden.npz")
    where = Where(graph_set="fp16", backend="onnxruntime", device="cpu")
    std = golden["noise"]["decoder"].output.std()
    noisy = parity.compare(golden, wrong_by(golden, std, stage="decoder", image="noise"), where)
    parity.judge(noisy, Precision.FP16)
    reported = next(r for r in noisy if (r.stage, r.image) == ("decoder", "noise"))
    assert reported.mean_abs == pytest.approx(std, rel=1e-3) and not reported.gated
    rows = parity.compare(golden, wrong_by(golden, np.nan, stage="decoder", image="noise"), where)
    with pytest.raises(ParityError, match=r"decoder on noise .*NaN or infinity.*--keep-fp32"):
        parity.judge(rows, Precision.FP16)


def test_torch_in_half_precision_is_judged_by_overflow_alone(exported):
    golden = read_golden(exported / "golden.npz")
    where = Where(graph_set="fp16", backend="torch", device="cpu")
    rows = parity.compare(golden, wrong_by(golden, 1.0, stage="unet"), where, finite_only=True)
    assert all(row.passed and not row.gated for row in rows)
    rows = parity.compare(golden, wrong_by(golden, np.inf, stage="unet"), where, finite_only=True)
    with pytest.raises(ParityError, match="unet on photo0"):
        parity.judge(rows, Precision.FP16)


def test_a_camera_beyond_its_bound_is_told_to_let_the_host_resize(exported):
    picture, expected = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 0.5, np.float32)
    where = Where(graph_set="fp32-camera-4x6", backend="onnxruntime", device="cpu")

    def run(error):
        return lambda stage, value: np.full((1, 4, 6), 2 * error, np.float32)  # in [-1, 1]

    rows = parity.compare_camera({"photo0": (picture, expected)}, run(4.9e-3), where)
    parity.judge(rows, Precision.FP32)
    rows = parity.compare_camera({"photo0": (picture, expected)}, run(5.1e-3), where)
    with pytest.raises(ParityError, match="the host resizes"):
        parity.judge(rows, Precision.FP32)


def test_parity_rows_survive_the_manifest(exported):
    rows = json.loads((exported / "manifest.json").read_text())["parity"]
    assert [dataclasses.asdict(ParityRow(**row)) for row in rows] == rows

"""Promises of the engines: what is asked for by name works or raises, and each stage can be asked alone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from toy import toy_depth_latent, toy_golden, toy_latent, toy_unclipped, write_toy_engine_dir

import fiffdepth_rt
from fiffdepth_rt.backends import onnxruntime as backend_file
from fiffdepth_rt.backends.select import ENGINES
from fiffdepth_rt.backends.threads import default_threads
from fiffdepth_rt.engine_dir import hash_file, open_engine_dir, read_manifest, write_manifest
from fiffdepth_rt.errors import BackendUnavailableError, GraphError, InferenceError


def image(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 64, 128, 3), dtype=np.uint8)


# --- stage by stage ---


def test_each_stage_alone_is_its_plain_twin(depth: fiffdepth_rt.Depth) -> None:
    backend = depth.backend
    latent = backend.run_stage("encoder", image(2))
    np.testing.assert_allclose(latent, toy_latent(image(2)), atol=1e-6)
    depth_latent = backend.run_stage("unet", latent)
    np.testing.assert_allclose(depth_latent, toy_depth_latent(latent), atol=1e-6)
    unclipped = backend.run_unclipped(depth_latent)
    np.testing.assert_allclose(unclipped, toy_unclipped(depth_latent), atol=1e-6)
    clipped = backend.run_stage("decoder", depth_latent)
    np.testing.assert_allclose(clipped, np.clip(unclipped, -1, 1) / 2 + 0.5, atol=1e-6)
    np.testing.assert_array_equal(clipped, backend.run(image(2)))


def test_the_value_before_the_clip_really_is_not_clipped(depth: fiffdepth_rt.Depth) -> None:
    white = np.full((1, 64, 64, 3), 255, dtype=np.uint8)
    depth_latent = depth.backend.run_stage("unet", depth.backend.run_stage("encoder", white))
    assert depth.backend.run_unclipped(depth_latent).max() > 1.2
    assert depth.backend.run(white).max() == 1


def test_the_golden_values_can_be_checked_with_numpy_alone(toy_dir: Path, depth: fiffdepth_rt.Depth) -> None:
    with np.load(toy_dir / "golden.npz", allow_pickle=False) as golden:
        assert set(golden) == set(toy_golden())
        for name in ("photo0", "photo1", "noise"):
            for stage in ("encoder", "unet"):
                given, expected = golden[f"{name}/{stage}/input"], golden[f"{name}/{stage}/output"]
                np.testing.assert_allclose(depth.backend.run_stage(stage, given), expected, atol=1e-5)
            given, expected = golden[f"{name}/decoder/input"], golden[f"{name}/decoder/output"]
            np.testing.assert_allclose(depth.backend.run_unclipped(given), expected, atol=1e-5)


@pytest.mark.parametrize(
    "stage, value",
    [
        ("unet", np.zeros((1, 5, 8, 8), dtype=np.float32)),
        ("unet", np.zeros((1, 4, 8, 8), dtype=np.float64)),
        ("encoder", np.zeros((64, 64, 3), dtype=np.uint8)),
    ],
    ids=["channels", "dtype", "dimensions"],
)
def test_a_value_that_a_stage_cannot_take_is_an_inference_error(
    depth: fiffdepth_rt.Depth, capfd: pytest.CaptureFixture[str], stage: str, value: np.ndarray
) -> None:
    with pytest.raises(InferenceError, match=f"failed in the {stage}"):
        depth.backend.run_stage(stage, value)
    assert capfd.readouterr() == ("", "")


# --- asking for an engine ---


def test_auto_tells_what_it_chose(toy_dir: Path) -> None:
    with fiffdepth_rt.Depth(toy_dir, backend="auto") as opened:
        said = opened.describe()
    assert (said["backend"], said["device"], said["precision"]) == ("onnxruntime", "cpu", "fp32")
    assert said["engine"]["provider"] == "CPUExecutionProvider"
    assert said["engine"]["threads"] == default_threads()


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"backend": "tensorflow"}, "say 'auto' or one of tensorrt, onnxruntime"),
        ({"device": "tpu"}, "say 'cpu', 'cuda'"),
        ({"device": "cuda:x"}, "say 'cpu', 'cuda'"),
        ({"precision": "int4"}, "precision='int4' is not here. The directory holds bf16, fp32"),
        ({"precision": "int4", "backend": "onnxruntime"}, "precision='int4' is not here"),
        (
            {"precision": "bf16", "backend": "onnxruntime"},
            "onnxruntime cannot run bf16; openvino, tensorrt can",
        ),
        ({"threads": 0}, "threads=0"),
        ({"threads": -1}, "threads=-1"),
    ],
    ids=str,
)
def test_what_is_not_here_is_refused_with_what_is(toy_dir: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(BackendUnavailableError, match=said.replace("(", r"\(")):
        fiffdepth_rt.Depth(toy_dir, **asked)


def test_a_gpu_asked_for_is_there_or_an_error_never_the_cpu_instead(toy_dir: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the GPU wheel of ONNX Runtime is installed here")
    with pytest.raises(BackendUnavailableError, match=r"fiffdepth-rt\[gpu\]"):
        fiffdepth_rt.Depth(toy_dir, device="cuda")


def test_a_directory_without_graphs_for_the_engine_says_what_it_holds(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy", precisions=("bf16",))
    with pytest.raises(BackendUnavailableError, match="The directory holds bf16; onnxruntime takes none"):
        fiffdepth_rt.Depth(directory, backend="onnxruntime")


def test_the_precision_is_the_engines_first_choice_or_the_callers(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy", precisions=("fp16", "fp32", "an-own-one"))
    for asked, chosen in ((None, "fp32"), ("fp16", "fp16"), ("an-own-one", "an-own-one")):
        with fiffdepth_rt.Depth(directory, precision=asked) as opened:
            assert opened.backend.precision == chosen


def test_bfloat16_graphs_that_claim_to_run_on_onnxruntime_are_a_graph_error(tmp_path: Path) -> None:
    """Half of a manifest's claim is checked by the engine itself: its CPU kernels know no bfloat16."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    file = directory / "graphs/fp32/unet.onnx"
    model = onnx.load(file)
    cast = onnx.helper.make_node("Cast", ["latent"], ["half"], to=onnx.TensorProto.BFLOAT16)
    sine = onnx.helper.make_node("Sin", ["half"], ["sine"])
    back = onnx.helper.make_node("Cast", ["sine"], ["depth_latent"], to=onnx.TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend([cast, sine, back])
    onnx.save(model, file)
    manifest = read_manifest(directory)
    files = {name: hash_file(directory / name) for name in manifest.files}
    write_manifest(directory, dataclasses.replace(manifest, files=files))
    with pytest.raises(GraphError, match=r"unet\.onnx"):
        fiffdepth_rt.Depth(directory)


def test_the_number_of_threads_changes_no_more_than_rounding(toy_dir: Path) -> None:
    results = []
    for threads in (1, 2):
        with fiffdepth_rt.Depth(toy_dir, threads=threads) as opened:
            assert opened.describe()["engine"]["threads"] == threads
            results.append(opened.infer(image()[0]))
    np.testing.assert_allclose(*results, atol=1e-6)


def test_every_engine_of_the_table_can_say_whether_it_is_usable() -> None:
    assert [engine.name for engine in ENGINES] == ["tensorrt", "onnxruntime", "openvino"]
    for engine in ENGINES:
        said = engine.usable()
        assert said.name == engine.name
        assert said.why
        assert said.usable or said.mend


def test_onnxruntime_is_usable_here_and_says_its_version() -> None:
    import onnxruntime

    said = backend_file.usable()
    assert said.usable
    assert onnxruntime.__version__ in said.why
    assert onnxruntime.__version__ in said.versions.values()


def test_without_an_engine_the_error_is_the_command_that_installs_one(toy_dir: Path) -> None:
    code = (
        # makes importing them raise ImportError
        "import sys; sys.modules['onnxruntime'] = sys.modules['openvino'] = None\n"
        "import fiffdepth_rt; from fiffdepth_rt.backends import onnxruntime\n"
        "assert not onnxruntime.usable().usable\n"
        f"try: fiffdepth_rt.Depth({str(toy_dir)!r})\n"
        "except fiffdepth_rt.errors.BackendUnavailableError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in run.stdout
    assert "fiffdepth-rt[cpu]" in run.stdout


def test_opening_and_running_prints_nothing(toy_dir: Path) -> None:
    code = (
        "import fiffdepth_rt, numpy\n"
        f"with fiffdepth_rt.Depth({str(toy_dir)!r}) as depth:\n"
        "    depth.infer(numpy.zeros((64, 64, 3), dtype=numpy.uint8))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("", "")


def test_the_default_threads_are_within_what_this_process_may_use() -> None:
    import os

    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


def test_weights_outside_the_directory_are_not_read(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    (tmp_path / "secret").write_bytes(np.float32(1).tobytes())
    file = directory / "graphs/fp32/unet.onnx"
    model = onnx.load(file)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../secret")
    file.write_bytes(model.SerializeToString())
    manifest = read_manifest(directory)
    files = {name: hash_file(directory / name) for name in manifest.files}
    write_manifest(directory, dataclasses.replace(manifest, files=files))
    open_engine_dir(directory)
    with pytest.raises(GraphError, match="escapes model directory"):
        fiffdepth_rt.Depth(directory)

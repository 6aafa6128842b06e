"""Promises of the engines: what is asked for by name works or raises, and each stage can be asked alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.onnxruntime import backend as backend_file
from fiffdepth_rt.backends.onnxruntime import cuda as cuda_file
from fiffdepth_rt.backends.onnxruntime.cuda import (
    IoBoundStages,
    is_out_of_memory,
    memory_error,
    needed_bytes,
    run_options,
    why_no_cuda_graph,
)
from fiffdepth_rt.backends.select import ENGINES, choose_precision
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import STAGES, read_manifest, write_manifest
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    GraphError,
    InferenceError,
    MissingFileError,
    SizeError,
    UnsafePathError,
)
from fiffdepth_rt.image import fit, to_grid, to_photo
from fiffdepth_rt.machine import default_threads
from tests.support.toy import (
    grids_seen,
    toy_depth,
    toy_depth_latent,
    toy_golden,
    toy_latent,
    toy_unclipped,
    write_static_toy,
    write_toy_engine_dir,
)


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
        ({"backend": "tensorflow"}, "say 'auto' or one of tensorrt, tensorrt-rtx, onnxruntime"),
        ({"device": "tpu"}, "say 'cpu', 'cuda'"),
        ({"device": "cuda:x"}, "say 'cpu', 'cuda'"),
        ({"precision": "int4"}, "precision='int4' is not here. The directory holds bf16, fp32"),
        ({"precision": "int4", "backend": "onnxruntime"}, "precision='int4' is not here"),
        (
            {"precision": "bf16", "backend": "onnxruntime"},
            "onnxruntime cannot run bf16; openvino, tensorrt, tensorrt-rtx can. It takes fp32 of what",
        ),
        ({"device": ""}, "device='' is not known"),
        ({"device": 0}, "device=0 is not known: say 'cpu', 'cuda' or 'cuda:1', as text"),
        ({"device": "", "backend": "openvino"}, "openvino runs on device='cpu' here, not on ''"),
        ({"threads": 0}, "threads=0"),
        ({"threads": -1}, "threads=-1"),
        ({"threads": "2"}, "threads='2'"),
        ({"threads": 1.5}, "threads=1.5"),
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
    with pytest.raises(
        BackendUnavailableError,
        match=r"holds bf16; onnxruntime takes none of these.*bf16,fp32$",
    ):
        fiffdepth_rt.Depth(directory, backend="onnxruntime")


def test_a_precision_that_is_not_here_is_said_once_with_the_command_that_exports_it(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    with pytest.raises(BackendUnavailableError) as error:
        fiffdepth_rt.Depth(directory, precision="fp16")
    assert str(error.value) == (
        "precision='fp16' is not here. The directory holds fp32. Where the checkpoint is, run: "
        "python -m export.build_engines CHECKPOINT --precision fp32,fp16"
    )


def test_an_engine_that_is_newer_than_a_directory_opens_it(tmp_path: Path) -> None:
    """A manifest says what graphs are, and names no engine: each engine says itself what it takes."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    assert "onnxruntime" not in str(json.loads((directory / "manifest.json").read_text())["graph_sets"])
    manifest = read_manifest(directory)
    (known,) = [engine for engine in ENGINES if engine.name == "openvino"]
    newcomer = dataclasses.replace(known, name="newcomer", takes=lambda graphs: graphs.opset < 20)
    assert choose_precision(manifest, newcomer, None) == "fp32"


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
    bell = onnx.helper.make_node("Erf", ["half"], ["bell"])
    back = onnx.helper.make_node("Cast", ["bell"], ["depth_latent"], to=onnx.TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend([cast, bell, back])
    onnx.save(model, file)
    manifest = read_manifest(directory)
    files = {name: hash_file(directory / name) for name in manifest.files}
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(GraphError, match=r"unet\.onnx"):
        fiffdepth_rt.Depth(directory)


def test_a_graph_whose_names_are_no_text_is_a_graph_error(tmp_path: Path) -> None:
    """ONNX Runtime loads it, and fails when it is asked for the names."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    file = directory / "graphs/fp32/unet.onnx"
    content = file.read_bytes()
    assert content.count(b"height/8") == 2
    file.write_bytes(content.replace(b"height/8", b"height\xe8\xe8"))
    manifest = read_manifest(directory)
    files = {name: hash_file(directory / name) for name in manifest.files}
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(GraphError, match=r"unet\.onnx holds a name that is no text"):
        fiffdepth_rt.Depth(directory)


def test_the_number_of_threads_changes_no_more_than_rounding(toy_dir: Path) -> None:
    results = []
    for threads in (1, 2):
        with fiffdepth_rt.Depth(toy_dir, threads=threads) as opened:
            assert opened.describe()["engine"]["threads"] == threads
            results.append(opened.infer(image()[0]))
    np.testing.assert_allclose(*results, atol=1e-6)


def test_every_engine_of_the_table_can_say_whether_it_is_usable() -> None:
    assert [engine.name for engine in ENGINES] == ["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]
    for engine in ENGINES:
        said = engine.usable()
        assert said.name == engine.name
        assert said.why
        assert said.usable or said.fix


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
        "import fiffdepth_rt; from fiffdepth_rt.backends.onnxruntime import backend as engine\n"
        "assert not engine.usable().usable\n"
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


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
def test_weights_outside_the_directory_are_refused_before_an_engine_is_asked(
    tmp_path: Path, backend: str
) -> None:
    """ONNX Runtime refuses them itself only since 1.24. test_onnx_graph.py has the other ways out."""
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
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(UnsafePathError, match=r"takes weights from '\.\./\.\./\.\./secret'"):
        fiffdepth_rt.Depth(directory, backend=backend)


# --- several grids in one directory ---

GRIDS = ((128, 128), (64, 128), (128, 64))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_photo_goes_through_the_graphs_that_waste_least_of_it(tmp_path: Path, backend: str) -> None:
    directory = write_static_toy(tmp_path / "toy", *GRIDS)
    rng = np.random.default_rng(0)
    with fiffdepth_rt.Depth(directory, backend=backend, threads=1) as opened:
        for photo_hw, grid in (((90, 160), (64, 128)), ((160, 90), (128, 64)), ((99, 99), (128, 128))):
            photo = rng.integers(0, 256, (*photo_hw, 3), dtype=np.uint8)
            assert opened.grid_for(photo_hw) == grid
            fitted = fit(photo_hw, grid)
            expected = to_photo(toy_depth(to_grid(photo, fitted)[None])[0], fitted)
            depth_map = opened.infer(photo)
            assert depth_map.photo_hw == photo_hw
            np.testing.assert_allclose(depth_map, expected, atol=1e-6)
            assert np.array_equal(opened.infer(photo), depth_map)  # the same photo, the same grid


def test_a_grid_can_be_asked_for_in_one_call_and_for_all(tmp_path: Path) -> None:
    directory = write_static_toy(tmp_path / "toy", *GRIDS)
    photo = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    with fiffdepth_rt.Depth(directory, threads=1) as opened:
        assert grids_seen(opened, lambda: opened.infer(photo, size=(128, 64))) == [(128, 64)]
        assert grids_seen(opened, lambda: opened.infer(photo, size=128)) == [(64, 128)]
        stream = opened.stream([photo] * 2, size=(128, 128))
        assert grids_seen(opened, lambda: list(stream)) == [(128, 128)] * 2
        with pytest.raises(SizeError, match="there is one for 128x128, 128x64, 64x128"):
            opened.infer(photo, size=(192, 128))
    with fiffdepth_rt.Depth(directory, threads=1, size=(128, 128)) as opened:
        assert grids_seen(opened, lambda: opened.infer(photo)) == [(128, 128)]
        assert opened.size == 128
    with pytest.raises(SizeError, match="No engine is here for the grid 64x64"):
        fiffdepth_rt.Depth(directory, size=(64, 64))


def test_photos_of_one_batch_may_go_on_different_grids(tmp_path: Path) -> None:
    directory = write_static_toy(tmp_path / "toy", *GRIDS)
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in ((90, 160), (160, 90), (90, 160))]
    with fiffdepth_rt.Depth(directory, threads=1) as opened:
        for depth, photo in zip(opened.infer_batch(photos), photos, strict=True):
            np.testing.assert_allclose(depth, opened.infer(photo), atol=1e-6)


def test_a_directory_of_several_grids_says_so(tmp_path: Path) -> None:
    directory = write_static_toy(tmp_path / "toy", *GRIDS)
    with fiffdepth_rt.Depth(directory, threads=1) as opened:
        said = opened.describe()
    assert said["precision"] == "fp32"
    assert said["engine"]["grids"] == ["128x128", "128x64", "64x128"]
    assert (
        said["sha256"]["fp32-64x128/unet"]
        == read_manifest(directory).files["graphs/fp32-64x128/unet.onnx"].sha256
    )
    with fiffdepth_rt.Depth(directory, threads=1, precision="fp32-64x128") as opened:
        assert opened.describe()["engine"]["grids"] == ["64x128"]
        assert set(opened.describe()["sha256"]) == {"encoder", "unet", "decoder"}
        assert opened.grid_for((99, 99)) == (64, 128)


def test_graphs_of_a_grid_are_opened_when_a_photo_first_needs_them(tmp_path: Path) -> None:
    directory = write_static_toy(tmp_path / "toy", *GRIDS)
    with fiffdepth_rt.Depth(directory, threads=1) as opened:
        (directory / "graphs/fp32-64x128/unet.onnx").unlink()
        opened.infer(np.zeros((99, 99, 3), dtype=np.uint8))
        with pytest.raises(MissingFileError, match=r"fp32-64x128.unet\.onnx"):
            opened.infer(np.zeros((90, 160, 3), dtype=np.uint8))
        opened.infer(np.zeros((99, 99, 3), dtype=np.uint8))  # still usable
    with pytest.raises(InferenceError, match="closed"):
        opened.infer(np.zeros((99, 99, 3), dtype=np.uint8))


def test_an_image_of_no_grid_is_a_size_error_in_every_stage(tmp_path: Path) -> None:
    directory = write_static_toy(tmp_path / "toy", *GRIDS)
    with fiffdepth_rt.Depth(directory, threads=1) as opened:
        backend = opened.backend
        assert backend.run_stage("unet", np.zeros((1, 4, 8, 16), np.float32)).shape == (1, 4, 8, 16)
        assert backend.run_unclipped(np.zeros((2, 4, 16, 8), np.float32)).shape == (2, 128, 64)
        for stage, value in (
            ("encoder", np.zeros((1, 64, 64, 3), np.uint8)),
            ("unet", np.zeros((1, 4, 8, 8), np.float32)),
            ("unet", np.zeros((4, 8), np.float32)),
        ):
            with pytest.raises(SizeError, match="its graphs are for the grids 128x128, 128x64, 64x128"):
                backend.run_stage(stage, value)


@pytest.mark.parametrize("size", [(64,), (64, 64, 64), (64, 8), (64.0, 64), (True, 64), (64, 4096), (72, 64)])
def test_what_is_no_grid_is_refused(depth: fiffdepth_rt.Depth, size: Any) -> None:
    with pytest.raises(SizeError):
        depth.infer(image()[0], size=size)


# --- ONNX Runtime on a GPU: what a CPU can tell of it ---


def _bound(directory: Path, key: str = "fp32") -> IoBoundStages:
    """The journey by IO binding, with host memory for device memory."""
    import onnxruntime

    engine_dir = open_engine_dir(directory)
    sessions = {
        stage: onnxruntime.InferenceSession(
            str(engine_dir.graph(key, stage).path), providers=["CPUExecutionProvider"]
        )
        for stage in STAGES
    }
    stages = engine_dir.manifest.graph_sets[key].stages
    return IoBoundStages(sessions, stages, device_type="cpu", device_id=0, cuda_graph=True)


def test_by_io_binding_the_journey_gives_the_same_bits(toy_dir: Path, depth: fiffdepth_rt.Depth) -> None:
    journey = _bound(toy_dir)
    first = journey.run(image())
    np.testing.assert_array_equal(first, depth.backend.run(image()))
    other = 255 - image(3)[:, ::-1]
    kept = first.copy()
    np.testing.assert_array_equal(journey.run(other), depth.backend.run(other))
    np.testing.assert_array_equal(first, kept)  # a result is the caller's, not the next frame's buffer


def test_io_binding_takes_more_shapes_than_it_keeps_buffers_for(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    journey = _bound(directory)
    images = [np.full((batch, 64, 64 * n, 3), 40 * n, np.uint8) for n in (1, 2, 3) for batch in (1, 2, 3)]
    for one in (*images, *images[::-1]):
        np.testing.assert_allclose(journey.run(one), toy_depth(one), atol=1e-6)


def test_threads_that_share_bound_buffers_get_their_own_results(toy_dir: Path) -> None:
    journey = _bound(toy_dir)
    images = [np.full((1, 64, 64, 3), grey, np.uint8) for grey in range(0, 256, 8)]
    with ThreadPoolExecutor(8) as pool:
        for one, result in zip(images, pool.map(journey.run, images), strict=True):
            np.testing.assert_allclose(result, toy_depth(one), atol=1e-6)


def test_when_a_cuda_graph_is_used() -> None:
    grid = (64, 64)
    assert why_no_cuda_graph(wanted=True, own_grid=grid) is None
    assert why_no_cuda_graph(wanted=False, own_grid=grid) == "off: cuda_graph=False"
    assert "export some with --static" in str(why_no_cuda_graph(wanted=True, own_grid=None))


def test_a_graph_is_replayed_by_its_number_and_not_otherwise() -> None:
    assert run_options(cuda_graph=True).get_run_config_entry("gpu_graph_id") == "1"
    assert run_options(cuda_graph=False).get_run_config_entry("gpu_graph_id") == "-1"


@pytest.mark.parametrize(
    ("message", "is_memory", "needed"),
    [
        (
            "Non-zero status code returned while running ReduceSum node. AllocateRawInternal Failed "
            "to allocate memory for requested buffer of size 939524096",
            True,
            939524096,
        ),
        ("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);", True, None),
        ("CUDA failure 700: an illegal memory access was encountered", False, None),
        ("Invalid rank for input: image Got: 3 Expected: 4", False, None),
    ],
)
def test_a_gpu_without_room_is_told_from_other_failures(
    message: str, is_memory: bool, needed: int | None
) -> None:
    assert is_out_of_memory(message) == is_memory
    assert needed_bytes(message) == needed
    if is_memory:
        error = memory_error(0, "what it computes", message)
        assert error.needed_bytes == needed
        assert "Close other programs on the GPU, take a smaller size, or an fp16 set" in str(error)
        assert ("896 MiB" in str(error)) == (needed is not None)


def test_fp16_is_preferred_on_a_gpu_and_fp32_on_a_cpu(tmp_path: Path) -> None:
    manifest = read_manifest(write_toy_engine_dir(tmp_path / "toy", precisions=("fp16", "fp32")))
    (engine,) = [engine for engine in ENGINES if engine.name == "onnxruntime"]
    for device, chosen in (("cuda:1", "fp16"), ("cuda", "fp16"), ("cpu", "fp32"), (None, "fp32")):
        assert choose_precision(manifest, engine, None, device=device) == chosen


class _OnHost(IoBoundStages):
    """A journey in host memory, wherever it is said to be. fails: what its next runs raise."""

    fails: ClassVar[list[Exception | None]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "device_type": "cpu"})

    def run(self, image_BHW3: np.ndarray) -> np.ndarray:
        if self.fails and (error := self.fails.pop(0)) is not None:
            raise error
        return super().run(image_BHW3)


@pytest.fixture
def gpu_of_paper(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """ONNX Runtime's CPU provider under the name of a GPU: everything but the GPU is the real thing."""
    import onnxruntime

    monkeypatch.setattr(_OnHost, "fails", [])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda_file, "_provider", lambda gpu, *, cuda_graph: ("CPUExecutionProvider", {}))
    monkeypatch.setattr(cuda_file, "IoBoundStages", _OnHost)
    return _OnHost.fails


def test_asked_for_a_gpu_the_journey_is_bound_and_graphs_are_captured_for_fixed_grids(
    toy_dir: Path, tmp_path: Path, gpu_of_paper: list[Exception | None]
) -> None:
    photo = image()[0]
    with fiffdepth_rt.Depth(toy_dir, backend="onnxruntime", device="cuda:1", size=128) as opened:
        said = opened.describe()
        assert (said["device"], said["precision"]) == ("cuda:1", "fp32")
        assert said["cuda_graph"] == "off: the grids of these graphs are free; export some with --static"
        np.testing.assert_allclose(opened.infer(photo), toy_depth(photo[None])[0], atol=1e-6)
        stage = opened.backend.run_stage("encoder", photo[None])
        np.testing.assert_allclose(stage, toy_latent(photo[None]), atol=1e-6)
    directory = write_static_toy(tmp_path / "static", (64, 128))
    with fiffdepth_rt.Depth(directory, backend="onnxruntime", device="cuda") as opened:
        assert opened.describe()["cuda_graph"] == "on"
        np.testing.assert_allclose(opened.infer(photo), toy_depth(photo[None])[0], atol=1e-6)
    with fiffdepth_rt.Depth(directory, backend="onnxruntime", device="cuda", cuda_graph=False) as opened:
        assert opened.describe()["cuda_graph"] == "off: cuda_graph=False"


def test_where_a_capture_fails_the_work_goes_on_without_and_says_why(
    tmp_path: Path, gpu_of_paper: list[Exception | None]
) -> None:
    gpu_of_paper.append(RuntimeError("operation not permitted when stream is capturing"))
    directory = write_static_toy(tmp_path / "toy", (64, 128))
    with fiffdepth_rt.Depth(directory, backend="onnxruntime", device="cuda") as opened:
        said = opened.describe()["cuda_graph"]
        assert said.startswith("off: ") and "stream is capturing" in said
        np.testing.assert_allclose(opened.infer(image()[0]), toy_depth(image())[0], atol=1e-6)


def test_a_gpu_without_room_is_an_error_with_the_figures_and_the_engine_stays_usable(
    toy_dir: Path, tmp_path: Path, gpu_of_paper: list[Exception | None]
) -> None:
    no_room = RuntimeError("Failed to allocate memory for requested buffer of size 939524096")
    with fiffdepth_rt.Depth(toy_dir, backend="onnxruntime", device="cuda", size=128) as opened:
        gpu_of_paper.append(no_room)
        with pytest.raises(DeviceMemoryError, match=r"a buffer of 896 MiB; free: .*smaller size") as e:
            opened.infer(image()[0])
        assert e.value.needed_bytes == 939524096
        np.testing.assert_allclose(opened.infer(image()[0]), toy_depth(image())[0], atol=1e-6)
    gpu_of_paper.append(no_room)
    with pytest.raises(DeviceMemoryError, match="896 MiB"):
        fiffdepth_rt.Depth(write_static_toy(tmp_path / "t", (64, 128)), backend="onnxruntime", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp32-128x128"])
def test_on_a_gpu_the_toy_is_its_twin(tmp_path: Path, precision: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the CPU wheel of ONNX Runtime is installed here")
    write = write_toy_engine_dir if precision == "fp32" else lambda path: write_static_toy(path, (128, 128))
    photos = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    with fiffdepth_rt.Depth(write(tmp_path / "toy"), precision=precision, device="cuda") as opened:
        for photo in photos:
            np.testing.assert_allclose(opened.infer(photo, size=128), toy_depth(photo[None])[0], atol=1e-5)
        assert opened.describe()["engine"]["cuda_graph"].startswith("on" if "x" in precision else "off")

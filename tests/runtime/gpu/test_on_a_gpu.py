"""Promises of building plans and of running them, on a GPU. Everywhere else they skip, with the reason.

What can be known without a GPU is in test_backend.py, on a stand-in.
"""

from __future__ import annotations

import dataclasses
import gc
import re
import shutil
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.jobs import Request
from fiffdepth_rt.engine_dir import golden as parity
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import BUNDLED, STAGES, read_manifest
from fiffdepth_rt.errors import BuildError, DeviceMemoryError, SizeError
from fiffdepth_rt.gpu import cuda
from tests.runtime.test_examples import run as run_example
from tests.support.paths import ROOT
from tests.support.plans import AT_GOLDEN, GOLDEN_GRID, edit, plan_files
from tests.support.toy import infer_to, toy_depth, write_toy_engine_dir
from tests.support.watched_copies import D2D, D2H, H2D, watched_copies

_usable = here.usable()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _usable.usable, reason=f"TensorRT cannot be used here: {_usable.why}"),
]

GRIDS = ((128, 192), (64, 128))


def _gpus() -> int:
    return int(cuda._call(cuda._runtime().cudaGetDeviceCount))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, with plans of this machine: two grids, each with batch 1 and 3."""
    directory = write_toy_engine_dir(tmp_path_factory.mktemp("engines") / "toy")
    build_plans(directory, Request(grids=GRIDS, batches=(1, 3), precision="fp32"))
    return directory


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, with plans of this machine at the grids of its golden images."""
    directory = Path(shutil.copytree(BUNDLED, tmp_path_factory.mktemp("engines") / "nano"))
    golden = read_golden(directory / "golden.npz")
    grids = tuple(dict.fromkeys(parity.grid_of(values) for values in golden.values()))
    build_plans(directory, Request(grids=grids, precision="fp32"))
    return directory


@pytest.fixture
def depth(built: Path) -> Iterator[fiffdepth_rt.Depth]:
    with fiffdepth_rt.Depth(built, backend="tensorrt") as opened:
        yield opened


@pytest.fixture
def torch() -> Any:
    """torch, if it sees the GPU."""
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    return module


def image(seed: int = 0, grid: tuple[int, int] = GRIDS[0]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*grid, 3), dtype=np.uint8)


# --- what it computes ---


def test_every_stage_and_the_journey_agree_with_the_golden_values(nano: Path) -> None:
    golden = read_golden(nano / "golden.npz")
    with fiffdepth_rt.Depth(nano, backend="tensorrt", precision="fp32") as depth:
        backend = depth.backend
        runners: dict[str, parity.RunStage] = {
            "encoder": lambda value: backend.run_stage("encoder", value),
            "unet": lambda value: backend.run_stage("unet", value),
            "decoder": backend.run_unclipped,
        }
        where = parity.Where(graph_set="fp32", backend="tensorrt", device=backend.device, batch=1)
        rows = [row for stage in STAGES for row in parity.compare_stage(golden, stage, runners[stage], where)]
        parity.judge([*rows, *parity.compare_chain(golden, runners, where)], advice="")


def test_the_plans_give_the_depth_of_the_plain_twin(depth: fiffdepth_rt.Depth) -> None:
    for seed in range(8):
        grid = GRIDS[seed % 2]
        found = depth.infer(image(seed, grid), size=max(grid))
        np.testing.assert_allclose(found, toy_depth(image(seed, grid)[None])[0], atol=1e-4)
    for found, seed in zip(depth.infer_batch([image(seed) for seed in range(5)]), range(5), strict=True):
        np.testing.assert_allclose(found, toy_depth(image(seed)[None])[0], atol=1e-4)


def test_a_replayed_graph_gives_the_bits_of_the_plain_enqueue(nano: Path) -> None:
    photo = image(1, (300, 400))
    results = []
    for cuda_graph in (True, False):
        with fiffdepth_rt.Depth(nano, backend="tensorrt", cuda_graph=cuda_graph) as depth:
            results.append([depth.infer(photo) for _ in range(6)])
            said = depth.describe()["cuda_graph"]
        assert said.startswith("on: ") if cuda_graph else said == "off: cuda_graph=False"
    for found in (*results[0], *results[1]):
        np.testing.assert_array_equal(found, results[0][0])


def test_eight_threads_on_two_objects_get_the_bits_of_one(built: Path, depth: fiffdepth_rt.Depth) -> None:
    images = [image(seed) for seed in range(64)]
    with fiffdepth_rt.Depth(built, backend="tensorrt") as other, ThreadPoolExecutor(8) as pool:
        alone = [depth.infer(one) for one in images]
        together = list(pool.map(lambda e, one: e.infer(one), (depth, other) * 32, images))
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_memory_stays_where_it_is_over_a_thousand_frames(depth: fiffdepth_rt.Depth) -> None:
    free = []
    for seed in range(1000):
        depth.infer(image(seed % 7))
        if seed % 100 == 99:
            free.append(cuda.memory()[0])
    assert max(free) == statistics.mode(free) == min(free)


# --- building ---


def test_the_toy_is_built_checked_and_listed(toy_dir: Path) -> None:
    request = Request(grids=(GOLDEN_GRID, (64, 128)), batches=(1, 2), precision="fp32")
    progress: list[float] = []
    records = build_plans(toy_dir, request, on_progress=lambda at: progress.append(at.fraction))
    assert [plan.stage for plan in records] == list(STAGES)
    assert open_engine_dir(toy_dir).manifest.plans == records
    assert (toy_dir / "timing.cache").stat().st_size > 0
    assert all(0 <= fraction <= 1 for fraction in progress)


def test_static_and_stripped_plans_compute_the_same(toy_dir: Path) -> None:
    request = dataclasses.replace(AT_GOLDEN, static=True, strip_plan=True)
    assert len(build_plans(toy_dir, request)) == 3


def test_a_graph_that_tensorrt_cannot_read_brings_its_log(toy_dir: Path) -> None:
    graph = toy_dir / "graphs" / "fp32" / "encoder.onnx"
    graph.write_bytes(b"not a graph")
    edit(toy_dir, files={**read_manifest(toy_dir).files, "graphs/fp32/encoder.onnx": hash_file(graph)})
    with pytest.raises(BuildError) as error:
        build_plans(toy_dir, AT_GOLDEN)
    assert error.value.log and "ONNX parser" in str(error.value)
    assert read_manifest(toy_dir).plans == ()


def test_ctrl_c_ends_a_build_and_leaves_nothing(toy_dir: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plans(toy_dir, AT_GOLDEN, on_progress=stop)
    assert plan_files(toy_dir) == set()


# --- beside others ---


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_frame_makes_the_copies_of_its_route_and_no_other(
    built: Path, torch: Any, cuda_graph: bool
) -> None:
    photos = {"host": image(), "device": torch.from_numpy(image()).cuda()}
    routes = {
        ("host", "host"): [H2D, D2H],
        ("host", "device"): [H2D, D2D],
        ("device", "host"): [D2D, D2H],
        ("device", "device"): [D2D, D2D],
    }
    with (
        watched_copies() as copies,
        fiffdepth_rt.Depth(built, backend="tensorrt", cuda_graph=cuda_graph) as depth,
    ):
        for (source, out), made in routes.items():
            for _ in range(4):
                infer_to(out, depth, photos[source])
                assert [copy.kind for copy in copies.take()] == made


def test_torch_in_the_same_process_gives_and_takes_without_the_host(
    depth: fiffdepth_rt.Depth, torch: Any
) -> None:
    expected = depth.infer(image(3))
    given = torch.from_numpy(image(3)).cuda()
    kept = depth.infer_on_gpu(given, out="device")
    taken = torch.from_dlpack(kept)
    assert taken.device == torch.device("cuda:0") and taken.data_ptr() == kept.address
    np.testing.assert_array_equal(taken.cpu().numpy(), expected)
    np.testing.assert_array_equal(torch.as_tensor(kept, device="cuda").cpu().numpy(), expected)
    mine = torch.empty(GRIDS[0], device="cuda")
    assert depth.infer_on_gpu(given, out=mine) is mine
    np.testing.assert_array_equal(mine.cpu().numpy(), expected)
    product = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")  # torch still works
    assert float(product[0, 0]) == 64
    with pytest.raises(SizeError, match="Two ways"):
        depth.infer_on_gpu(torch.zeros((100, 100, 3), dtype=torch.uint8, device="cuda"), out="host")


def test_torchs_stream_is_honoured(depth: fiffdepth_rt.Depth, torch: Any) -> None:
    stream = torch.cuda.Stream()
    expected = depth.infer(image(5))
    mine = torch.empty(GRIDS[0], device="cuda")
    given = torch.zeros((*GRIDS[0], 3), dtype=torch.uint8, device="cuda")
    source = torch.from_numpy(image(5)).pin_memory()
    torch.cuda.synchronize()
    for _ in range(20):
        with torch.cuda.stream(stream):
            given.zero_()
            torch.cuda._sleep(2_000_000)  # the photo is written long after infer is called
            given.copy_(source, non_blocking=True)
            depth.infer_on_gpu(given, out=mine, cuda_stream=stream)
            result = mine.clone()
        stream.synchronize()
        np.testing.assert_array_equal(result.cpu().numpy(), expected)


def test_cupy_gives_and_takes_without_the_host(depth: fiffdepth_rt.Depth) -> None:
    cupy = pytest.importorskip("cupy")
    expected = depth.infer(image(4))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        kept = depth.infer_on_gpu(cupy.asarray(image(4)), out="device", cuda_stream=stream)
        np.testing.assert_array_equal(cupy.asnumpy(cupy.asarray(kept)), expected)


def test_two_gpus_give_the_same(built: Path) -> None:
    if _gpus() < 2 or cuda.gpu(0) != cuda.gpu(1):
        pytest.skip("there are no two GPUs of one model here")
    results = []
    for device in ("cuda:0", "cuda:1"):
        with fiffdepth_rt.Depth(built, backend="tensorrt", device=device) as depth:
            assert depth.describe()["device"] == device
            results.append(depth.infer(image(6)))
    np.testing.assert_array_equal(*results)


def test_the_python_of_deploy_md_runs(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_toy_engine_dir(tmp_path / "engines" / "fiffdepth")
    build_plans(directory, Request(grids=((384, 640), *GRIDS[:1]), precision="fp32"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "photo": image(0, (300, 400)),
        "torch": torch,
        "side": torch.cuda.Stream(),
        "truth": torch.zeros((384, 640), device="cuda"),
    }
    document = ROOT / "docs" / "deploy.md"
    first, *others = re.findall(r"^```py\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    exec(first, names)
    with fiffdepth_rt.Depth(directory, backend="tensorrt") as names["depth"]:
        for block in others:
            exec(block, names)
    assert torch.isfinite(names["loss"])


# --- bad weather ---


def test_memory_that_runs_out_is_a_typed_error_and_the_engine_stays_usable(
    built: Path, depth: fiffdepth_rt.Depth
) -> None:
    expected = depth.infer(image())
    taken = []
    chunk = 2**30
    while chunk >= 2**16:  # all there is, in smaller and smaller pieces
        try:
            taken.append(cuda.allocate(chunk, "the test"))
        except DeviceMemoryError:
            chunk //= 2
    try:
        with pytest.raises(DeviceMemoryError, match="MiB are free"):
            fiffdepth_rt.Depth(built, backend="tensorrt")
        with pytest.raises(DeviceMemoryError) as error:
            kept = [depth.infer_on_gpu(image(), out="device") for _ in range(10_000)]
            assert not kept  # 1 GB of results found room
        assert error.value.needed_bytes == 128 * 192 * 4 and error.value.free_bytes is not None
        np.testing.assert_array_equal(depth.infer(image()), expected)
    finally:
        gc.collect()
        for address in taken:
            cuda.free(address)
    with fiffdepth_rt.Depth(built, backend="tensorrt") as again:
        np.testing.assert_array_equal(again.infer(image()), expected)


def test_the_example_with_torch_tensors_runs(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    said = run_example("on_a_gpu.py", tmp_path, built, "128x192")
    assert len(said) == 4 and all(line.endswith("on cuda:0") for line in said)

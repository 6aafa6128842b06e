"""Promises about memory: what an engine takes is measured and recorded; what does not fit is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from fiffdepth_rt import Depth
from fiffdepth_rt.backends import room
from fiffdepth_rt.backends.room import need_on, require_host_room
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import MemoryRecord, read_manifest, write_manifest
from fiffdepth_rt.errors import BackendError, HashMismatchError, HostMemoryError, ManifestError
from fiffdepth_rt.machine import free_memory
from fiffdepth_rt.memory import measure_memory
from fiffdepth_rt.program import program
from tests.support.paths import ROOT
from tests.support.toy import write_static_toy, write_toy_engine_dir

ON_LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured on Linux alone")
GB = 10**9


def record(grid: tuple[int, int] = (512, 512), **changes: Any) -> MemoryRecord:
    return MemoryRecord(
        **{
            "graph_set": "fp32",
            "grid": grid,
            "backend": "onnxruntime",
            "device": "cpu",
            "opening_bytes": 3 * GB,
            "opened_bytes": 2 * GB,
            "computing_bytes": GB,
            "gpu_bytes": None,
            "measured": {},
            **changes,
        }
    )


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy_engine_dir(tmp_path / "toy", precisions=("fp32", "fp16"))


def recorded(directory: Path, *records: MemoryRecord) -> Path:
    write_manifest(directory, msgspec.structs.replace(read_manifest(directory), memory=records))
    return directory


# --- measured ---


@ON_LINUX
def test_verify_measures_two_grids_and_info_shows_them(toy: Path) -> None:
    ran = CliRunner().invoke(program, ["verify", str(toy), "--precision", "fp16", "--memory"])
    assert ran.exit_code == 0, ran.output
    small, default = read_manifest(toy).memory
    limits = read_manifest(toy).size
    assert default.grid == (limits.default,) * 2 and small.grid < default.grid
    assert (default.graph_set, default.backend, default.device) == ("fp16", "onnxruntime", "cpu")
    assert 0 < default.opened_bytes <= default.opening_bytes < GB
    assert default.measured["engine"]["onnxruntime"]
    shown = CliRunner().invoke(program, ["info", str(toy)]).output
    side = limits.default
    assert f"Memory      fp16 at {side}x{side} on onnxruntime (cpu): " in shown


@ON_LINUX
def test_measuring_again_replaces_what_was_measured_of_this_engine_alone(toy: Path) -> None:
    other = record(backend="openvino")
    recorded(toy, record(opening_bytes=7), other)
    ran = CliRunner().invoke(program, ["verify", str(toy), "--precision", "fp32", "--memory"])
    assert ran.exit_code == 0, ran.output
    first, *measured = read_manifest(toy).memory
    assert first == other
    assert len(measured) == 2 and all(one.opening_bytes > 7 for one in measured)


@ON_LINUX
def test_what_an_image_takes_is_counted(toy: Path) -> None:
    """The toy keeps a few copies of its image; 64 times the pixels are more than the noise of small ones."""
    small, large = measure_memory(toy, precision="fp32", threads=1, grids=[(2048, 2048), (256, 256)])
    assert (small.grid, large.grid) == ((256, 256), (2048, 2048))
    image = 2048 * 2048 * 3
    assert 2 * image < large.computing_bytes < 60 * image
    assert small.computing_bytes < large.computing_bytes / 8


@ON_LINUX
def test_libraries_of_engines_that_are_not_chosen_are_not_counted(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TensorRT that takes 300 MB is asked first, and finds no GPU."""
    library = tmp_path / "tensorrt" / "__init__.py"
    library.parent.mkdir()
    library.write_text('__version__ = "10.13.0"\nballast = b"1" * 300_000_000\n')
    monkeypatch.syspath_prepend(tmp_path)  # for the process that measures
    here = types.ModuleType("tensorrt")  # for this one
    here.__version__ = "10.13.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", here)
    (found,) = measure_memory(toy, threads=1, grids=[(64, 64)])
    assert (found.backend, found.graph_set) == ("onnxruntime", "fp32")
    assert found.opening_bytes < 150_000_000


@ON_LINUX
def test_each_set_of_a_family_of_fixed_grids_is_measured_where_it_opens_by_itself(tmp_path: Path) -> None:
    """One of the two has 64 MiB of weights more: they count as opened of this set, and of nothing else."""
    toy = write_static_toy(tmp_path / "toy", (64, 128), (128, 128))
    file = "graphs/fp32-128x128/unet.onnx"
    model = onnx.load(toy / file)
    given = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["with weights" if name == given else name for name in node.input]
    weights = np.ones((4096, 4096), np.float32)
    constants = {"weights": weights, "zero": np.float32(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    nodes = [  # a row that the latent chooses, so that nothing can be computed beforehand
        helper.make_node("ReduceMean", [given], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["row"]),
        helper.make_node("Cast", ["row"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["weights", "index"], ["chosen"]),
        helper.make_node("ReduceMean", ["chosen"], ["one"], keepdims=0),
        helper.make_node("Mul", [given, "one"], ["with weights"]),
    ]
    for i, node in enumerate(nodes):
        model.graph.node.insert(i, node)
    onnx.save(model, toy / file)
    manifest = read_manifest(toy)
    files = {**manifest.files, file: hash_file(toy / file)}
    write_manifest(toy, msgspec.structs.replace(manifest, files=files))

    small, large = measure_memory(toy, backend="onnxruntime", precision="fp32", threads=1)
    assert [(one.graph_set, one.grid) for one in (small, large)] == [
        ("fp32-64x128", (64, 128)),
        ("fp32-128x128", (128, 128)),
    ]
    assert large.opened_bytes - small.opened_bytes == pytest.approx(weights.nbytes, rel=0.2)
    assert small.computing_bytes < weights.nbytes / 4 and large.computing_bytes < weights.nbytes / 4


@ON_LINUX
def test_an_engine_that_does_not_open_is_named_with_its_own_words(toy: Path) -> None:
    graph = "graphs/fp32/unet.onnx"
    model = onnx.load(toy / graph)
    model.graph.node[0].attribute.append(helper.make_attribute("nonsense", 1))
    onnx.save(model, toy / graph)
    with pytest.raises(HashMismatchError, match=r"unet\.onnx"):
        measure_memory(toy, precision="fp32")
    manifest = read_manifest(toy)
    files = {**manifest.files, graph: hash_file(toy / graph)}
    write_manifest(toy, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(BackendError, match=r"measure its memory ended with status 1: .*GraphError"):
        measure_memory(toy, precision="fp32")


# --- predicted, and refused ---


def test_two_measured_grids_predict_a_third_by_its_pixels_and_their_square() -> None:
    def computing(side: int) -> int:  # activations, and attention
        return 1000 * side**2 + side**4 // 100

    records = [record((side, side), computing_bytes=computing(side)) for side in (256, 512)]
    need = need_on((1024, 1024), records)
    assert need is not None and need.predicted
    assert need.computing_bytes == pytest.approx(computing(1024), rel=1e-6)
    assert need_on((512, 512), records).computing_bytes == computing(512)  # type: ignore[union-attr]


def test_one_measured_grid_predicts_with_caution() -> None:
    (only,) = records = [record((512, 512), computing_bytes=100)]
    assert need_on((512, 512), records).predicted is False  # type: ignore[union-attr]
    assert need_on((1024, 1024), records).computing_bytes == 100 * 16  # type: ignore[union-attr]
    assert need_on((256, 256), records).computing_bytes == 25  # type: ignore[union-attr]
    assert only.computing_bytes == 100


def test_what_opening_takes_counts_where_it_is_the_most() -> None:
    need = need_on((512, 512), [record(opening_bytes=9 * GB)])
    assert need is not None and need.most_bytes == 9 * GB


def test_depth_refuses_before_it_opens_and_names_the_largest_grid_that_fits(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = read_manifest(toy).size
    half = -(-limits.max // 2 // limits.multiple) * limits.multiple
    recorded(toy, record((limits.max, limits.max), opening_bytes=0, opened_bytes=0, computing_bytes=GB))
    free = round(GB * (half / limits.max) ** 2)
    monkeypatch.setattr(room, "free_memory", lambda: free)
    with pytest.raises(
        HostMemoryError, match=rf"needs 1\.00 GB at .*The largest grid that fits is {half}x{half}: "
    ) as e:
        Depth(toy, precision="fp32", size=limits.max)
    assert f"say size={half}." in str(e.value) and "Nothing was opened." in str(e.value)
    with Depth(toy, precision="fp32", size=half) as depth:
        assert depth.size == half
    with Depth(toy, precision="fp16", size=limits.max):
        pass  # of which nothing was measured


def test_the_program_says_so_without_a_traceback(toy: Path, tmp_path: Path) -> None:
    recorded(toy, record(opened_bytes=10**18))
    ran = CliRunner().invoke(program, ["infer", str(ROOT / "examples" / "coffee.jpg"), "--engine", str(toy)])
    assert ran.exit_code == 1
    assert "No grid of this model fits: close other programs" in ran.output


def test_where_the_system_does_not_say_what_is_free_nothing_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(recorded(toy, record(opened_bytes=10**18)))
    monkeypatch.setattr(room, "free_memory", lambda: None)
    require_host_room(manifest, backend="onnxruntime", device="cpu", precision="fp32", size=None)


def test_a_record_of_no_graph_set_is_refused(toy: Path) -> None:
    with pytest.raises(ManifestError, match=r"memory\[0\] is of 'fp64', which is no graph set"):
        recorded(toy, record(graph_set="fp64"))


# --- what is free ---


def meminfo(root: Path, available_kib: int, swap_kib: int = 0) -> Path:
    (root / "proc/self").mkdir(parents=True)
    lines = f"MemTotal: 99 kB\nMemAvailable:   {available_kib} kB\nSwapFree: {swap_kib} kB\n"
    (root / "proc/meminfo").write_text(lines)
    return root


@pytest.mark.parametrize(
    ("kind", "mounted", "group", "files"),
    [
        ("cgroup2 cgroup rw", "/sys/fs/cgroup", "0::/job", ("memory.max", "memory.current", "inactive_file")),
        (
            "cgroup cgroup rw,memory",
            "/sys/fs/cgroup/memory",
            "3:memory:/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_what_a_control_group_leaves_is_what_is_free(
    tmp_path: Path, kind: str, mounted: str, group: str, files: tuple[str, str, str]
) -> None:
    root = meminfo(tmp_path, 8_000_000, 1_000_000)
    assert free_memory(root) == 9_000_000 * 1024
    (root / "proc/self/mountinfo").write_text(f"30 1 0:26 / {mounted} rw - {kind}\n")
    (root / "proc/self/cgroup").write_text(group + "\n")
    job = root / mounted.lstrip("/") / "job"
    job.mkdir(parents=True)
    limit, used, cached = files
    (job / limit).write_text("3000000000\n")
    (job / used).write_text("1000000000\n")
    (job / "memory.stat").write_text(f"anon 5\n{cached} 400000000\n")
    assert free_memory(root) == 2_400_000_000


def test_a_system_without_meminfo_says_nothing(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


# --- half-precision weights stay half ---

_OPEN_AND_RUN = """
import json, re, sys
from pathlib import Path
import numpy as np
from fiffdepth_rt.backends.onnxruntime.cpu import CpuEngine
from fiffdepth_rt.engine_dir.checking import CheckedGraph
from fiffdepth_rt.engine_dir.manifest import Stage, TensorSpec

def kib(name):
    return int(re.search(rf"^{name}:\\s*(\\d+)", Path("/proc/self/status").read_text(), re.M)[1])

doors = [TensorSpec(name=n, dtype="float32", shape=("batch", 2048)) for n in ("latent", "depth_latent")]
stage = Stage(file="unet.onnx", external_data=("unet.data",), inputs=doors[:1], outputs=doors[1:])
graph = CheckedGraph(
    name="fp16/unet", path=Path(sys.argv[1]), precision="fp16", stage=stage, files=(), cure=""
)
engine = CpuEngine(threads=1)
x = np.linspace(-1, 1, 2048, dtype=np.float32)[None]
import onnxruntime
before = kib("VmRSS")
y = engine.run_stage(engine.open_stage(graph), "unet", x, "depth_latent")
print(json.dumps({"taken": (kib("VmHWM") - before) * 1024, "mean": float(np.abs(y).mean())}))
"""


@ON_LINUX
def test_fp16_weights_beside_a_graph_are_not_doubled_on_a_cpu(tmp_path: Path) -> None:
    """Twelve layers of 8.4 MB: 1.25 times their weights, and one layer as fp32 at a time."""
    side, layers = 2048, 12
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((side, side), np.float32) / side**0.5 for _ in range(layers)]
    weights = [weight.astype(np.float16) for weight in weights]
    nodes = [helper.make_node("Cast", ["latent"], ["v0"], to=TensorProto.FLOAT16)]
    nodes += [helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(layers)]
    nodes += [helper.make_node("Cast", [f"v{layers}"], ["depth_latent"], to=TensorProto.FLOAT)]
    doors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", side])
        for n in ("latent", "depth_latent")
    ]
    initializers = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    model = helper.make_model(
        helper.make_graph(nodes, "unet", doors[:1], doors[1:], initializers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "unet.onnx", save_as_external_data=True, location="unet.data")
    weight_bytes = (tmp_path / "unet.data").stat().st_size
    ran = subprocess.run(
        [sys.executable, "-c", _OPEN_AND_RUN, str(tmp_path / "unet.onnx")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    one_layer_in_fp32 = 2 * weight_bytes / layers
    assert weight_bytes > 100e6
    assert found["taken"] <= 1.25 * weight_bytes + 2 * one_layer_in_fp32
    value = np.linspace(-1, 1, side, dtype=np.float32)[None].astype(np.float16).astype(np.float32)
    for weight in weights:
        value = value @ weight.astype(np.float32)
    assert found["mean"] == pytest.approx(float(np.abs(value).mean()), rel=0.02)

"""Promises of TensorRT for RTX, kept with the library itself: plans are built here, without a GPU.

What only a GPU can do (numbers, speed, compiling kernels) is not here: test_first_check.py has the stand-in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.build_process import ProcessBuilder
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, Request, graph_digest
from fiffdepth_rt.backends.tensorrt.opened import OpenedEngine
from fiffdepth_rt.backends.tensorrt.plan_header import PlanHeader, check_header, read_header
from fiffdepth_rt.backends.tensorrt.progress import BuildProgress
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import (
    BUNDLED,
    STAGES,
    PlanProfile,
    Stage,
    TensorSpec,
    read_manifest,
)
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    BuildError,
    DriverError,
    HashMismatchError,
    PlanGpuError,
    PlanMismatchError,
    PlanVersionError,
)
from tests.support.mutated_plans import mutations, open_mutated
from tests.support.paths import ROOT
from tests.support.plans import RTX, plan_files, profile, record
from tests.support.toy import write_toy_engine_dir

try:
    RELEASE = here.require_builder(TENSORRT_RTX)
except BackendUnavailableError as error:
    pytest.skip(f"no plan can be built here: {error}", allow_module_level=True)

NO_GPU = pytest.mark.skipif(here.usable(TENSORRT_RTX).usable, reason="there is a GPU here, which opens plans")
AT_128 = Request(flavour=TENSORRT_RTX, grids=((128, 192), (64, 128)), precision="fp32")

# Not documented: for tests alone.
MAGIC, CAPABILITIES = b"vtrt", 32
BITS = {"7.5": 1, "8.0": 2, "8.6": 4, "8.9": 8, "12.0": 16, "12.1": 32}


def header(plan: Path) -> tuple[bytes, tuple[int, ...], int]:
    """(magic, version, capability bits) of a plan."""
    content = plan.read_bytes()[:64]
    return content[:4], tuple(content[24:28]), content[CAPABILITIES]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy engine directory with plans of two grids."""
    directory = write_toy_engine_dir(tmp_path_factory.mktemp("rtx") / "toy")
    build_plans(directory, AT_128)
    return directory


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with plans of one small grid, and of its golden photos'."""
    directory = tmp_path_factory.mktemp("rtx") / "nano"
    shutil.copytree(BUNDLED, directory)
    build_plans(directory, Request(flavour=TENSORRT_RTX, grids=((256, 256),)))
    return directory


def attention(path: Path) -> Path:
    """An fp16 self-attention as the export writes it: MatMul, Softmax, MatMul; [1, 256, 64] in and out."""
    q = helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 4, 256, 64])
    out = helper.make_tensor_value_info("depth_latent", TensorProto.FLOAT, [1, 4, 256, 64])
    identity = np.eye(64, dtype=np.float16).tobytes()
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT16, [64, 64], identity, raw=True)
        for name in ("wq", "wk", "wv")
    ]
    nodes = [
        helper.make_node("Cast", ["latent"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x", "wq"], ["q"]),
        helper.make_node("MatMul", ["x", "wk"], ["k"]),
        helper.make_node("MatMul", ["x", "wv"], ["v"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
        helper.make_node("Cast", ["y"], ["depth_latent"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "attention", [q], [out], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def job_of(graph: Path, shape: tuple[int, ...], **changes: object) -> PlanJob:
    """A job for a graph of one input and one output of a shape, as the UNet's are named."""
    stage = Stage(
        file=graph.name,
        external_data=(),
        inputs=(TensorSpec(name="latent", dtype="float32", shape=shape),),
        outputs=(TensorSpec(name="depth_latent", dtype="float32", shape=shape),),
    )
    changed = {"hardware_compatibility": "ampere_plus", "profiles": (profile(64, 64),), **changes}
    return PlanJob(record=record(RTX, **changed), graph=graph, stage=stage)


def build(job: PlanJob, into: Path, heard: list[BuildProgress] | None = None) -> object:
    into.touch()
    builder = ProcessBuilder(RTX, runner=None, versions={})
    return builder.build(
        job,
        into,
        timing_cache=into.with_name("timing.cache"),
        on_progress=None if heard is None else heard.append,
    )


# --- what is built ---


def test_the_bundled_model_becomes_plans_for_ampere_and_newer(nano: Path) -> None:
    manifest = open_engine_dir(nano).manifest  # every hash agrees
    assert [plan.stage for plan in manifest.plans] == list(STAGES)
    for plan in manifest.plans:
        assert plan.file == f"plans/{plan.stage}.fp32.sm80plus.trtrtx1.7.1.116.plan"
        magic, version, bits = header(nano / plan.file)
        assert (magic, version) == (MAGIC, (1, 7, 1, 116))
        assert bits & ~64 == sum(BITS.values()) - BITS["7.5"]
        assert plan.memory is not None and len(plan.memory.activation_bytes) == len(plan.profiles)
        assert plan.memory.weight_bytes >= 0 and min(plan.memory.activation_bytes) > 0
        assert (plan.checked, plan.gpu_name) == (False, None)
    unet = manifest.plans[1]
    assert unet.memory is not None
    assert 5e6 < unet.memory.weight_bytes < manifest.files[unet.file].bytes


def test_several_fixed_shapes_share_one_plan(toy: Path) -> None:
    plans = read_manifest(toy).plans
    assert {plan.profiles for plan in plans} == {
        (PlanProfile(grid=(128, 192), batch=1), PlanProfile(grid=(64, 128), batch=1))
    }
    assert plan_files(toy) == {Path(plan.file).name for plan in plans}


def test_the_same_build_again_builds_nothing(toy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (toy / "plans").iterdir()}
    build_plans(toy, AT_128)
    assert {path.name: path.stat().st_mtime_ns for path in (toy / "plans").iterdir()} == before


@pytest.mark.parametrize(
    "capability", ["7.5", *(pytest.param(c, marks=pytest.mark.soak) for c in ("8.0", "8.6", "8.9", "12.0"))]
)
def test_a_capability_gets_a_plan_of_its_own_with_its_attention_fused(
    tmp_path: Path, capability: str
) -> None:
    job = job_of(
        attention(tmp_path / "a.onnx"),
        (1, 4, 256, 64),
        compute_capability=capability,
        hardware_compatibility="same_compute_capability",
    )
    heard = list[BuildProgress]()
    build(job, tmp_path / "a.plan", heard)
    assert header(tmp_path / "a.plan")[2] == BITS[capability]
    assert (tmp_path / "a.plan").read_bytes().count(b"_gemm_mha_v2") >= 1
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions) and fractions[-1] > 0.5 and heard[-1].stage == "unet"


# --- what is refused ---


def test_turing_and_bf16_do_not_go_together(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy", precisions=("fp32", "bf16"))
    with pytest.raises(BuildError, match=r"computes no bf16 on GPUs of compute capability 7\.5 \(Turing\)"):
        build_plans(directory, dataclasses.replace(AT_128, precision="bf16", compute_capability="7.5"))
    assert not (directory / "plans").exists()


def test_a_graph_that_is_none_brings_the_librarys_words(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(
        BuildError, match=r"1\.7\.1\.116 could not build .*a\.onnx: its ONNX parser says"
    ) as error:
        build(job_of(tmp_path / "a.onnx", (1, 4, 8, 8)), tmp_path / "a.plan")
    assert error.value.log


def test_a_graph_that_kills_the_builder_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """Attention of a tensor with itself, by the operator of opset 23: the library's process dies of it."""
    shape = [1, 4, 256, 64]
    nodes = [
        helper.make_node("Cast", ["latent"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("Attention", ["x", "x", "x"], ["y"]),
        helper.make_node("Cast", ["y"], ["depth_latent"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "same",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("depth_latent", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(BuildError, match=r"The process in which .* built .*a\.onnx died \(SIG\w+\)") as error:
        build(job_of(tmp_path / "a.onnx", tuple(shape)), tmp_path / "a.plan")
    assert error.value.log


# --- stopping ---


def test_ctrl_c_ends_the_builder_too(tmp_path: Path) -> None:
    def stop(progress: BuildProgress) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    (tmp_path / "a.plan").touch()
    builder = ProcessBuilder(RTX, runner=None, versions={})
    with pytest.raises(KeyboardInterrupt):
        builder.build(
            job_of(attention(tmp_path / "a.onnx"), (1, 4, 256, 64)),
            tmp_path / "a.plan",
            timing_cache=tmp_path / "t",
            on_progress=stop,
        )
    assert (tmp_path / "a.plan").stat().st_size == 0 and time.monotonic() - started < 60


def test_a_builder_that_the_system_kills_is_an_error_that_names_memory(tmp_path: Path) -> None:
    """As Linux does where memory runs out: with SIGKILL, and without a word."""
    psutil = pytest.importorskip("psutil")

    def kill(progress: BuildProgress) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # of a child that has ended
                if any("build_process" in word for word in child.cmdline()):  # not multiprocessing's helper
                    child.kill()

    (tmp_path / "a.plan").touch()
    with pytest.raises(BuildError, match=r"died \(SIGKILL\): .*Out of memory, close other programs"):
        ProcessBuilder(RTX, runner=None, versions={}).build(
            job_of(attention(tmp_path / "a.onnx"), (1, 4, 256, 64)),
            tmp_path / "a.plan",
            timing_cache=tmp_path / "t",
            on_progress=kill,
        )
    assert (tmp_path / "a.plan").stat().st_size == 0


def test_a_killed_build_goes_on_and_its_builder_is_gone(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    code = """
import os, signal, sys
from fiffdepth_rt.backends.tensorrt.build import build_plans
from tests.runtime.gpu.test_rtx_builds import AT_128

def killed(progress):
    if progress.stage == "unet":
        print(os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

build_plans(sys.argv[1], AT_128, on_progress=killed)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert [plan.stage for plan in open_engine_dir(directory).manifest.plans] == ["encoder"]
    assert len(build_plans(directory, AT_128)) == 3
    assert plan_files(directory) == {Path(plan.file).name for plan in read_manifest(directory).plans}


# --- opening, where there is no GPU ---


def job_in(directory: Path, stage: str = "unet") -> PlanJob:
    manifest = read_manifest(directory)
    plan = next(plan for plan in manifest.plans if plan.stage == stage)
    graphs = manifest.graph_sets["fp32"].stages[stage]
    assert plan.graph_sha256 == graph_digest(manifest, "fp32", stage)
    return PlanJob(record=plan, graph=directory / graphs.file, stage=graphs)


@NO_GPU
def test_a_whole_plan_asks_for_a_driver(toy: Path) -> None:
    job = job_in(toy)
    with pytest.raises(DriverError, match=r"finds no NVIDIA driver .*nvidia-smi.*backend='onnxruntime'"):
        OpenedEngine(toy / job.record.file, job)
    with pytest.raises(DriverError, match=r"no driver of an NVIDIA GPU"):
        fiffdepth_rt.Depth(toy, backend="tensorrt-rtx")
    with fiffdepth_rt.Depth(toy, threads=1) as depth:
        assert depth.describe()["backend"] == "onnxruntime"


def test_the_header_of_a_plan_says_what_is_read_in_it(toy: Path, nano: Path) -> None:
    """plan_header.py reads what NVIDIA does not document: this is what vouches for it."""
    for directory in (toy, nano):
        for plan in read_manifest(directory).plans:
            content = (directory / plan.file).read_bytes()
            found = read_header(content)
            assert found == PlanHeader(
                nbytes=len(content),
                version=(1, 7, 1, 116),
                capabilities=("8.0", "8.6", "8.9", "12.0", "12.1"),
            )
            check_header(content, directory / plan.file, plan)


def test_a_cut_a_longer_and_a_foreign_plan_are_told_apart(toy: Path, tmp_path: Path) -> None:
    job = job_in(toy)
    content = (toy / job.record.file).read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(PlanMismatchError, match=r"it was cut short\. Run `fiffdepth build` again"):
        OpenedEngine(tmp_path / "cut", job)
    (tmp_path / "longer").write_bytes(content + b"x")
    with pytest.raises(PlanMismatchError, match="something was added to it"):
        OpenedEngine(tmp_path / "longer", job)
    for foreign in (b"ftrt" + content[4:], b"x" * 64, b"x", b""):
        (tmp_path / "foreign").write_bytes(foreign)
        with pytest.raises(PlanMismatchError, match="not a plan of this library"):
            OpenedEngine(tmp_path / "foreign", job)


def test_a_plan_of_another_version_or_other_gpus_than_listed_is_refused(toy: Path, tmp_path: Path) -> None:
    job = job_in(toy)
    content = bytearray((toy / job.record.file).read_bytes())
    content[24:28] = bytes((1, 6, 1, 120))
    (tmp_path / "version").write_bytes(content)
    with pytest.raises(PlanVersionError, match=r"is of version 1\.6\.1\.120, and the manifest says"):
        OpenedEngine(tmp_path / "version", job)
    turing = dataclasses.replace(job, record=msgspec.structs.replace(job.record, compute_capability="7.5"))
    with pytest.raises(PlanGpuError, match=r"capability 8\.0, 8\.6, .*and the manifest says of 7\.5"):
        OpenedEngine(toy / job.record.file, turing)


def test_what_only_the_library_can_see_is_refused_in_its_words(toy: Path, tmp_path: Path) -> None:
    """A length that is right where the table of contents is not; and versions whose header is not known."""
    job = job_in(toy)
    content = bytearray((toy / job.record.file).read_bytes())[:5000]
    content[16:24] = len(content).to_bytes(8, "little")
    (tmp_path / "cut").write_bytes(content)
    with pytest.raises(PlanMismatchError, match="it was cut short"):
        OpenedEngine(tmp_path / "cut", job)
    newer = msgspec.structs.replace(job.record, tensorrt_version="1.8.0.1")
    (tmp_path / "foreign").write_bytes(b"x" * 64)
    with pytest.raises(PlanMismatchError, match="not a plan of this library"):
        OpenedEngine(tmp_path / "foreign", dataclasses.replace(job, record=newer))


@NO_GPU
@pytest.mark.parametrize("count", [48, pytest.param(500, marks=pytest.mark.soak)])
def test_a_mutated_plan_is_an_error_and_never_ends_the_process(toy: Path, tmp_path: Path, count: int) -> None:
    directory = Path(shutil.copytree(toy, tmp_path / "toy"))
    files = {plan.stage: (toy / plan.file).read_bytes() for plan in read_manifest(toy).plans}
    made = mutations(files["unet"], [files["decoder"], files["encoder"]])[:count]
    came = open_mutated(directory, 0, count)
    # What only its body tells apart: the library refuses it, or gets as far as the driver that is not here.
    by_library = {"PlanMismatchError", "DriverError"}
    wrong = {
        (i, mutation.kind, mutation.says, came.get(i))
        for i, mutation in enumerate(made)
        if came.get(i) not in ({mutation.says} if mutation.says else by_library)
    }
    assert wrong == set()
    counted = Counter((mutation.kind, mutation.vouched, came[i]) for i, mutation in enumerate(made))
    print(*sorted(counted.items()), sep="\n")  # shown with -s, and where this fails
    owed = {"HashMismatchError", "PlanVersionError", "PlanGpuError", *by_library}
    assert {said for _, _, said in counted} == owed


@NO_GPU
def test_a_damaged_plan_never_reaches_the_library(toy: Path, tmp_path: Path) -> None:
    copy = tmp_path / "toy"
    shutil.copytree(toy, copy)
    plan = copy / job_in(copy).record.file
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(HashMismatchError, match=r"unet\.fp32\.sm80plus"):
        open_engine_dir(copy)

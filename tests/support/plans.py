"""Plans for tests: records as a build would list them, and ONNX Runtime in the place of TensorRT as builder.

A "plan" of the stand-in is a copy of the graph, and running the plan runs the graph. For TensorRT for RTX it
has the header of a real one before it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime

from fiffdepth_rt.backends.tensorrt.build import LOCK
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT_RTX
from fiffdepth_rt.backends.tensorrt.here import Target
from fiffdepth_rt.backends.tensorrt.jobs import PlanJob, Request, find_profile, plan_file
from fiffdepth_rt.backends.tensorrt.progress import OnProgress
from fiffdepth_rt.engine_dir.manifest import (
    STAGE_TENSORS,
    GraphSet,
    Manifest,
    PlanMemory,
    PlanProfile,
    PlanRecord,
    TensorSpec,
    read_manifest,
    write_manifest,
)

L4 = Target(gpu_name="NVIDIA L4", compute_capability="8.9", tensorrt_version="10.16.1.11")
RTX = Target(flavour=TENSORRT_RTX, gpu_name=None, compute_capability="8.0", tensorrt_version="1.7.1.116")
ORIN = Target(gpu_name="Orin", compute_capability="8.7", tensorrt_version="10.3.0")
LIKE_L4 = ("NVIDIA L4", 8, 9)  # the same as CUDA says it
GOLDEN_GRID = (128, 192)  # where the toy's golden images lie
GRIDS = (GOLDEN_GRID, (64, 128))
AT_GOLDEN = Request(grids=(GOLDEN_GRID,), precision="fp32")
RTX_AT_GOLDEN = Request(flavour=TENSORRT_RTX, grids=(GOLDEN_GRID,), precision="fp32")


def profile(height: int, width: int, batch: int = 1) -> PlanProfile:
    return PlanProfile(grid=(height, width), batch=batch)


def record(target: Target = L4, **changes: object) -> PlanRecord:
    plan = PlanRecord(
        stage="unet",
        precision="fp16",
        file=plan_file("unet", "fp16", target),
        flavour=target.flavour.name,
        gpu_name=target.gpu_name,
        compute_capability=target.compute_capability,
        tensorrt_version=target.tensorrt_version,
        profiles=(profile(512, 512),),
        hardware_compatibility="none",
        stripped=False,
        opt_level=None,
        workspace_mib=None,
        graph_sha256="0" * 64,
        checked=True,
        memory=None,
        built={},
    )
    return msgspec.structs.replace(plan, **changes)  # type: ignore[arg-type]


def image(seed: int = 0, grid: tuple[int, int] = GOLDEN_GRID) -> np.ndarray:
    """Noise: uint8 h×w×3."""
    return np.random.default_rng(seed).integers(0, 256, (*grid, 3), dtype=np.uint8)


def fixed(manifest: Manifest, height: int, width: int) -> GraphSet:
    """The toy's fp32 graphs as an export with --static would list them."""
    sizes = {"height": height, "width": width, "height/8": height // 8, "width/8": width // 8}

    def fix(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            msgspec.structs.replace(spec, shape=tuple(sizes.get(d, d) for d in spec.shape))
            for spec in specs  # type: ignore[call-overload]
        )

    graphs = manifest.graph_sets["fp32"]
    stages = {
        name: msgspec.structs.replace(stage, inputs=fix(stage.inputs), outputs=fix(stage.outputs))
        for name, stage in graphs.stages.items()
    }
    return msgspec.structs.replace(graphs, stages=stages)


def as_plan(graph: bytes, target: Target) -> bytes:
    """A graph -> a stand-in's plan."""
    if not target.flavour.portable:
        return graph
    version = bytes(int(number) for number in target.tensorrt_version.split("."))
    capabilities = 0x7E if target.compute_capability == "8.0" else 1
    header = struct.pack("<4sIQQ4s4sQ24x", b"vtrt", 0, 2, 64 + len(graph), version, b"vtrt", capabilities)
    return header + graph


def graph_in(plan: bytes) -> bytes:
    """The other way round."""
    return plan[64:] if plan.startswith(b"vtrt") else plan


class StandInBuilder:
    """ONNX Runtime in the place of TensorRT. spoil: what is added to the outputs of a stage, by stage.

    It is its own runner, but where `without_gpu` has taken the GPU away.
    """

    versions = {"driver_cuda": "13.0"}  # noqa: RUF012

    def __init__(self, target: Target = L4, **spoil: float) -> None:
        self.target = target
        self.device = target.gpu_name
        self.runner: StandInBuilder | None = self
        self.spoil = spoil
        self.built: list[str] = []
        self.breaks_at: str | None = None

    def without_gpu(self) -> StandInBuilder:
        self.runner = None
        return self

    def build(
        self, job: PlanJob, into: Path, *, timing_cache: Path, on_progress: OnProgress | None
    ) -> PlanMemory | None:
        if job.record.stage == self.breaks_at:
            into.write_bytes(b"half a plan")
            raise KeyboardInterrupt
        into.write_bytes(as_plan(job.graph.read_bytes(), self.target))
        timing_cache.write_bytes(b"timings")
        self.built.append(job.record.stage)
        return PlanMemory(weight_bytes=1000, activation_bytes=(2000,) * len(job.record.profiles))

    def open(self, plan: Path, job: PlanJob) -> StandInPlan:
        return StandInPlan(plan, job, self.spoil.get(job.record.stage, 0.0))


class StandInPlan:
    """A copy of a graph, which runs at the profiles of its record only."""

    def __init__(self, plan: Path, job: PlanJob, spoil: float) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph_in(plan.read_bytes()), options)
        self._job = job
        self._spoil = np.float32(spoil)

    def __call__(self, value: np.ndarray) -> np.ndarray:
        find_profile(self._job, value.shape)
        takes, gives = STAGE_TENSORS[self._job.record.stage]
        return self._session.run([gives[-1]], {takes[0]: value})[0] + self._spoil

    def close(self) -> None:
        del self._session


def plan_files(directory: Path) -> set[str]:
    """Everything that lies in plans/, hidden or not, but for the builders' lock."""
    return {path.name for path in (directory / "plans").iterdir()} - {LOCK}


def edit(directory: Path, **changes: Any) -> None:
    write_manifest(directory, msgspec.structs.replace(read_manifest(directory), **changes))

"""Step: the bundled model through one library. Its plans are built, agree with the golden values, and give
the same bits from and to arrays on the host and on the GPU, with CUDA graphs and without.

In a rehearsal the GPU is the tests' stand-in, and a plan is a copy of its graph.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.gpu_proof.parity import check_engine, parity_table
from benchmarks.gpu_proof.process import Findings, Task, answer
from benchmarks.gpu_proof.rehearsal import gpu_of
from fiffdepth_rt import Depth
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.build import build_plans
from fiffdepth_rt.backends.tensorrt.flavour import Flavour, flavour_named
from fiffdepth_rt.backends.tensorrt.jobs import Request
from fiffdepth_rt.backends.tensorrt.versions import TURING
from fiffdepth_rt.engine_dir.golden import grid_of, is_photo
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.manifest import BUNDLED, read_manifest
from fiffdepth_rt.errors import ParityError
from fiffdepth_rt.files import read_photo
from fiffdepth_rt.gpu import cuda

PRECISION = "fp32"
PLACES = ("host", "device")
FRAMES = 3  # of each route: a CUDA graph is captured with the first, and replayed with the others
SAMPLE = Path(__file__).parents[2] / "examples" / "coffee.jpg"
SAMPLE_DEPTH = "sample.npz"  # in the shared folder: photo, depth, and what made it

Array = npt.NDArray[Any]


def prove(task: Task) -> Iterator[Findings]:
    flavour = flavour_named(task.flavour)
    with gpu_of(rehearse=task.rehearse, flavour=flavour) as builder:
        usability = here.usable(flavour)
        if not usability.usable:
            yield Findings().and_check("it runs here", None, f"{usability.why}. Run: {usability.fix}")
            return
        request = request_for(flavour, golden_grids(BUNDLED))
        if request.compute_capability == TURING:
            words = f"nano is fp32, and {flavour.title} takes fp16 alone for Turing: see full-size"
            yield Findings().and_check("it runs here", None, words)
            return
        directory = task.folder / "engines" / f"nano-{flavour.name}"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(BUNDLED, directory)
        golden = read_golden(directory / (read_manifest(directory).golden or ""))
        start = time.perf_counter()
        try:
            plans = build_plans(directory, request, builder=builder)
        except ParityError as error:
            yield Findings().and_check("plans agree with the golden values", False, str(error))
            return
        took = f"{len(plans)} plans in {time.perf_counter() - start:.1f} s"
        findings = Findings().and_check("plans are built", True, took)
        yield findings

        found = check_engine(directory, backend=flavour.name, device="cuda", precision=PRECISION)
        findings = msgspec.structs.replace(
            findings, checks=(*findings.checks, found.check), text=parity_table(found.rows)
        )
        yield findings

        image = next(values["encoder"].input[0] for name, values in golden.items() if is_photo(name))
        yield (findings := with_bits(findings, routes(directory, flavour, image)))

        with Depth(directory, backend=flavour.name, precision=PRECISION) as depth:
            photo = read_photo(SAMPLE)
            made_by = f"{depth.manifest.name}, {PRECISION}, {flavour.name} on {depth.backend.device}"
            np.savez(
                task.folder / SAMPLE_DEPTH, photo=photo, depth=np.asarray(depth.infer(photo)), by=made_by
            )
        yield findings


def request_for(flavour: Flavour, grids: tuple[tuple[int, int], ...], precision: str = PRECISION) -> Request:
    """Plans for this machine's GPU: of Turing, TensorRT for RTX has to be told. Raises as `require` does."""
    capability = here.require(flavour=flavour)[1].compute_capability
    return Request(
        flavour=flavour,
        grids=grids,
        precision=precision,
        compute_capability=TURING if flavour.portable and capability == TURING else None,
    )


def golden_grids(directory: Path) -> tuple[tuple[int, int], ...]:
    """The grids of an engine directory's golden images."""
    golden = read_golden(directory / (read_manifest(directory).golden or ""))
    return tuple(dict.fromkeys(grid_of(values) for values in golden.values()))


# --- bits ---

Route = tuple[str, str, bool]  # from, to, with a CUDA graph


def routes(directory: Path, flavour: Flavour, image_hw3: Array) -> Mapping[Route, tuple[list[Array], str]]:
    """An image of the size of a grid -> its depth maps by route, and what was said about the CUDA graph."""
    found = {}
    for cuda_graph in (True, False):
        with Depth(directory, backend=flavour.name, precision=PRECISION, cuda_graph=cuda_graph) as depth:
            for source, out in itertools.product(PLACES, repeat=2):
                maps = [_depth(depth, image_hw3, source, out) for _ in range(FRAMES)]
                found[source, out, cuda_graph] = maps, str(depth.describe()["cuda_graph"])
    return found


def with_bits(findings: Findings, found: Mapping[Route, tuple[list[Array], str]]) -> Findings:
    """Findings, and whether all depth maps are one, and whether a CUDA graph gave those that it should."""
    first = found["host", "host", False][0][0]
    differing = [
        f"{source} to {out}, CUDA graph {'on' if cuda_graph else 'off'}"
        for (source, out, cuda_graph), (maps, _) in found.items()
        if not all(np.array_equal(one, first) for one in maps)
    ]
    words = f"{len(found)} routes × {FRAMES} frames"
    findings = findings.and_check(
        "the same bits on every route",
        not differing,
        f"differ: {'; '.join(differing)}" if differing else words,
    )
    said = found["host", "host", True][1]
    return findings.and_check("frames are replayed from CUDA graphs", said.startswith("on"), said)


def _depth(depth: Depth, image_hw3: Array, source: str, out: str) -> Array:
    size = max(image_hw3.shape[:2])
    if source == "host" and out == "host":
        return np.asarray(depth.infer(image_hw3, size=size))
    if source == "host":
        return depth.infer_on_gpu(image_hw3, size=size).to_host()
    photo = OnGpu(image_hw3)
    try:
        if out == "host":
            return np.asarray(depth.infer_on_gpu(photo, out="host"))
        return depth.infer_on_gpu(photo).to_host()
    finally:
        photo.close()


class OnGpu:
    """An array on the GPU, where no other library is needed to put it there. Close it after use."""

    def __init__(self, values: Array) -> None:
        values = np.ascontiguousarray(values)
        self._address = cuda.allocate(values.nbytes, "a photo")
        stream = cuda.Stream()
        stream.copy_h2d(self._address, values)
        stream.synchronize()
        stream.close()
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self._address, False),
            "strides": None,
            "stream": None,
        }

    def close(self) -> None:
        cuda.free(self._address)


if __name__ == "__main__":
    answer(prove)

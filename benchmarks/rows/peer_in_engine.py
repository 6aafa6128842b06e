"""Depth Anything V2-L in the engines that run ours: its network as an ONNX graph, run by polygraphy.

What is around the network is peers.py's. polygraphy's TrtRunner copies from and to host memory and replays no
CUDA graph. Through TensorRT and TensorRT for RTX: written, API-checked, never run on a GPU.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import torch

from benchmarks.polygraphy_runners import polygraphy_for, runner
from benchmarks.rows import flops, in_torch, peers
from benchmarks.rows.row import Row, Spec, answer, noise_photo
from fiffdepth_rt.backends.tensorrt import here
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS

PIXELS, DEPTH = "pixels", "depth"
OPSET = 18


def measure(spec: Spec) -> Row:
    """options: dtype, width; engine: "onnxruntime", "tensorrt" or "tensorrt-rtx"."""
    options = spec.options
    require_engine(options["engine"])
    opening = time.perf_counter()
    torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    dtype = in_torch.DTYPES[options["dtype"]]
    engine = options["engine"]
    with polygraphy_for(engine), tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        network = peers.depth_anything(options["width"]).to(dtype)
        prepare, *_ = peers.depth_anything_around(network, dtype, "cpu").parts
        pixels = prepare.run(noise_photo(spec.size_hw))
        graph = write_graph(network, pixels, Path(folder))
        with runner(engine, graph, PIXELS, tuple(pixels.shape)) as active:

            def run(pixels_13hw: torch.Tensor) -> Any:
                found = active.infer({PIXELS: pixels_13hw.numpy()}, check_inputs=False)
                return types.SimpleNamespace(predicted_depth=torch.from_numpy(found[DEPTH]))

            row = in_torch.measure_pipeline(
                spec,
                peers.depth_anything_around(run, dtype, "cpu"),
                computes_in=options["dtype"],
                load_s=time.perf_counter() - opening,
                note="exported to ONNX, through polygraphy's runner, without a CUDA graph",
            )
        gflop = flops.graph_flops(graph, {PIXELS: tuple(pixels.shape)}) / 1e9
        return dataclasses.replace(row, gflop=gflop)


def require_engine(engine: str) -> None:
    """Raises BackendUnavailableError, before a large graph is made, where the engine is not usable here."""
    for flavour in FLAVOURS:
        if engine == flavour.name:
            here.require(flavour=flavour)


def write_graph(network: Any, pixels: torch.Tensor, folder: Path) -> Path:
    """A network of transformers and an input [1, 3, h, w] -> its ONNX graph, for inputs of this shape."""

    class Alone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network(pixels).predicted_depth

    path = folder / "network.onnx"
    torch.onnx.export(
        Alone(),
        (pixels,),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=[PIXELS],
        output_names=[DEPTH],
        external_data=True,
        verbose=False,
    )
    return path


if __name__ == "__main__":
    answer(measure)

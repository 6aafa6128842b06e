"""What runs an ONNX graph on an engine, for benchmarks: polygraphy's runners, which know both libraries.

Of TensorRT and TensorRT for RTX, plans are built through polygraphy for real where the library is; runs are
written, API-checked, never run on a GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fiffdepth_rt.backends.onnxruntime import backend as onnxruntime
from fiffdepth_rt.backends.tensorrt.flavour import TENSORRT, TENSORRT_RTX

ENGINES = (onnxruntime.NAME, TENSORRT_RTX.name, TENSORRT.name)


@contextlib.contextmanager
def polygraphy_for(engine: str) -> Iterator[None]:
    """polygraphy with the engine's library, silent but for errors, until the block ends.

    Which of the two libraries polygraphy uses is settled when it is first imported: one process can use one.
    """
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if engine == TENSORRT_RTX.name else "0"
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield


def runner(engine: str, graph: Path, takes: str, shape: Sequence[int], *, name: str | None = None) -> Any:
    """An ONNX graph, its input's name and shape -> a runner of polygraphy, active in its `with` block."""
    if engine == onnxruntime.NAME:
        from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

        return OnnxrtRunner(SessionFromOnnx(str(graph)), name=name)
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    return TrtRunner(EngineFromBytes(plan_loader(engine, graph, takes, shape, for_this_gpu=True)), name=name)


def plan_loader(engine: str, graph: Path, takes: str, shape: Sequence[int], *, for_this_gpu: bool) -> Any:
    """A loader of polygraphy that builds a plan for one shape.

    for_this_gpu: TensorRT for RTX builds for the GPU at hand, whichever it is; else for Ampere and newer.
    """
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile

    profiles = [Profile().add(takes, min=shape, opt=shape, max=shape)]
    config = (
        CreateConfigRTX(profiles=profiles, use_gpu=for_this_gpu)
        if engine == TENSORRT_RTX.name
        else CreateConfig(profiles=profiles)
    )
    return EngineBytesFromNetwork(NetworkFromOnnxPath(str(graph), strongly_typed=True), config=config)

"""What the reference is compared with: graph files on an engine, or a stage in torch at its own precision.

Each keeps the stage it ran last and lets go of the others: a full-size UNet is several GiB in either.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.errors import GraphExportError
from export.stages import Stage
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS

Array = npt.NDArray[Any]


class OnnxRuntimeStages:
    """The graphs of one set on ONNX Runtime's CPU kernels. (stage, input) -> output, before the clip."""

    name = "onnxruntime"

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        self._folder = folder
        self._threads = threads
        self._opened: tuple[str, Any] = ("", None)

    def __call__(self, stage: str, value: Array) -> Array:
        if self._opened[0] != stage:
            self._opened = ("", None)  # freed before the next one is loaded
            self._opened = (stage, self._open(stage))
        session = self._opened[1]
        takes, gives = STAGE_TENSORS[stage]
        # the decoder's last output is depth_unclipped
        return np.asarray(session.run([gives[-1]], {takes[0]: value})[0])

    def _open(self, stage: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            return onnxruntime.InferenceSession(
                str(self._folder / f"{stage}.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # ONNX Runtime's errors share no base class
            raise GraphExportError(f"ONNX Runtime refuses the graph of the {stage}: {e}") from e


class TorchStages:
    """The stages in torch, in their graphs' precision: shows the overflow that a CPU engine would hide."""

    name = "torch"

    def __init__(self, build: Callable[[str], Stage]) -> None:
        self._build = build
        self._built: tuple[str, Stage | None] = ("", None)

    def __call__(self, stage: str, value: Array) -> Array:
        if self._built[0] != stage:
            self._built = ("", None)
            self._built = (stage, self._build(stage))
        module = self._built[1]
        assert module is not None
        with torch.no_grad():
            output = module(torch.from_numpy(value))
        return np.asarray(output[-1] if isinstance(output, tuple) else output)

"""A stage -> an ONNX file: traced, scrubbed of everything that names this machine, checked.

Precision lives in the graph, so every precision is a set of graphs of its own. The same stage gives the same
bytes in every process: no stack traces, no doc strings, no metadata, no paths.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import enum
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import nn

from export.errors import GraphExportError
from export.half_storage import store_exact_halves
from export.stages import LATENT_CHANNELS, VAE_FACTOR
from fiffdepth_rt.engine_dir import JOURNEY, Dim, TensorSpec

GRID_MULTIPLE = 64
# Protobuf ends at 2 GiB, and several readers copy the whole file: weights beyond this lie beside the graph.
EXTERNAL_DATA_ABOVE_BYTES = 512 * 2**20


class Precision(enum.Enum):
    """What a graph computes in; its value is the name of the graph set."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.value]

    @property
    def opset(self) -> int:
        """18 is what every TensorRT from 9.1 reads; Conv takes bfloat16 from 22 on."""
        return 22 if self is Precision.BF16 else 18

    @property
    def backends(self) -> tuple[str, ...]:
        """The engines that can run such a set; ONNX Runtime's CPU kernels know no bfloat16 Conv."""
        if self is Precision.BF16:
            return ("openvino", "tensorrt")
        return ("onnxruntime", "openvino", "tensorrt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenGraph:
    """The files of one graph, relative to its folder, and what goes in and out."""

    file: str
    external_data: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def write_graph(
    folder: Path,
    stage_name: str,
    stage: nn.Module,
    *,
    precision: Precision,
    external_data_above: int = EXTERNAL_DATA_ABOVE_BYTES,
) -> WrittenGraph:
    """stage -> folder/<stage>.onnx (+ <stage>.onnx.data), replacing what is there.

    Raises GraphExportError when the tracer or onnx's checker refuses, OSError when the disk does.
    """
    inputs, outputs = tensor_specs(stage_name)
    model = _trace(stage_name, stage, precision)
    _scrub(model)
    for value, spec in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.shape = onnx_ir.Shape(spec.shape)
    store_exact_halves(model)
    file, data = f"{stage_name}.onnx", f"{stage_name}.onnx.data"
    weights: int = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    beside = weights > external_data_above
    folder.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, folder / file, external_data=data if beside else None)
    _check(folder / file)
    return WrittenGraph(file=file, external_data=(data,) if beside else (), inputs=inputs, outputs=outputs)


def tensor_specs(stage_name: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a stage: names from the journey, dtypes and shapes with their symbols."""
    image: tuple[Dim, ...] = ("batch", "height", "width", 3)
    latent: tuple[Dim, ...] = ("batch", LATENT_CHANNELS, f"height/{VAE_FACTOR}", f"width/{VAE_FACTOR}")
    shapes = {"image": image, "latent": latent, "depth_latent": latent}
    takes, gives = (
        tuple(
            TensorSpec(
                name=name, dtype="uint8" if name == "image" else "float32", shape=shapes.get(name, image[:3])
            )
            for name in names
        )
        for names in JOURNEY[stage_name]
    )
    return takes, gives


def _trace(stage_name: str, stage: nn.Module, precision: Precision) -> onnx_ir.Model:
    takes, gives = JOURNEY[stage_name]
    stage = copy.deepcopy(stage).eval().to(precision.dtype)
    example, dynamic = _example(stage_name)
    with _quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                stage,
                (example,),
                dynamo=True,
                opset_version=precision.opset,
                input_names=list(takes),
                output_names=list(gives),
                dynamic_shapes=(dynamic,),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as e:
            raise GraphExportError(f"The {stage_name} could not be traced: {e}") from e
    model: onnx_ir.Model = program.model
    written = model.opset_imports[""]
    if written != precision.opset:
        raise GraphExportError(
            f"The exporter wrote opset {written} for the {stage_name} where {precision.opset} was asked for: "
            "use the versions of torch and onnxscript that pyproject.toml names."
        )
    return model


def _example(stage_name: str) -> tuple[torch.Tensor, dict[int, Any]]:
    """An input to trace with, no side of it 1 (the tracer takes that for a constant), and its free dims."""
    batch, h, w = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    if stage_name == "encoder":
        image = torch.zeros(2, 2 * GRID_MULTIPLE, 3 * GRID_MULTIPLE, 3, dtype=torch.uint8)
        return image, {0: batch, 1: GRID_MULTIPLE * h, 2: GRID_MULTIPLE * w}
    step = GRID_MULTIPLE // VAE_FACTOR
    return torch.zeros(2, LATENT_CHANNELS, 2 * step, 3 * step), {0: batch, 2: step * h, 3: step * w}


def _scrub(model: onnx_ir.Model) -> None:
    """Leave the computation and nothing else: no stack traces, module names, doc strings, inferred shapes."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
            if value not in outputs:
                value.shape = value.type = None


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise GraphExportError(f"{path.name} was written, but onnx's checker refuses it: {e}") from e


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what the exporter says about itself: missing torchvision, its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)

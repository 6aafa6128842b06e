"""A stage -> an ONNX file: traced, scrubbed of everything that names this machine, checked.

Precision lives in the graph, so every form (precision, static size, target) is a set of graphs of its own.
The same stage gives the same bytes in every process: no stack traces, doc strings, metadata or paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir
import torch

from export.errors import GraphExportError
from export.fp16_storage import store_exact_fp16
from export.plain_norms import use_plain_norms
from export.precision import Precision, cast
from export.stages import VAE_FACTOR, Stage
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS, Dim, TensorSpec
from fiffdepth_rt.engine_dir.onnx_graph import read_graph
from fiffdepth_rt.engine_dir.operators import check_operators
from fiffdepth_rt.errors import GraphError

GRID_MULTIPLE = 64
# Protobuf ends at 2 GiB, and several readers copy the whole file: weights beyond this lie beside the graph.
EXTERNAL_DATA_ABOVE_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphForm:
    """One set of graphs.

    grid_hw: the only grid it takes; None for every grid in multiples of 64.
    camera_hw: the size of picture that goes in and of the depth map that comes out; None for the grid's own.
    trt85: the form that TensorRT 8.5 reads.
    keep_fp32: "<stage>.<module>" names, with wildcards, that compute in fp32.
    """

    precision: Precision = Precision.FP32
    grid_hw: tuple[int, int] | None = None
    camera_hw: tuple[int, int] | None = None
    trt85: bool = False
    keep_fp32: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the graph set: fp32, fp16-trt8.5, fp16-480x640, fp32-camera-1080x1920."""
        parts = [self.precision.value]
        if self.trt85:
            parts.append("trt8.5")
        if self.camera_hw is not None:
            parts.append("camera-{}x{}".format(*self.camera_hw))
        elif self.grid_hw is not None:
            parts.append("{}x{}".format(*self.grid_hw))
        return "-".join(parts)

    @property
    def opset(self) -> int:
        """18 is what every TensorRT from 9.1 reads, 16 what 8.5 does; Conv takes bfloat16 from 22 on."""
        if self.trt85:
            return 16
        return 22 if self.precision is Precision.BF16 else 18


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
    stage: Stage,
    form: GraphForm,
    *,
    external_data_above: int = EXTERNAL_DATA_ABOVE_BYTES,
) -> WrittenGraph:
    """stage in fp32 -> folder/<stage>.onnx (+ <stage>.onnx.data) in the form, replacing what is there.

    Raises GraphExportError when the tracer, onnx's checker or the runtime refuses, OSError from the disk.
    """
    inputs, outputs = tensor_specs(stage_name, form, latent_channels=stage.latent_channels)
    ready = _ready(stage_name, stage, form)
    example = _example(inputs[0])
    model = (_trace_for_trt85 if form.trt85 else _trace)(stage_name, ready, example, inputs[0], form)
    _scrub(model)
    for value, spec in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.shape = onnx_ir.Shape(spec.shape)
    if not form.trt85:  # its parser reads weights, not what computes them
        store_exact_fp16(model)
    file, data = f"{stage_name}.onnx", f"{stage_name}.onnx.data"
    weights: int = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    beside = weights > external_data_above
    folder.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, folder / file, external_data=data if beside else None)
    _check(folder / file)
    return WrittenGraph(file=file, external_data=(data,) if beside else (), inputs=inputs, outputs=outputs)


def tensor_specs(
    stage_name: str, form: GraphForm, *, latent_channels: int
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a stage: names from the journey, dtypes and shapes with their symbols."""
    h: Dim = "height"
    w: Dim = "width"
    latent_hw: tuple[Dim, Dim] = (f"height/{VAE_FACTOR}", f"width/{VAE_FACTOR}")
    if form.grid_hw is not None:
        h, w = form.camera_hw or form.grid_hw
        latent_hw = (form.grid_hw[0] // VAE_FACTOR, form.grid_hw[1] // VAE_FACTOR)
    latent: tuple[Dim, ...] = ("batch", latent_channels, *latent_hw)
    shapes = {"image": ("batch", h, w, 3), "latent": latent, "depth_latent": latent}
    takes, gives = (
        tuple(
            TensorSpec(
                name=name,
                dtype="uint8" if name == "image" else "float32",
                shape=shapes.get(name, ("batch", h, w)),
            )
            for name in names
        )
        for names in STAGE_TENSORS[stage_name]
    )
    return takes, gives


def _ready(stage_name: str, stage: Stage, form: GraphForm) -> Stage:
    """A copy in the form's precision, with its sizes and norms."""
    mine = [name.partition(".")[2] for name in form.keep_fp32 if name.partition(".")[0] == stage_name]
    ready = cast(stage, form.precision, keep_fp32=mine)
    if form.grid_hw is not None:
        ready.fix_size(form.grid_hw)
    if form.trt85:
        use_plain_norms(ready)
    return ready


def _example(spec: TensorSpec) -> torch.Tensor:
    """An input to trace with; no free side of it is 1, which the tracer would take for a constant."""
    sides = {"batch": 2, "height": 2 * GRID_MULTIPLE, "width": 3 * GRID_MULTIPLE}
    sides |= {f"{side}/{VAE_FACTOR}": sides[side] // VAE_FACTOR for side in ("height", "width")}
    shape = [sides[dim] if isinstance(dim, str) else dim for dim in spec.shape]
    return torch.zeros(shape, dtype=torch.uint8 if spec.dtype == "uint8" else torch.float32)


def _trace(
    stage_name: str, stage: Stage, example: torch.Tensor, spec: TensorSpec, form: GraphForm
) -> onnx_ir.Model:
    takes, gives = STAGE_TENSORS[stage_name]
    free = {"batch": torch.export.Dim("batch")}
    for side in ("height", "width"):
        count = torch.export.Dim(side[0])
        free |= {side: GRID_MULTIPLE * count, f"{side}/{VAE_FACTOR}": GRID_MULTIPLE // VAE_FACTOR * count}
    dynamic = {i: free[dim] for i, dim in enumerate(spec.shape) if isinstance(dim, str)}
    with _quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                stage,
                (example,),
                dynamo=True,
                opset_version=form.opset,
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
    if written != form.opset:
        raise GraphExportError(
            f"The exporter wrote opset {written} for the {stage_name} where {form.opset} was asked for: "
            "use the versions of torch and onnxscript that pyproject.toml names."
        )
    return model


def _trace_for_trt85(
    stage_name: str, stage: Stage, example: torch.Tensor, spec: TensorSpec, form: GraphForm
) -> onnx_ir.Model:
    """By the TorchScript exporter: TensorRT 8.5 reads opset 16 and does not read what dynamo makes of it."""
    takes, gives = STAGE_TENSORS[stage_name]
    batch_and_sides = {i: dim for i, dim in enumerate(spec.shape) if isinstance(dim, str)}
    file = io.BytesIO()
    with _quiet_exporter(), torch.no_grad():
        try:
            torch.onnx.export(
                stage,
                (example,),
                file,
                dynamo=False,
                opset_version=form.opset,
                input_names=list(takes),
                output_names=list(gives),
                dynamic_axes={takes[0]: batch_and_sides},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as e:
            raise GraphExportError(f"The {stage_name} could not be traced for TensorRT 8.5: {e}") from e
    model: onnx_ir.Model = onnx_ir.from_proto(onnx.load_from_string(file.getvalue()))
    return model


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
    files = (path, *(file for file in path.parent.glob(f"{path.name}.data")))
    try:
        check_operators(path, read_graph(path), listed_bytes=sum(file.stat().st_size for file in files))
    except GraphError as e:
        raise GraphExportError(
            f"The runtime would refuse what was written: {e} Use the versions of torch and onnxscript that "
            "pyproject.toml names."
        ) from e


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what the exporters say about themselves: missing torchvision, deprecations, constants."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

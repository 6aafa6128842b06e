"""Arithmetic of a graph or of torch modules: 2 FLOPs per multiply-add of convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import STAGE_TENSORS, TensorSpec


def engine_dir_gflop(engine_dir: EngineDir, graph_set: str, grid_hw: tuple[int, int]) -> float:
    """GFLOP of one image on a grid, over the three graphs of a set."""
    total = 0
    for stage, files in engine_dir.manifest.graph_sets[graph_set].stages.items():
        shapes = {
            spec.name: _shape(spec, grid_hw) for spec in files.inputs if spec.name in STAGE_TENSORS[stage][0]
        }
        total += graph_flops(engine_dir.graph(graph_set, stage).path, shapes)
    return total / 1e9


def _shape(spec: TensorSpec, grid_hw: tuple[int, int]) -> tuple[int, ...]:
    height, width = grid_hw
    sides = {"batch": 1, "height": height, "width": width, "height/8": height // 8, "width/8": width // 8}
    return tuple(sides[dim] if isinstance(dim, str) else dim for dim in spec.shape)


def graph_flops(path: Path, input_shapes: Mapping[str, tuple[int, ...]]) -> int:
    """ONNX file -> FLOPs of Conv, ConvTranspose, MatMul and Gemm for inputs of these shapes.

    Raises ValueError where the shape of one of them cannot be inferred.
    """
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    model = onnx.load(path, load_external_data=False)
    for value in model.graph.input:
        for dim, side in zip(value.type.tensor_type.shape.dim, input_shapes[value.name], strict=True):
            dim.dim_value = side
    shapes_of_weights = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    _without_files(model.graph)
    # onnx's own inference loses the sizes that the graph computes for its Reshapes
    graph = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= shapes_of_weights
    return sum(_node_flops(node, shapes, path.name) for node in graph.node)


def _without_files(graph: Any) -> None:
    """Weights in files beside the graph become inputs: only their shapes are wanted."""
    import onnx

    for weight in [w for w in graph.initializer if w.data_location == onnx.TensorProto.EXTERNAL]:
        graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
        graph.initializer.remove(weight)


def _node_flops(node: Any, shapes: Mapping[str, list[int]], where: str) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    first, second, result = (shapes.get(name, []) for name in (*node.input[:2], node.output[0]))
    if not (first and second and result) or 0 in (*first, *second, *result):
        raise ValueError(f"The shape of {node.output[0]} ({node.op_type} in {where}) cannot be inferred.")
    if node.op_type == "Conv":  # weight: out, in / groups, kernel
        return 2 * math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weight: in, out / groups, kernel
        return 2 * math.prod(first) * math.prod(second[1:])
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(result) * first[-2 if transposed else -1]


def torch_gflop(call: Callable[[], Any]) -> tuple[Any, float]:
    """What `call` returns, and the GFLOP that it runs eagerly in torch, attention on the CPU included."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        batch, heads, rows, width = query
        return 2 * batch * heads * rows * key[-2] * (width + value[-1])

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={on_cpu: attention}) as counter:
        result = call()
    return result, counter.get_total_flops() / 1e9

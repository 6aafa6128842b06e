"""What a graph may compute with: the operators that our exports use, and sizes that its files vouch for.

A hash says that a graph is the one that was exported, not by whom. A legal graph can loop without end, double
a tensor sixty times in a function, or ask for a constant of terabytes; an engine does what it says. So what
no export of ours writes is refused by name before an engine sees the graph. What is left (nodes that are
known, put together so that they take all memory) is the engine's to survive: docs/deploy.md.

KNOWN is held against exports of every form by tests/export/test_operators.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from fiffdepth_rt.engine_dir.onnx_graph import GraphContents, Node
from fiffdepth_rt.errors import GraphError, shortened

# fmt: off
KNOWN: Mapping[str, tuple[int, int]] = {
    "Constant": (0, 0),
    **dict.fromkeys(("Cast", "ConstantOfShape", "Erf", "Gelu", "Identity", "Relu", "Shape"), (1, 1)),
    **dict.fromkeys(("Sigmoid", "Softmax", "Sqrt", "Tanh", "Transpose"), (1, 1)),
    **dict.fromkeys(("ReduceMean", "Split", "Squeeze"), (1, 2)),
    "Clip": (1, 3),
    "Resize": (1, 4),
    "Concat": (1, 1000),
    **dict.fromkeys(("Add", "Div", "Equal", "Expand", "Gather", "MatMul", "Mul"), (2, 2)),
    **dict.fromkeys(("Reshape", "Sub", "Unsqueeze"), (2, 2)),
    **dict.fromkeys(("Conv", "Gemm", "LayerNormalization"), (2, 3)),
    "Pad": (2, 4),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "Where"), (3, 3)),
    "Slice": (3, 5),
}
# fmt: on
"""The operators, and how many inputs each takes at least and at most, in OPSETS."""
OPSETS = range(16, 24)
_DOMAINS = ("", "ai.onnx")  # two names of ONNX's own
_DTYPES: Mapping[int, str] = {  # as TensorProto.DataType numbers them
    **{1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"},
}
_NODES_AT_MOST = 50_000  # Stable Diffusion's UNet has about 3,000
_SHAPED_AT_MOST = 1024  # elements that ConstantOfShape makes; exports make the paddings of 4 dimensions
_SIZED_AT_MOST = 2**30  # elements: 1024 channels of 1024×1024
_SCALED_AT_MOST = 16  # by Resize, per side; a VAE's levels double


def check_operators(graph: Path, contents: GraphContents, *, listed_bytes: int) -> None:
    """Raises GraphError, naming it, for anything that no export of ours writes.

    listed_bytes: of the graph and of the files with its weights. A constant has no more elements than these.
    """
    if found := _foreign(contents, listed_bytes):
        raise GraphError(
            f"{graph} holds {found}, which no export of this version writes, so no engine is given it. "
            "Export the directory again; if it is somebody else's, ask who made it."
        )


def _foreign(contents: GraphContents, listed_bytes: int) -> str | None:
    if contents.parts:
        return ", ".join(sorted(contents.parts))
    if len(contents.nodes) > _NODES_AT_MOST:
        return f"{len(contents.nodes)} nodes"
    if not contents.nodes:
        return "no operator"
    if not contents.opsets:
        return "operators of no set"
    for domain, version in contents.opsets:
        if domain not in _DOMAINS or version not in OPSETS:
            return f"operators of the set {shortened(domain or 'ai.onnx', 80)!r}, version {version}"
    made = set(contents.given)
    for node in contents.nodes:
        name = node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"
        if node.domain not in _DOMAINS or node.op_type not in KNOWN:
            return f"the operator {shortened(name, 80)!r}"
        least, most = KNOWN[node.op_type]
        if not least <= len(node.inputs) <= most or "" in node.inputs[:least]:
            return f"the operator {name} with other inputs than it has"
        if not made.issuperset(filter(None, node.inputs)) or not made.isdisjoint(node.outputs):
            return f"the operator {name}, which takes what is not made yet, or makes what is there"
        made.update(filter(None, node.outputs))
        check = _GROWS.get(node.op_type)
        if check is not None and not check(node, contents):
            return f"the operator {name} with a result of such a size"
    if odd := sorted(contents.dtypes - _DTYPES.keys()):
        return f"a constant of ONNX's data type {odd[0]}"
    if contents.largest > listed_bytes:
        return f"a constant of {contents.largest:.3g} elements in {listed_bytes} bytes"
    return None


def _small_shape(node: Node, contents: GraphContents) -> bool:
    """Constant and small, or computed in the graph: the form for TensorRT 8.5 does so without folds."""
    shape = contents.small.get(node.inputs[0])
    if shape is None:
        return node.inputs[0] not in contents.given
    return 0 <= math.prod(shape) <= _SHAPED_AT_MOST and min(shape, default=0) >= 0


def _small_scales(node: Node, contents: GraphContents) -> bool:
    """By constant scales, whole ones of the sides alone; or to sizes, constant and small, or computed here.

    A batch that grows by a millionth has OpenVINO write beyond its buffers.
    """
    scales, sizes = (node.inputs[i] if len(node.inputs) > i else "" for i in (2, 3))
    if scales:
        values = tuple(contents.small.get(scales, ()))
        whole = all(1 <= side <= _SCALED_AT_MOST and side == int(side) for side in values[2:])
        return len(values) == 4 and values[:2] == (1, 1) and whole
    return bool(sizes) and math.prod(contents.small.get(sizes, ())) <= _SIZED_AT_MOST


def _small_result(node: Node, contents: GraphContents) -> bool:
    """To a shape that is constant and small, or computed in the graph."""
    return math.prod(contents.small.get(node.inputs[1], ())) <= _SIZED_AT_MOST


_GROWS: Mapping[str, Callable[[Node, GraphContents], bool]] = {
    "ConstantOfShape": _small_shape,
    "Expand": _small_result,
    "Resize": _small_scales,
}

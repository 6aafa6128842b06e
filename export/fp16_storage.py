"""fp32 weights that fp16 holds exactly are stored as fp16, in half the bytes, and cast back in the graph.

Checkpoints published in fp16 (and the bundled model) have such weights. Engines fold the casts when
they load a graph, so nothing is computed differently: every value is the same to the last bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

WORTHWHILE_BYTES = 1024
"""Below this a cast node costs more than it saves."""


def store_exact_fp16(model: onnx_ir.Model) -> int:
    """Replace, in place, each fp32 initializer that fp16 holds exactly. Returns the bytes saved."""
    graph, saved = model.graph, 0
    first = graph[0]
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or tensor.nbytes < WORTHWHILE_BYTES:
            continue
        exact = tensor.numpy()
        with np.errstate(over="ignore"):  # beyond half's range: infinite, hence not equal below
            half = exact.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), exact):
            continue
        assert value.name is not None
        stored = onnx_ir.Value(
            name=f"{value.name}.half",
            type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=onnx_ir.tensor(half),
        )
        cast = onnx_ir.Node(
            "", "Cast", [stored], [onnx_ir.AttrInt64("to", onnx_ir.DataType.FLOAT)], name=f"{value.name}.cast"
        )
        uses = list(value.uses())
        for node, index in uses:
            node.replace_input_with(index, cast.outputs[0])
        del graph.initializers[value.name]
        cast.outputs[0].name = value.name
        graph.initializers[stored.name] = stored  # type: ignore[index]
        graph.insert_before(first, cast)
        saved += tensor.nbytes - half.nbytes
    return saved

"""Promises of storing weights as fp16: fewer bytes, and not a bit of difference in what is computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.fp16_storage import store_exact_fp16
from fiffdepth_rt.engine_dir.manifest import BUNDLED


def _model(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 64]) for n in "xy")
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def _halved(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    ir = onnx_ir.from_proto(model)
    saved = store_exact_fp16(ir)
    return onnx_ir.to_proto(ir), saved


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_weights_that_half_holds_exactly_take_half_the_bytes_and_compute_the_same(
    rng: np.random.Generator,
) -> None:
    weight = rng.normal(size=(64, 64)).astype(np.float16).astype(np.float32)
    model = _model(weight, rng.normal(size=64).astype(np.float32))
    halved, saved = _halved(model)
    onnx.checker.check_model(halved, full_check=True)
    assert saved == weight.nbytes // 2
    assert len(halved.SerializeToString()) < len(model.SerializeToString()) - saved + 300
    x = rng.normal(size=(5, 64)).astype(np.float32)
    assert np.array_equal(_run(model, x), _run(halved, x))


@pytest.mark.parametrize("spoil", [1e-9, 1e6, np.inf, np.nan])
def test_a_single_value_that_half_cannot_hold_keeps_the_tensor_as_it_is(
    rng: np.random.Generator, spoil: float
) -> None:
    weight = rng.normal(size=(64, 64)).astype(np.float16).astype(np.float32)
    weight[3, 5] = spoil
    model = _model(weight, np.zeros(64, np.float32))
    halved, saved = _halved(model)
    if np.isinf(spoil):  # half has infinity too
        assert saved > 0
    else:
        assert saved == 0
        assert all(w.data_type == TensorProto.FLOAT for w in halved.graph.initializer)


def test_the_bundled_model_s_weights_are_stored_in_half() -> None:
    model = onnx.load(BUNDLED / "graphs" / "fp32" / "unet.onnx")
    by_type: dict[int, int] = {}
    for w in model.graph.initializer:
        by_type[w.data_type] = by_type.get(w.data_type, 0) + int(np.prod(w.dims))
    assert by_type[TensorProto.FLOAT16] > 0.95 * sum(by_type.values())

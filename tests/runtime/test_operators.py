"""What a graph may compute with: what exports write. All else is refused by name before an engine sees it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, TensorProto, helper, numpy_helper

import fiffdepth_rt
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.manifest import BUNDLED
from fiffdepth_rt.engine_dir.onnx_graph import read_graph
from fiffdepth_rt.engine_dir.operators import KNOWN, OPSETS
from fiffdepth_rt.errors import GraphError
from tests.runtime.test_engine_dir import vouch
from tests.runtime.test_onnx_graph import varint

UNET = "graphs/fp32/unet.onnx"
Change = Callable[[onnx.ModelProto], None]


def with_unet(directory: Path, change: Change) -> Path:
    """The toy with another UNet graph; its hashes are right."""
    model = onnx.load(directory / UNET)
    change(model)
    (directory / UNET).write_bytes(model.SerializeToString())
    vouch(directory)
    return directory


def nodes(*added: onnx.NodeProto, **constants: np.ndarray) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.extend(added)
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())

    return change


def body(*inside: onnx.NodeProto) -> GraphProto:
    return helper.make_graph(list(inside), "body", [], [])


def in_a_branch(model: onnx.ModelProto) -> None:
    """A node of a known name that carries a graph: engines ignore it, or do not."""
    node = helper.make_node("Add", ["latent", "latent"], ["twice"])
    node.attribute.append(AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=body()))
    model.graph.node.append(node)


def doubling_functions(model: onnx.ModelProto) -> None:
    for i in range(60):
        call = [helper.make_node(f"f{i - 1}" if i else "Add", ["x"], ["y"], domain="ours") for _ in range(2)]
        opset = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("ours", f"f{i}", ["x"], ["y"], call, opset))


def of_opset(version: int, domain: str = "") -> Change:
    """Of what the graph says it is written in; of 2⁶² OpenVINO makes a table without end."""

    def change(model: onnx.ModelProto) -> None:
        model.opset_import.add(domain=domain, version=version)

    return change


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(body())


def sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    model.graph.sparse_initializer.add(values=values, dims=[2**40])


def strings(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="s", data_type=TensorProto.STRING, dims=[10**8]))


def huge_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="h", data_type=TensorProto.FLOAT, dims=[2**20, 2**20]))


def negative_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="h", data_type=TensorProto.FLOAT, dims=[-1, -1]))


SHAPE = {"shape": np.array([2**17, 2**17])}
REFUSED: dict[str, tuple[Change, str]] = {
    "loop": (nodes(helper.make_node("Loop", ["m", "c"], ["y"], body=body())), "a graph within a node"),
    "if": (
        nodes(helper.make_node("If", ["c"], ["y"], then_branch=body(), else_branch=body())),
        "a graph within",
    ),
    "loop without a body": (nodes(helper.make_node("Loop", ["m", "c"], ["y"])), "the operator 'Loop'"),
    "known node with a graph": (in_a_branch, "a graph within a node"),
    "functions": (doubling_functions, "functions"),
    "training": (training, "training information"),
    "sparse": (sparse, "sparse tensors"),
    "random": (
        nodes(helper.make_node("RandomNormal", [], ["y"], shape=[2**31])),
        "the operator 'RandomNormal'",
    ),
    "one hot": (nodes(helper.make_node("OneHot", ["a", "b", "c"], ["y"])), "the operator 'OneHot'"),
    "expand": (nodes(helper.make_node("Expand", ["latent", "shape"], ["y"]), **SHAPE), "Expand with"),
    "tile": (nodes(helper.make_node("Tile", ["latent", "shape"], ["y"]), **SHAPE), "'Tile'"),
    "sequence": (nodes(helper.make_node("SequenceEmpty", [], ["y"])), "'SequenceEmpty'"),
    "string": (nodes(helper.make_node("StringConcat", ["a", "b"], ["y"])), "'StringConcat'"),
    "custom": (
        nodes(helper.make_node("FusedConv", ["latent"], ["y"], domain="com.microsoft")),
        r"the operator 'com\.microsoft\.FusedConv'",
    ),
    "known name elsewhere": (nodes(helper.make_node("Add", ["a", "b"], ["y"], domain="x")), r"'x\.Add'"),
    "long name": (nodes(helper.make_node("A" * 4000, [], ["y"])), "the operator 'A+ … A+'"),
    "strings": (strings, "a constant of ONNX's data type 8"),
    "huge": (huge_constant, r"a constant of 1\.1e\+12 elements in \d+ bytes"),
    "negative": (negative_constant, r"a constant of \S+ elements in"),
    "shape": (
        nodes(helper.make_node("ConstantOfShape", ["shape"], ["y"]), **SHAPE),
        "ConstantOfShape with a result of such a size",
    ),
    "negative shape": (
        nodes(helper.make_node("ConstantOfShape", ["shape"], ["y"]), shape=np.array([-5, -7])),
        "ConstantOfShape with",
    ),
    "shape of an input": (
        nodes(helper.make_node("ConstantOfShape", ["latent"], ["y"])),
        "ConstantOfShape with",
    ),
    "shape of nothing": (
        nodes(helper.make_node("ConstantOfShape", [], ["y"])),
        "ConstantOfShape with other inputs",
    ),
    "scales": (
        nodes(
            helper.make_node("Resize", ["latent", "", "scales"], ["y"]),
            scales=np.array([1, 1, 1e6, 1e6], np.float32),
        ),
        "Resize with a result",
    ),
    "a batch that grows": (  # by a millionth: OpenVINO writes beyond its buffers
        nodes(
            helper.make_node("Resize", ["latent", "", "s"], ["y"]),
            s=np.array([1.000001, 1, 2, 2], np.float32),
        ),
        "Resize with a result",
    ),
    "channels that grow": (
        nodes(helper.make_node("Resize", ["latent", "", "s"], ["y"]), s=np.array([1, 2, 2, 2], np.float32)),
        "Resize with a result",
    ),
    "sides that grow by a fraction": (
        nodes(helper.make_node("Resize", ["latent", "", "s"], ["y"]), s=np.array([1, 1, 2, 1.5], np.float32)),
        "Resize with a result",
    ),
    "scales of three dimensions": (
        nodes(helper.make_node("Resize", ["latent", "", "s"], ["y"]), s=np.array([1, 1, 2], np.float32)),
        "Resize with a result",
    ),
    "no scales": (
        nodes(helper.make_node("Resize", ["latent", "", "s"], ["y"]), s=np.zeros(0, np.float32)),
        "Resize with a result",
    ),
    "nan scales": (
        nodes(helper.make_node("Resize", ["latent", "", "s"], ["y"]), s=np.full(4, math.nan, np.float32)),
        "Resize with a result",
    ),
    "sizes": (
        nodes(helper.make_node("Resize", ["latent", "", "", "s"], ["y"]), s=np.array([1, 4, 2**20, 2**20])),
        "Resize with a result",
    ),
    "an opset to come": (of_opset(2**62), "set 'ai.onnx', version 4611686018427387904"),
    "no opset": (of_opset(0), "set 'ai.onnx', version 0"),
    "no opset at all": (lambda model: model.ClearField("opset_import"), "operators of no set"),
    "another set of operators": (of_opset(1, "com.microsoft"), "set 'com.microsoft', version 1"),
    "too few inputs": (  # OpenVINO dies of it
        nodes(helper.make_node("Conv", ["latent"], ["y"])),
        "the operator Conv with other inputs than it has",
    ),
    "a required input left out": (nodes(helper.make_node("Conv", ["latent", ""], ["y"])), "Conv with other"),
    "too many inputs": (nodes(helper.make_node("Erf", ["latent"] * 9, ["y"])), "the operator Erf with other"),
    "a circle": (
        nodes(helper.make_node("Erf", ["b"], ["a"]), helper.make_node("Erf", ["a"], ["b"])),
        "the operator Erf, which takes what is not made yet",
    ),
    "made twice": (nodes(helper.make_node("Erf", ["latent"], ["depth_latent"])), "or makes what is there"),
    "nothing": (lambda model: model.graph.ClearField("node"), "no operator"),
    "another format in the same file": (  # TensorFlow's GraphDef keeps its nodes in field 1
        lambda model: model.MergeFromString(b"\x0a\x05hello"),
        "fields that ONNX does not have",
    ),
    "many": (
        nodes(*[helper.make_node("Identity", ["latent"], [f"y{i}"]) for i in range(50_001)]),
        r"\d+ nodes",
    ),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_no_export_writes_is_refused_by_name(
    toy_dir: Path, change: Change, said: str, verify: bool
) -> None:
    directory = with_unet(toy_dir, change)
    with pytest.raises(GraphError, match=rf"unet\.onnx holds .*{said}.*Export the directory again") as error:
        open_engine_dir(directory, verify=verify).graph("fp32", "unet")
    assert len(str(error.value)) < 600


def test_opening_with_verify_refuses_it_before_a_graph_is_asked_for(toy_dir: Path) -> None:
    """As a build of plans opens a directory, whose graphs the builder's own parser reads."""
    change, said = REFUSED["custom"]
    with pytest.raises(GraphError, match=said):
        open_engine_dir(with_unet(toy_dir, change))


def test_constants_within_nodes_bound_a_shape_as_others_do(toy_dir: Path) -> None:
    def added(*dims: int) -> Change:
        value = numpy_helper.from_array(np.array(dims), "")
        return nodes(
            helper.make_node("Constant", [], ["shape"], value=value),
            helper.make_node("ConstantOfShape", ["shape"], ["y"]),
        )

    open_engine_dir(with_unet(toy_dir, added(4))).graph("fp32", "unet")
    with pytest.raises(GraphError, match="ConstantOfShape with"):
        open_engine_dir(with_unet(toy_dir, added(2**40))).graph("fp32", "unet")


def test_a_shape_whose_last_value_is_another_is_the_last_as_engines_read_it(toy_dir: Path) -> None:
    """Of a field that comes twice, protobuf keeps the last; so does the check."""
    small, large = (numpy_helper.from_array(np.array(dims), "shape") for dims in ([4], [2**40]))
    tensor = small.SerializeToString() + TensorProto(raw_data=large.raw_data).SerializeToString()
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"]).SerializeToString()
    graph = b"\x2a" + varint(len(tensor)) + tensor + b"\x0a" + varint(len(node)) + node
    content = (toy_dir / UNET).read_bytes() + b"\x3a" + varint(len(graph)) + graph  # graphs are merged
    assert numpy_helper.to_array(onnx.load_from_string(content).graph.initializer[-1]).tolist() == [2**40]
    (toy_dir / UNET).write_bytes(content)
    vouch(toy_dir)
    with pytest.raises(GraphError, match="ConstantOfShape with"):
        open_engine_dir(toy_dir).graph("fp32", "unet")


def test_the_domain_ai_onnx_is_onnx_itself(toy_dir: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.domain = "ai.onnx"

    with fiffdepth_rt.Depth(with_unet(toy_dir, change)) as depth:
        assert depth.infer(np.full((64, 64, 3), 128, np.uint8)).photo_hw == (64, 64)


def test_every_node_of_the_bundled_model_is_found() -> None:
    """As many as the onnx package counts, by name."""
    for file in sorted(BUNDLED.rglob("*.onnx")):
        contents = read_graph(file)
        expected = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
        assert [node.op_type for node in contents.nodes] == expected
        assert not contents.parts
        assert set(expected) <= KNOWN.keys()


def test_the_number_of_inputs_is_what_onnx_says_of_each_operator() -> None:
    for name, (least, most) in KNOWN.items():
        schemas = [
            onnx.defs.get_schema(name, opset, "") for opset in OPSETS if onnx.defs.has(name, opset, "")
        ]
        assert least == min(schema.min_input for schema in schemas), name
        assert most == min(1000, max(schema.max_input for schema in schemas)), name

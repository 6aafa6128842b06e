"""Graphs that lie, their hashes right: opened and run by an engine, if the checks let them through.

ONNX Runtime gets three quarters of them, and OpenVINO one, where it is installed.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import fiffdepth_rt
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, STAGES, read_manifest
from fiffdepth_rt.engine_dir.operators import KNOWN
from tests.fuzz.mutations import NUMBERS, TEXTS, mutated_bytes
from tests.fuzz.trial import Kind
from tests.support.toy import write_toy_engine_dir

PHOTO = np.full((64, 96, 3), 90, np.uint8)
FOREIGN = (
    *(
        "Loop",
        "If",
        "Scan",
        "SequenceMap",
        "RandomNormal",
        "RandomUniform",
        "Multinomial",
        "OneHot",
        "Expand",
    ),
    *("Tile", "Range", "StringConcat", "SequenceEmpty", "Optional", "NonZero", "Unique", "Einsum", "TopK"),
)
LOCATIONS = (
    *(
        "../../../../outside/secret.bin",
        "../unet.onnx",
        "unet.onnx",
        "secret.bin",
        ".w",
        "",
        ".",
        "/dev/zero",
    ),
    *("*/_ORT_MEM_ADDR_/*", "C:\\x", "a\0b", "x" * 5000),
)
ENGINES = ["onnxruntime"] * 3 + ["openvino"] * (importlib.util.find_spec("openvino") is not None)


class Fuzzed(Kind):
    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        self._directory = write_toy_engine_dir(folder / "toy")
        self._manifest = read_manifest(self._directory)
        graphs = self._directory / "graphs" / "fp32"
        self._models = {stage: onnx.load(graphs / f"{stage}.onnx") for stage in STAGES}
        self._outside = folder.parent.parent / "outside" / "secret.bin"

    def attempt(self, chance: random.Random) -> None:
        graphs = self._directory / "graphs"
        shutil.rmtree(graphs)
        (graphs / "fp32").mkdir(parents=True)
        for stage, model in self._models.items():
            (graphs / "fp32" / f"{stage}.onnx").write_bytes(model.SerializeToString())
        stage = chance.choice(STAGES)
        file = graphs / "fp32" / f"{stage}.onnx"
        if chance.random() < 0.4:
            file.write_bytes(mutated_bytes(file.read_bytes(), chance))
        else:
            model = onnx.ModelProto.FromString(file.read_bytes())
            for _ in range(chance.choice((1, 1, 2, 3))):
                _mutate(model, chance, self._outside)
            file.write_bytes(model.SerializeToString())
        files = {name: hash_file(self._directory / name) for name in self._manifest.files}
        manifest = msgspec.structs.replace(self._manifest, files=files)
        (self._directory / MANIFEST_NAME).write_text(manifest.to_json())
        with fiffdepth_rt.Depth(self._directory, backend=chance.choice(ENGINES), threads=1) as depth:
            depth.infer(PHOTO)


def _mutate(model: onnx.ModelProto, chance: random.Random, outside: Path) -> None:
    graph = model.graph
    chance.choice((_rewire, _operator, _attribute, _constant, _external, _added, _structure, _door, _grow))(
        model, graph, chance, outside
    )


def _rewire(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    node = chance.choice(graph.node)
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    names += [tensor.name for tensor in graph.initializer] + ["", "nowhere"]
    if chance.random() < 0.7 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(names)
    else:
        node.output[0] = chance.choice(names)


def _operator(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    chance.choice(graph.node).op_type = chance.choice([*sorted(KNOWN) * 3, *FOREIGN, "", "x" * 5000])


def _attribute(
    _model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path
) -> None:
    node = chance.choice(graph.node)
    whole = [number for number in NUMBERS if isinstance(number, int) and -(2**63) <= number < 2**63]
    if node.attribute and chance.random() < 0.7:
        attribute = chance.choice(node.attribute)
        if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(whole)
        else:
            attribute.i = chance.choice(whole)
    else:
        name = chance.choice(
            ("axis", "perm", "strides", "pads", "group", "to", "kernel_shape", "mode", "dilations")
        )
        value = chance.choice((chance.choice(whole), [chance.choice(whole)] * 4, "linear", 0.5))
        node.attribute.append(helper.make_attribute(name, value))


def _constant(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    if not graph.initializer:
        return
    tensor, how = chance.choice(graph.initializer), chance.randrange(5)
    if how == 0:
        del tensor.dims[:]
        tensor.dims.extend(chance.choice(((2**40,), (-1,), (0,), (2**20, 2**20), (1,) * 30, (3, 3))))
    elif how == 1:
        tensor.raw_data = mutated_bytes(tensor.raw_data, chance)
    elif how == 2:
        tensor.data_type = chance.choice((0, 1, 2, 7, 8, 9, 10, 11, 14, 16, 17, 21, 99, -1))
    elif how == 3:
        dtype = np.int64 if tensor.data_type == TensorProto.INT64 else np.float32
        size = len(tensor.raw_data) // np.dtype(dtype).itemsize
        values = [chance.choice((0, 1, -1, 2**20, 2**31, 2**62)) for _ in range(size)]
        tensor.raw_data = np.array(values, dtype).tobytes()
    else:
        tensor.name = chance.choice([*TEXTS[:3], graph.initializer[0].name, "depth"]).replace("\ud800", "")


def _external(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, outside: Path) -> None:
    if not graph.initializer:
        return
    tensor = chance.choice(graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=chance.choice([*LOCATIONS, str(outside)]))
    for key in ("offset", "length"):
        if chance.random() < 0.5:
            tensor.external_data.add(key=key, value=str(chance.choice(NUMBERS)))


def _added(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    names = [name for other in graph.node for name in other.output] + [value.name for value in graph.input]
    operator = chance.choice([*sorted(KNOWN), *FOREIGN])
    inputs = [chance.choice(names) for _ in range(chance.randrange(4))]
    node = helper.make_node(operator, inputs, [chance.choice(["new", *names])])
    if operator in ("Loop", "If", "Scan"):
        body = helper.make_graph([], "body", [], [])
        node.attribute.append(helper.make_attribute("body", body))
    if chance.random() < 0.3:
        node.domain = chance.choice(("ai.onnx", "com.microsoft", "ai.onnx.ml", "x"))
    graph.node.insert(chance.randrange(len(graph.node) + 1), node)


def _structure(model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    how = chance.randrange(7)
    if how == 0:
        del graph.node[chance.randrange(len(graph.node))]
    elif how == 1:
        graph.node.append(chance.choice(graph.node))
    elif how == 2:
        model.opset_import[0].version = chance.choice((0, 1, 6, 13, 22, 25, 99, -1, 2**62))
    elif how == 3:
        model.ir_version = chance.choice((0, 1, 3, 8, 13, 99, 2**62))
    elif how == 4:
        opset = [helper.make_opsetid("", 18)]
        call = [helper.make_node("Add", ["x", "x"], ["y"])]
        model.functions.append(helper.make_function("x", "f", ["x"], ["y"], call, opset))
    elif how == 5:
        graph.sparse_initializer.add(
            values=numpy_helper.from_array(np.ones(1, np.float32), "s"), dims=[2**40]
        )
    else:
        model.training_info.add()


def _door(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    """An input's or an output's name, type or shape."""
    value, how = chance.choice([*graph.input, *graph.output]), chance.randrange(4)
    if how == 0:
        value.name = chance.choice(("x", "", "latent", "depth"))
    elif how == 1:
        value.type.tensor_type.elem_type = chance.choice((0, 1, 2, 7, 8, 10, 16, 99))
    elif how == 2 and value.type.tensor_type.shape.dim:
        chance.choice(value.type.tensor_type.shape.dim).dim_value = chance.choice((0, -1, 1, 7, 2**62))
    else:
        graph.output.append(chance.choice(graph.input))


def _grow(_model: onnx.ModelProto, graph: onnx.GraphProto, chance: random.Random, _outside: Path) -> None:
    """A value becomes large by operators that exports use: what the checks cannot see."""
    name = chance.choice([name for node in graph.node for name in node.output])
    for i in range(chance.choice((1, 8, 24, 60))):
        graph.node.append(helper.make_node("Concat", [name, name], [f"grown{i}"], axis=chance.choice((0, 1))))
        name = f"grown{i}"
    graph.node.append(helper.make_node("ReduceMean", [name], ["mean"]))
    last = graph.node[chance.randrange(len(graph.node))]
    if last.input:
        last.input[0] = "mean"

"""ONNX graph -> what an engine would find in it, read before any engine and without the onnx package.

Two questions are asked of a graph before an engine gets it. Which files does it take its weights from? ONNX
Runtime before 1.24 follows a name wherever it leads, "../../../secret" too. And what does it compute with?
A loop without end, or a shape of terabytes, is a legal graph (operators.py says what our exports write).

An ONNX file is one protobuf message. Its nodes are read, the values of its weights are skipped: a graph of
2 GB costs as much as its nodes. Field numbers: onnx.proto3.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from fiffdepth_rt.engine_dir.protobuf import LENGTH, VARINT, DamagedError, fields, numbers
from fiffdepth_rt.errors import GraphError

# By message, as onnx.proto3 names it: the fields through which a tensor or a node can be reached.
_LEADS_TO: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
# Fields that a plain graph does without, in words.
_BEYOND: Mapping[tuple[str, int], str] = {
    ("ModelProto", 20): "training information",
    ("ModelProto", 25): "functions",
    ("GraphProto", 15): "sparse tensors",
    ("AttributeProto", 6): "a graph within a node",
    ("AttributeProto", 11): "a graph within a node",
    ("AttributeProto", 22): "sparse tensors",
    ("AttributeProto", 23): "sparse tensors",
}
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # of NodeProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL = 1, 2, 8, 9, 13  # of TensorProto
_SET_DOMAIN, _SET_VERSION = 1, 2  # of OperatorSetIdProto
_KEY, _VALUE = 1, 2  # of StringStringEntryProto; a tensor's file is the value of "location"
_TENSOR = 5  # of AttributeProto
# Messages without tensors and nodes, of which something is kept: a graph's input, whose name is field 1;
# and a set of operators.
_NAMED = {("GraphProto", 11): "ValueInfoProto", ("ModelProto", 8): "OperatorSetIdProto"}
_MODEL_FIELDS = {  # of ModelProto, with their kinds; more than these, and another reader may see another file
    **dict.fromkeys((1, 5), VARINT),
    **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), LENGTH),
}
# The fields whose content is kept.
_LEAVES: Mapping[str, frozenset[int]] = {
    "NodeProto": frozenset({_INPUT, _OUTPUT, _OP_TYPE, _DOMAIN}),
    "TensorProto": frozenset({_DIMS, _DATA_TYPE, _NAME, _RAW_DATA}),
    "StringStringEntryProto": frozenset({_KEY, _VALUE}),
    "ValueInfoProto": frozenset({1}),
    "OperatorSetIdProto": frozenset({_SET_DOMAIN, _SET_VERSION}),
}

_MAX_DEPTH = 100  # protobuf's own limit on messages within messages
_MAX_FIELDS = 2_000_000  # Stable Diffusion's UNet has about 100,000; reading so many takes seconds
_MAX_REPEATED = 100_000  # of one kind in one message
_MAX_DIMS = 8
_MAX_NAME_BYTES = 4096
_SMALL_BYTES = 64  # of a constant whose values are kept
_FLOAT, _INT64 = 1, 7  # of TensorProto.DataType

_Values = tuple[float, ...]
_Kept = dict[int, list["int | bytes | _Values | None"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """An operator of a graph: its domain ("" for ONNX's own) and name, and the tensors that go in and out."""

    domain: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphContents:
    """What a graph holds, wherever in it: nodes of functions and of graphs within nodes are among its nodes.

    locations: the "location" of every tensor that has one, each once, in the order of the file, as written.
    given: the names of inputs and constants.
    opsets: which sets of operators it says it uses: domain ("" for ONNX's own) and version.
    parts: in words, what a plain graph does without. dtypes: of its constants, as TensorProto.DataType
    numbers them. largest: elements of the largest constant, as its dims say. small: the values of constants
    of at most 64 bytes of int64 or float32, by name.
    """

    locations: tuple[str, ...]
    given: frozenset[str]
    nodes: tuple[Node, ...]
    opsets: tuple[tuple[str, int], ...]
    parts: frozenset[str]
    dtypes: frozenset[int]
    largest: int
    small: Mapping[str, _Values]


def read_graph(graph: Path) -> GraphContents:
    """ONNX file -> its contents. Whether they are fit for an engine is for the caller to check.

    Raises GraphError where the file cannot be read as protobuf: cut off, damaged, or something else.
    """
    try:
        with graph.open("rb") as file:
            reader = _Reader(file)
            reader.walk("ModelProto", os.fstat(file.fileno()).st_size, depth=1)
    except DamagedError as error:
        raise GraphError(
            f"{graph} is damaged, or no ONNX graph: {error}. Copy the directory again, or export it again."
        ) from error
    except OSError as error:
        raise GraphError(f"{graph} cannot be read: {error.strerror}. Check its permissions.") from error
    return GraphContents(
        locations=tuple(reader.locations),
        given=frozenset(reader.given),
        nodes=tuple(reader.nodes),
        opsets=tuple(reader.opsets),
        parts=frozenset(reader.parts),
        dtypes=frozenset(reader.dtypes),
        largest=reader.largest,
        small=reader.small,
    )


class _Reader:
    """Walks the messages of a file and gathers what `GraphContents` says."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._fields = 0
        self.locations: dict[str, None] = {}
        self.given: set[str] = set()
        self.nodes: list[Node] = []
        self.opsets: list[tuple[str, int]] = []
        self.parts: set[str] = set()
        self.dtypes: set[int] = set()
        self.largest = 0
        self.small: dict[str, _Values] = {}

    def walk(self, message: str, end: int, *, depth: int) -> _Values | None:
        """A message that reaches from where the file stands to `end`; of a small constant its values."""
        if depth > _MAX_DEPTH:
            raise DamagedError(f"its messages are nested more than {_MAX_DEPTH} deep")
        leads_to, leaves = _LEADS_TO.get(message, {}), _LEAVES.get(message, frozenset())
        kept: _Kept = collections.defaultdict(list)
        for number, kind, content in fields(self._file, end):
            self._fields += 1
            if self._fields > _MAX_FIELDS or len(kept[number]) > _MAX_REPEATED:
                raise DamagedError("it holds more nodes, tensors or names than any export writes")
            if message == "ModelProto" and _MODEL_FIELDS.get(number) != kind:
                self.parts.add("fields that ONNX does not have")
            if kind == LENGTH and (leaf := _NAMED.get((message, number))) is not None:
                self.walk(leaf, content, depth=depth + 1)
            elif kind == LENGTH and (inner := leads_to.get(number)) is not None:
                if (message, number) in _BEYOND:
                    self.parts.add(_BEYOND[message, number])
                values = self.walk(inner, content, depth=depth + 1)
                kept[number] += [] if values is None else [values]
            elif number in leaves:
                kept[number] += self._leaf(message, number, kind, content)
        return self._gather(message, kept)

    def _leaf(self, message: str, number: int, kind: int, content: int) -> list[int | bytes | _Values | None]:
        if message == "TensorProto" and number == _DIMS:
            return list(itertools.islice(numbers(self._file, kind, content), _MAX_DIMS + 1))
        if kind == VARINT:
            return [content]
        if kind != LENGTH:
            return []
        length = content - self._file.tell()
        if number == _RAW_DATA and message == "TensorProto":
            return [self._file.read(length)] if length <= _SMALL_BYTES else [None]
        return [self._file.read(min(length, _MAX_NAME_BYTES + 1))]

    def _gather(self, message: str, kept: _Kept) -> _Values | None:
        if message == "NodeProto":
            self._node(kept)
        elif message == "TensorProto":
            return self._tensor(kept)
        elif message == "StringStringEntryProto":
            self._entry(kept)
        elif message == "OperatorSetIdProto":
            self._opset(kept)
        elif message == "ValueInfoProto" and kept[1]:
            self.given.add(_name(kept[1][-1]))
        elif message == "AttributeProto" and kept[_TENSOR]:
            values = kept[_TENSOR][-1]
            return values if isinstance(values, tuple) else None
        return None

    def _opset(self, kept: _Kept) -> None:
        domain, version = (
            kept[number][-1] if kept[number] else None for number in (_SET_DOMAIN, _SET_VERSION)
        )
        self.opsets.append((_name(domain), version if isinstance(version, int) else 0))

    def _node(self, kept: _Kept) -> None:
        inputs, outputs = (tuple(map(_name, kept[number])) for number in (_INPUT, _OUTPUT))
        # A field that comes twice counts as its last, as in every protobuf reader.
        domain, op_type = (_name(kept[number][-1]) if kept[number] else "" for number in (_DOMAIN, _OP_TYPE))
        self.nodes.append(Node(domain=domain, op_type=op_type, inputs=inputs, outputs=outputs))
        values = [value for value in kept[_ATTRIBUTE] if isinstance(value, tuple)]
        if op_type == "Constant" and values and outputs:
            self.small[outputs[0]] = values[-1]

    def _tensor(self, kept: _Kept) -> _Values | None:
        dims = [dim for dim in kept[_DIMS] if isinstance(dim, int)]
        if len(dims) > _MAX_DIMS:
            raise DamagedError(f"a tensor has more than {_MAX_DIMS} dimensions")
        self.largest = max(self.largest, math.prod(dims))
        if kept[_NAME]:
            self.given.add(_name(kept[_NAME][-1]))
        self.dtypes |= {dtype for dtype in kept[_DATA_TYPE] if isinstance(dtype, int)}
        raw = kept[_RAW_DATA][-1] if kept[_RAW_DATA] else None
        dtype = kept[_DATA_TYPE][-1] if kept[_DATA_TYPE] else None
        form = "f" if dtype == _FLOAT else "q" if dtype == _INT64 else None
        if form is None or not isinstance(raw, bytes) or len(raw) % struct.calcsize(form) or kept[_EXTERNAL]:
            return None
        values: _Values = struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw)
        if kept[_NAME]:
            self.small[_name(kept[_NAME][-1])] = values
        return values

    def _entry(self, kept: _Kept) -> None:
        """A location, where the key says that this is one."""
        key, value = (kept[number][-1] if kept[number] else b"" for number in (_KEY, _VALUE))
        if key != b"location":
            return
        if not isinstance(value, bytes) or len(value) > _MAX_NAME_BYTES:
            raise DamagedError(f"the name of a file with weights has more than {_MAX_NAME_BYTES} bytes")
        try:
            self.locations[value.decode()] = None
        except UnicodeDecodeError as error:
            raise DamagedError("the name of a file with weights is not UTF-8") from error


def _name(content: object) -> str:
    """The bytes of a name; what is not text is escaped."""
    return content.decode(errors="backslashreplace") if isinstance(content, bytes) else ""

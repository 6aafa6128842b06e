"""ONNX graph -> the files beside it that hold its weights ("external data"); without the onnx package.

An ONNX file is one protobuf message. Each tensor in it either holds its values, or names a file and a place
in that file. ONNX Runtime before 1.24 follows such a name wherever it leads, "../../../secret" too, so the
names are read here before any engine opens the graph. Values of tensors are skipped, not read: a graph of
2 GB costs as much as its nodes.

The format: https://protobuf.dev/programming-guides/encoding, and onnx.proto3 for the field numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from fiffdepth_rt.errors import GraphError

# By message, as onnx.proto3 names it: the fields through which a tensor can be reached.
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
_KEY, _VALUE = 1, 2  # of StringStringEntryProto; a tensor's file is the value of "location"

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types; 3 and 4, groups, are in no ONNX
_MAX_DEPTH = 100  # protobuf's own limit on messages within messages
_MAX_NAME_BYTES = 4096
_SMALL_BYTES = 4096  # half of what Python's files read ahead


def external_locations(graph: Path) -> tuple[str, ...]:
    """ONNX file -> the "location" of every tensor that has one, each once, in the order of the file.

    A location is given as it was written: whether it is a plain name is for the caller to check.
    Raises GraphError where the file cannot be read as protobuf: cut off, damaged, or something else.
    """
    found: dict[str, None] = {}
    try:
        with graph.open("rb") as file:
            _collect(file, "ModelProto", os.fstat(file.fileno()).st_size, found, depth=1)
    except _DamagedError as error:
        raise GraphError(
            f"{graph} is damaged, or no ONNX graph: {error}. Copy the directory again, or export it again."
        ) from error
    except OSError as error:
        raise GraphError(f"{graph} cannot be read: {error.strerror}. Check its permissions.") from error
    return tuple(found)


class _DamagedError(Exception):
    """What is wrong with the bytes."""


def _collect(file: BinaryIO, message: str, end: int, found: dict[str, None], *, depth: int) -> None:
    """The locations of a message that reaches from where the file stands to `end` -> `found`."""
    if depth > _MAX_DEPTH:
        raise _DamagedError(f"its messages are nested more than {_MAX_DEPTH} deep")
    leads_to = _LEADS_TO[message]
    for number, field_end in _fields(file, end):
        inner = leads_to.get(number)
        if inner == "StringStringEntryProto":
            location = _location(file, field_end)
            if location is not None:
                found[location] = None
        elif inner is not None and _may_hold_location(file, field_end):
            _collect(file, inner, field_end, found, depth=depth + 1)


def _may_hold_location(file: BinaryIO, end: int) -> bool:
    """Whether a message needs to be walked. A small one that lacks the word is not: most nodes are such."""
    start = file.tell()
    if end - start > _SMALL_BYTES:
        return True
    there = b"location" in file.read(end - start)
    file.seek(start)
    return there


def _location(file: BinaryIO, end: int) -> str | None:
    """The value of an entry whose key is "location"; None for another key."""
    key = value = b""
    for number, field_end in _fields(file, end):
        # A field that comes twice counts as its last, as in every protobuf reader.
        if number in (_KEY, _VALUE):
            text = file.read(min(field_end - file.tell(), _MAX_NAME_BYTES + 1))
            key, value = (text, value) if number == _KEY else (key, text)
    if key != b"location":
        return None
    if len(value) > _MAX_NAME_BYTES:
        raise _DamagedError(f"the name of a file with weights has more than {_MAX_NAME_BYTES} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _DamagedError("the name of a file with weights is not UTF-8") from error


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """The fields that have a length, as (number, end); the file stands at their first byte."""
    while (at := file.tell()) < end:
        tag = _varint(file, end)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise _DamagedError(f"there is no field {number} (byte {at})")
        if wire_type == _VARINT:
            _varint(file, end)
            continue
        if wire_type == _LENGTH:
            length = _varint(file, end)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise _DamagedError(f"there is no wire type {wire_type} (byte {at})")
        field_end = file.tell() + length
        if field_end > end:
            raise _DamagedError(f"it ends within a field (byte {at})")
        if wire_type == _LENGTH:
            yield number, field_end
        file.seek(field_end)


def _varint(file: BinaryIO, end: int) -> int:
    """A number of 1 to 10 bytes, the lowest 7 bits first; the highest bit of a byte says that more follow."""
    at, value = file.tell(), 0
    for i, byte in enumerate(file.read(min(10, end - at))):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            file.seek(at + i + 1)
            return value
    raise _DamagedError(f"it ends within a number (byte {at})")

"""Promises about what a graph holds: every tensor and node is found, and damage has one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from fiffdepth_rt.engine_dir import onnx_graph
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import read_manifest, write_manifest
from fiffdepth_rt.engine_dir.onnx_graph import read_graph
from fiffdepth_rt.errors import (
    EngineDirError,
    GraphError,
    HashMismatchError,
    ManifestError,
    UnsafePathError,
)
from tests.runtime.test_engine_dir import edit, vouch
from tests.support.toy import write_toy_engine_dir

UNET = "graphs/fp32/unet.onnx"


def external_locations(file: Path) -> tuple[str, ...]:
    return read_graph(file).locations


def tensor(location: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    found = TensorProto(name=location, dims=[1], data_type=TensorProto.FLOAT)
    found.data_location = TensorProto.EXTERNAL
    found.external_data.add(key="offset", value="0")
    found.external_data.add(key="location", value=location)
    return found


def sparse(location: str) -> SparseTensorProto:
    return SparseTensorProto(values=tensor(location), indices=tensor(f"{location} indices"), dims=[1])


def node(**attribute: object) -> NodeProto:
    return NodeProto(op_type="Any", attribute=[AttributeProto(name="a", **attribute)])


def reference(content: object) -> list[str]:
    """The locations of all tensors in a message, by the onnx package: whatever the message is."""
    if isinstance(content, TensorProto):
        return [entry.value for entry in content.external_data if entry.key == "location"]
    found = []
    for field, value in content.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                found += reference(inner)
    return found


def model_with_tensors_everywhere() -> onnx.ModelProto:
    graph = GraphProto(name="main", initializer=[tensor("initializer")])
    graph.initializer.append(TensorProto(name="own", dims=[4], raw_data=b"location" * 2))
    graph.sparse_initializer.append(sparse("sparse initializer"))
    branch = GraphProto(node=[node(t=tensor("deep")), node(g=GraphProto(initializer=[tensor("deeper")]))])
    graph.node.extend(
        [
            node(t=tensor("t")),
            node(tensors=[tensor("tensors 0"), tensor("tensors 1")]),
            node(sparse_tensor=sparse("sparse t")),
            node(sparse_tensors=[sparse("sparse tensors")]),
            node(g=branch),
            node(graphs=[GraphProto(initializer=[tensor("graphs 0")]), branch]),
            node(s=b"location"),
            node(floats=[1.0, 2.0], ints=[1, 2]),
        ]
    )
    model = onnx.ModelProto(ir_version=9, graph=graph, doc_string="location")
    model.functions.add(name="f", node=[node(t=tensor("function"))])
    model.functions[0].attribute_proto.append(AttributeProto(name="d", t=tensor("function's default")))
    training = model.training_info.add()
    training.initialization.CopyFrom(GraphProto(initializer=[tensor("initialization")]))
    training.algorithm.CopyFrom(GraphProto(node=[node(t=tensor("algorithm"))]))
    return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "graph.onnx"


def test_the_tensors_of_every_place_are_found(file: Path) -> None:
    model = model_with_tensors_everywhere()
    file.write_bytes(model.SerializeToString())
    found = external_locations(file)
    assert {"t", "deeper", "function", "algorithm", "sparse tensors indices"} <= set(found)
    assert sorted(found) == sorted(set(reference(model)))
    assert len(found) == 17


def test_the_table_of_places_is_the_one_of_onnx_itself() -> None:
    """A later onnx may put tensors into another message: then this fails, and the table needs a row."""
    messages, reached = [onnx.ModelProto.DESCRIPTOR], {}
    while messages:
        message = messages.pop()
        if message.name not in reached:
            reached[message.name] = {f.number: f.message_type for f in message.fields if f.message_type}
            messages += reached[message.name].values()
    leads, size = {"TensorProto"}, 0
    while size != len(leads):
        size = len(leads)
        leads |= {name for name, fields in reached.items() if {m.name for m in fields.values()} & leads}
    expected = {
        name: {number: inner.name for number, inner in reached[name].items() if inner.name in leads}
        for name in leads
    }
    entries = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number
    expected["TensorProto"] = {entries: "StringStringEntryProto"}
    assert expected == onnx_graph._LEADS_TO


def test_graphs_without_other_files_have_no_locations(toy_dir: Path, file: Path) -> None:
    assert external_locations(toy_dir / UNET) == ()
    file.write_bytes(b"")
    assert external_locations(file) == ()


def test_values_are_skipped_and_not_read(file: Path) -> None:
    """A tensor of 8 GiB between two others: the file is sparse, and reading it would take a minute."""
    big = 2**33
    before = GraphProto(initializer=[tensor("before")]).SerializeToString()
    after = GraphProto(initializer=[tensor("after")]).SerializeToString()
    raw_data = b"\x4a" + varint(big)  # field 9 of TensorProto
    initializer = b"\x2a" + varint(len(raw_data) + big) + raw_data  # field 5 of GraphProto
    graph = len(before) + len(initializer) + big + len(after)
    with file.open("wb") as written:
        written.write(b"\x3a" + varint(graph) + before + initializer)  # field 7 of ModelProto
        written.seek(big, 1)
        written.write(after)
    assert external_locations(file) == ("before", "after")


def varint(number: int) -> bytes:
    low = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(byte | 0x80 for byte in low[:-1]), low[-1]])


def test_fields_that_onnx_does_not_know_are_skipped(file: Path) -> None:
    """Later versions of the format add fields; each kind of field has its own length."""
    unknown = b"\xf8\x07\x85\x01" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4) + b"\xfa\x07\x02hi"
    graph = unknown + GraphProto(initializer=[tensor("w")]).SerializeToString() + unknown
    file.write_bytes(unknown + b"\x3a" + varint(len(graph)) + graph)
    assert onnx.ModelProto.FromString(file.read_bytes()).graph.initializer[0].name == "w"
    assert external_locations(file) == ("w",)


def test_of_a_name_written_twice_the_last_counts_as_in_protobuf(file: Path) -> None:
    entry = onnx.StringStringEntryProto(key="length", value="first").SerializeToString()
    entry += onnx.StringStringEntryProto(key="location", value="last").SerializeToString()
    content = b"\x6a" + varint(len(entry)) + entry  # field 13 of TensorProto
    assert TensorProto.FromString(content).external_data[0].value == "last"
    graph = b"\x2a" + varint(len(content)) + content
    file.write_bytes(b"\x3a" + varint(len(graph)) + graph)
    assert external_locations(file) == ("last",)


# --- damage ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n" * 100, "no field|no wire type|ends within"),
        (b"\x3a\xff\x01", "ends within a field"),
        (b"\x3a" + b"\xff" * 20, "ends within a number"),
        (b"\x00\x00", "no field 0"),
        (b"\x0b", "no wire type 3"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00", "no field"),
        (onnx.ModelProto(graph=GraphProto(initializer=[tensor("x" * 5000)])).SerializeToString(), "4096"),
    ],
    ids=["a picture", "too long", "endless number", "zeros", "group", "field number", "long name"],
)
def test_what_is_no_graph_is_a_graph_error_that_names_the_file(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(GraphError, match=rf"graph\.onnx is damaged, or no ONNX graph: .*({said})"):
        external_locations(file)


def test_a_name_that_is_not_text_is_an_error(file: Path) -> None:
    content = onnx.ModelProto(graph=GraphProto(initializer=[tensor("NAME")])).SerializeToString()
    file.write_bytes(content.replace(b"locationNAME"[8:], b"\xff\xfe\xfd\xfc"))
    with pytest.raises(GraphError, match="not UTF-8"):
        external_locations(file)


@pytest.mark.parametrize(("depth", "is_read"), [(20, True), (40, False), (10_000, False)])
def test_graphs_within_graphs_end_in_an_error_and_not_in_a_full_stack(
    file: Path, depth: int, is_read: bool
) -> None:
    graph = GraphProto(initializer=[tensor("deepest")]).SerializeToString()
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            graph = tag + varint(len(graph)) + graph
    file.write_bytes(b"\x3a" + varint(len(graph)) + graph)
    if is_read:
        assert external_locations(file) == ("deepest",)
    else:
        with pytest.raises(GraphError, match="nested more than 100 deep"):
            external_locations(file)


def test_a_graph_that_cannot_be_opened_is_a_graph_error(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="cannot be read"):
        external_locations(tmp_path / "missing.onnx")


def _all_or_error(file: Path, content: bytes) -> None:
    """Whatever onnx reads in these bytes is found; else it is a GraphError."""
    file.write_bytes(content)
    try:
        found = set(external_locations(file))
    except GraphError:
        return
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:  # of protobuf; no engine reads it either
        return
    assert found >= set(reference(model))


WHOLE = model_with_tensors_everywhere().SerializeToString()


@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), length=st.integers(0, 3))
@settings(max_examples=500)
def test_changed_bytes_hide_no_tensor(
    at: int, byte: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "changed.onnx"
    _all_or_error(file, WHOLE[:at] + bytes([byte] * length) + WHOLE[at + 1 :])


@given(content=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_end_in_a_list_or_in_the_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.onnx"
    _all_or_error(file, content)
    _all_or_error(file, WHOLE[:1000] + content + WHOLE[1000:])


@pytest.mark.soak
def test_no_cut_and_no_flipped_bit_hides_a_tensor(file: Path) -> None:
    for at in range(len(WHOLE)):
        _all_or_error(file, WHOLE[:at])
        for bit in range(8):
            _all_or_error(file, WHOLE[:at] + bytes([WHOLE[at] ^ 1 << bit]) + WHOLE[at + 1 :])


# --- at the door of an engine directory ---


def _with_weights(
    directory: Path, location: str, place: Callable[[onnx.ModelProto, TensorProto], None]
) -> Path:
    """A toy directory whose UNet takes a weight from `location`; its hashes are right."""
    write_toy_engine_dir(directory)
    model = onnx.load(directory / UNET)
    place(model, tensor(location))
    (directory / UNET).write_bytes(model.SerializeToString())
    vouch(directory)
    return directory


def _as_initializer(model: onnx.ModelProto, weight: TensorProto) -> None:
    weight.name = model.graph.initializer[0].name
    del weight.dims[:]
    model.graph.initializer[0].CopyFrom(weight)


def _in_a_branch(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.node.append(node(g=GraphProto(node=[node(t=weight)])))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("place", [_as_initializer, _in_a_branch])
@pytest.mark.parametrize(
    "location",
    [
        "../../../secret",
        "..",
        "",
        "/etc/hostname",
        "below/secret",
        "C:secret",
        "..\\secret",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_weights_outside_the_graphs_folder_are_refused_before_an_engine_sees_them(
    tmp_path: Path, location: str, place: Callable[[onnx.ModelProto, TensorProto], None], verify: bool
) -> None:
    (tmp_path / "secret").write_bytes(b"\0\0\x80\x3f")
    directory = _with_weights(tmp_path / "toy", location, place)
    with pytest.raises(UnsafePathError, match=r"unet\.onnx takes weights from .* not the plain name"):
        open_engine_dir(directory, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_weights_that_the_stage_does_not_list_are_refused(tmp_path: Path, verify: bool) -> None:
    """Not even a file that the manifest vouches for, but as something else."""
    directory = _with_weights(tmp_path / "toy", "encoder.onnx", _as_initializer)
    with pytest.raises(ManifestError, match=r"from 'encoder\.onnx', which manifest\.json does not list"):
        open_engine_dir(directory, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_weights_that_are_listed_are_taken_and_a_link_only_to_the_same(tmp_path: Path, verify: bool) -> None:
    directory = _with_weights(tmp_path / "toy", "unet.onnx.data", _as_initializer)
    weights = directory / f"{UNET}.data"
    weights.write_bytes(b"\0\0\x80\x3f")

    def listed(content: dict) -> None:  # type: ignore[type-arg]
        content["graph_sets"]["fp32"]["stages"]["unet"]["external_data"] = [f"{UNET}.data"]
        record = hash_file(weights)
        content["files"][f"{UNET}.data"] = {"sha256": record.sha256, "bytes": record.bytes}

    edit(directory, listed)
    open_engine_dir(directory, verify=verify)
    weights.rename(tmp_path / "secret")
    weights.symlink_to(tmp_path / "secret")
    linked = open_engine_dir(directory, verify=verify).graph("fp32", "unet")
    assert linked.cure == (
        "Its weights are links, which not every engine follows: copy the directory with cp -rL."
    )
    (tmp_path / "secret").write_bytes(b"\0\0\x80\x40")  # of the same length
    with pytest.raises(HashMismatchError):
        open_engine_dir(directory, verify=verify).graph("fp32", "unet")


@pytest.mark.parametrize("verify", [True, False])
def test_a_graph_of_another_format_is_refused(toy_dir: Path, verify: bool) -> None:
    """OpenVINO reads .xml with weights beside it, ONNX Runtime .ort: nobody looks for their weights here."""
    (toy_dir / UNET).rename(toy_dir / "graphs/fp32/unet.xml")

    def renamed(content: dict) -> None:  # type: ignore[type-arg]
        content["graph_sets"]["fp32"]["stages"]["unet"]["file"] = "graphs/fp32/unet.xml"
        content["files"]["graphs/fp32/unet.xml"] = content["files"].pop(UNET)

    edit(toy_dir, renamed)
    with pytest.raises(ManifestError, match=r"graphs are \.onnx files"):
        open_engine_dir(toy_dir, verify=verify)


def test_the_directory_can_still_be_read_where_it_is_refused(tmp_path: Path) -> None:
    directory = _with_weights(tmp_path / "toy", "../secret", _as_initializer)
    assert read_manifest(directory).name == "toy"
    write_manifest(directory, read_manifest(directory))
    with pytest.raises(EngineDirError):
        open_engine_dir(directory)

"""Promises of the engine directory: what is written is read back, and every damage has its own error."""

from __future__ import annotations

import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiffdepth_rt import Depth
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import (
    DTYPES,
    FLAVOURS,
    FORMS,
    HARDWARE_COMPATIBILITIES,
    MANIFEST_MAX_BYTES,
    PRECISIONS,
    STAGE_TENSORS,
    FileRecord,
    GraphSet,
    Licence,
    Manifest,
    PlanMemory,
    PlanProfile,
    PlanRecord,
    SizeLimits,
    Stage,
    TensorSpec,
    read_manifest,
    write_manifest,
)
from fiffdepth_rt.errors import (
    EngineDirError,
    GraphError,
    HashMismatchError,
    ManifestError,
    MissingFileError,
    OutputError,
    StageMismatchError,
    UnsafePathError,
)
from fiffdepth_rt.space import Space

UNET = "graphs/fp32/unet.onnx"


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest's JSON as a hand would."""
    file = directory / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def vouch(directory: Path) -> None:
    """Make the manifest list the files as they are now."""
    manifest = read_manifest(directory)
    files = {name: hash_file(directory / name) for name in manifest.files}
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))


# --- there and back ---

texts = st.text(max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)
symbols = st.sampled_from(["batch", "height", "width", "height/8", "width/8", "height/4"])
specs = st.builds(
    TensorSpec,
    name=texts,
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 4096) | symbols, max_size=4).map(tuple),
)
stages = st.builds(
    Stage,
    file=texts,
    external_data=st.lists(texts, max_size=2).map(tuple),
    inputs=st.lists(specs, max_size=2).map(tuple),
    outputs=st.lists(specs, max_size=2).map(tuple),
)
graph_sets = st.builds(
    GraphSet,
    opset=st.integers(1, 30),
    precision=st.sampled_from(PRECISIONS),
    form=st.sampled_from(FORMS),
    stages=st.fixed_dictionaries({"encoder": stages, "unet": stages, "decoder": stages}),
)
records = st.builds(
    FileRecord, sha256=st.text("0123456789abcdef", min_size=64, max_size=64), bytes=st.integers(0, 2**31)
)
sizes = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 64)).map(
    lambda n: SizeLimits(multiple=8 * n[0], max=8 * n[0] * n[1], default=min(n[2], 8 * n[0] * n[1]))
)

versions = st.lists(st.integers(0, 999), min_size=2, max_size=4).map(lambda n: ".".join(map(str, n)))
plan_records = st.builds(
    PlanRecord,
    stage=st.sampled_from(sorted(STAGE_TENSORS)),
    precision=texts,
    file=texts,
    flavour=st.sampled_from(FLAVOURS),
    gpu_name=st.none() | texts,
    compute_capability=versions,
    tensorrt_version=versions,
    profiles=st.lists(
        st.builds(
            PlanProfile,
            grid=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
            batch=st.integers(1, 64),
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    hardware_compatibility=st.sampled_from(HARDWARE_COMPATIBILITIES),
    stripped=st.booleans(),
    opt_level=st.none() | st.integers(0, 5),
    workspace_mib=st.none() | st.integers(1, 2**20),
    graph_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    checked=st.booleans(),
    memory=st.none()
    | st.builds(
        PlanMemory,
        weight_bytes=st.integers(0, 2**40),
        activation_bytes=st.lists(st.integers(0, 2**40), max_size=2).map(tuple),
    ),
    built=json_objects,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    sets = draw(st.dictionaries(texts, graph_sets, min_size=1, max_size=2))
    golden = draw(st.none() | texts)
    used = {golden} - {None}
    for graph_set in sets.values():
        for stage in graph_set.stages.values():
            used |= {stage.file, *stage.external_data}
    plans = draw(st.lists(plan_records, max_size=2))
    plans = [msgspec.structs.replace(plan, precision=min(sets)) for plan in plans]
    for i, plan in enumerate(plans):  # one number for each profile
        if plan.memory is not None:
            memory = msgspec.structs.replace(plan.memory, activation_bytes=(1,) * len(plan.profiles))
            plans[i] = msgspec.structs.replace(plan, memory=memory)
    used |= {plan.file for plan in plans}
    return Manifest(
        name=draw(texts),
        recipe=draw(texts),
        output_space=draw(st.sampled_from(Space)),
        size=draw(sizes),
        graph_sets=sets,
        files={name: draw(records) for name in used},
        licence=Licence(model=draw(texts), data_sources=tuple(draw(st.lists(texts, max_size=2)))),
        golden=golden,
        plans=tuple(plans),
        provenance=draw(json_objects),
        parity=tuple(draw(st.lists(json_objects, max_size=2))),
    )


@given(manifest=manifests())
@settings(max_examples=60)
def test_every_manifest_is_read_back_as_it_was_written(
    manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("engine")
    write_manifest(directory, manifest)
    assert read_manifest(directory) == manifest
    assert [path.name for path in directory.iterdir()] == ["manifest.json"]


def test_equal_manifests_are_equal_bytes(toy_dir: Path) -> None:
    before = (toy_dir / "manifest.json").read_bytes()
    write_manifest(toy_dir, read_manifest(toy_dir))
    assert (toy_dir / "manifest.json").read_bytes() == before
    assert before.startswith(b'{\n "files": {\n')
    assert before.endswith(b"}\n")


def test_an_opened_directory_knows_its_graphs(toy_dir: Path) -> None:
    opened = open_engine_dir(str(toy_dir))
    assert opened.path == toy_dir
    assert opened.graph("fp32", "unet").path == toy_dir / UNET
    assert opened.manifest.size == SizeLimits(default=256, max=1024, multiple=64)


def test_a_directory_can_be_moved_and_be_a_link_itself(toy_dir: Path, tmp_path: Path) -> None:
    moved = shutil.move(toy_dir, tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(moved, target_is_directory=True)
    assert open_engine_dir(tmp_path / "link").manifest.name == "toy"


def test_files_beyond_the_listed_ones_are_left_alone(toy_dir: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (toy_dir / "graphs" / "fp32" / name).write_bytes(b"x")
    open_engine_dir(toy_dir)


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(toy_dir: Path) -> None:
    before = (toy_dir / "manifest.json").read_bytes()
    manifest = read_manifest(toy_dir)
    with pytest.raises(ManifestError):
        write_manifest(toy_dir, msgspec.structs.replace(manifest, files={}))
    with pytest.raises(OutputError):
        write_manifest(toy_dir / "missing", manifest)
    assert (toy_dir / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in toy_dir.iterdir()) == ["golden.npz", "graphs", "manifest.json"]


# --- the manifest itself ---


def test_a_folder_without_a_manifest_is_no_engine_directory(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        if path.name == "file":
            path.write_bytes(b"")
        with pytest.raises(ManifestError, match="is not an engine directory"):
            Depth(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b'{"schema": 1',
        b"\xff\xfe\x00",
        b'{"schema": NaN}',
        b"[" * 1_000_000,
        b'{"schema": ' + b"1" * 10_000 + b"}",
    ],
    ids=["empty", "words", "cut off", "not text", "NaN", "deep", "long number"],
)
def test_a_manifest_that_is_not_json_says_so(toy_dir: Path, text: bytes) -> None:
    (toy_dir / "manifest.json").write_bytes(text)
    with pytest.raises(ManifestError, match="is not JSON"):
        Depth(toy_dir)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"'])
def test_json_that_is_no_object_is_no_manifest(toy_dir: Path, text: str) -> None:
    (toy_dir / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="should be an object"):
        Depth(toy_dir)


def test_a_manifest_of_2_gb_is_refused_unread(toy_dir: Path) -> None:
    os.truncate(toy_dir / "manifest.json", 2**31)  # sparse: takes no disk
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError, match=f"at most {MANIFEST_MAX_BYTES}"):
            Depth(toy_dir)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_newer_schema_asks_for_a_newer_runtime(toy_dir: Path) -> None:
    edit(toy_dir, lambda content: content.update(schema=3, something_new=True))
    with pytest.raises(ManifestError, match=r"schema 3; this runtime reads schema 2\. Update fiffdepth-rt"):
        Depth(toy_dir)


def test_an_older_schema_gives_the_command_that_exports_the_directory_again(toy_dir: Path) -> None:
    """Schema 1 listed the engines that may run a set, where schema 2 says what the graphs are."""

    def as_schema_1(content: dict[str, Any]) -> None:
        content["schema"] = 1
        for graphs in content["graph_sets"].values():
            del graphs["precision"], graphs["form"]
            graphs["backends"] = ["onnxruntime"]

    edit(toy_dir, as_schema_1)
    command = f"python -m export.build_engines CHECKPOINT -o {toy_dir} --overwrite"
    with pytest.raises(ManifestError, match=r"schema 1; this runtime reads schema 2\. Export") as error:
        Depth(toy_dir)
    assert str(error.value).endswith(f"run: {command}")


@pytest.mark.parametrize("schema", [None, "1", 1.0, True])
def test_a_manifest_without_a_schema_number_says_so(toy_dir: Path, schema: Any) -> None:
    edit(toy_dir, lambda content: content.update(schema=schema))
    with pytest.raises(ManifestError, match="no schema number"):
        Depth(toy_dir)


def at(path: str) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    def walk(content: Any) -> tuple[Any, Any]:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        for key in parents:
            content = content[key]
        return content, last

    return walk


@pytest.mark.parametrize("value", [None, 7, -1, "", "x", [], [7], {}, {"x": 1}, True], ids=str)
@pytest.mark.parametrize(
    "path",
    [
        "name",
        "recipe",
        "output_space",
        "size",
        "size/max",
        "size/multiple",
        "graph_sets",
        "graph_sets/fp32",
        "graph_sets/fp32/opset",
        "graph_sets/fp32/precision",
        "graph_sets/fp32/form",
        "graph_sets/fp32/stages",
        "graph_sets/fp32/stages/unet",
        "graph_sets/fp32/stages/unet/inputs",
        "graph_sets/fp32/stages/unet/inputs/0",
        "graph_sets/fp32/stages/unet/inputs/0/shape",
        "graph_sets/fp32/stages/unet/inputs/0/shape/1",
        "files",
        "licence",
        "licence/data_sources",
        "golden",
        "plans",
        "provenance",
        "parity",
    ],
)
def test_no_value_in_the_wrong_place_does_more_than_raise(toy_dir: Path, path: str, value: Any) -> None:
    """Some values are right by chance ("x" is a name); then it opens. It never fails in another way."""

    def change(content: dict[str, Any]) -> None:
        parent, key = at(path)(content)
        parent[key] = value

    edit(toy_dir, change)
    try:
        open_engine_dir(toy_dir)
    except EngineDirError as error:
        assert str(error).endswith(".")


@pytest.mark.parametrize(
    "path", ["name", "size/max", "graph_sets/fp32/stages/unet/file", "licence/model", "parity"]
)
def test_a_missing_key_is_named(toy_dir: Path, path: str) -> None:
    def change(content: dict[str, Any]) -> None:
        parent, key = at(path)(content)
        del parent[key]

    edit(toy_dir, change)
    with pytest.raises(ManifestError, match=f"lacks {path.split('/')[-1]}"):
        Depth(toy_dir)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("size/gamut", "blue", "size has unknown gamut."),
        ("zoom", 1, "the top level has unknown zoom."),
        ("size/multipel", 64, "size has unknown multipel (did you mean multiple?)."),
        ("graph_sets/fp32/stages/unet/input", [], "graph_sets.fp32.stages.unet has unknown input (did you"),
        ("size/max", "1024", 'size.max should be a whole number, but is "1024".'),
        ("size/max", 0, "size.max should be a whole number of at least 1, but is 0."),
        ("size/max", True, "size.max should be a whole number, but is true."),
        ("size/max", 1024.0, "size.max should be a whole number, but is 1024.0."),
        ("size/multiple", 100, "size does not hold"),
        ("size/multiple", 4, "size does not hold: multiple is none of 8, for "),
        ("output_space", "metres", 'output_space should be one of depth, disparity, but is "metres".'),
        (
            "graph_sets/fp32/form",
            "film",
            'graph_sets.fp32.form should be one of grid, camera, but is "film".',
        ),
        ("graph_sets/bf16/precision", "int8", "graph_sets.bf16.precision should be one of fp32, fp16, bf16"),
        ("graph_sets", {}, "graph_sets should be an object that is not empty, but is {}."),
        (
            "graph_sets/fp32/stages",
            {},
            "graph_sets.fp32.stages should be encoder, unet, decoder, but is none",
        ),
        (
            "graph_sets/fp32/stages/unet/inputs/0/shape/2",
            "depth/8",
            "graph_sets.fp32.stages.unet.inputs[0].shape[2] should be a size, or a symbol",
        ),
        ("files/golden.npz/sha256", "ABC", "files.golden.npz.sha256 should be 64 lower-case"),
        ("size/max", 2**40, "size.max should be a whole number of at most 16384, but is 1099511627776."),
        ("name", "x" * 201, "name should be a text of at most 200 characters, but is"),
        ("recipe", "x" * 10**6, "recipe should be a text of at most 200 characters, but is"),
        (
            "graph_sets/fp32/stages/unet/inputs/0/name",
            "x" * 10**6,
            "graph_sets.fp32.stages.unet.inputs[0].name",
        ),
        ("files/" + "x" * 300, {"sha256": "0" * 64, "bytes": 1}, "files lists 'xxxx"),
        ("x" * 10**6, 1, "the top level has unknown xxxx"),
        ("licence/data_sources", "photos", 'licence.data_sources should be a list, but is "photos".'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(toy_dir: Path, path: str, value: Any, said: str) -> None:
    def change(content: dict[str, Any]) -> None:
        parent, key = at(path)(content)
        parent[key] = value

    edit(toy_dir, change)
    with pytest.raises(ManifestError) as error:
        Depth(toy_dir)
    assert str(error.value).startswith(f"manifest.json: {said}")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"\\ud800"', "surrogates not allowed"),
        ("1" + "0" * 400, "has more than 64 bits"),
        ("18446744073709551616", "has more than 64 bits"),
        ("1e400", "beyond what a float can hold"),
        ("-Infinity", "is not a JSON number"),
    ],
)
@pytest.mark.parametrize("place", ["provenance", "name"])
def test_texts_and_numbers_that_are_none_are_refused_wherever_they_are(
    toy_dir: Path, place: str, value: str, said: str
) -> None:
    """The runtime reads nothing in the provenance, and reports it."""
    edit(toy_dir, lambda content: content.update({place: "HERE" if place == "name" else {"x": "HERE"}}))
    file = toy_dir / "manifest.json"
    file.write_text(file.read_text().replace('"HERE"', value))
    with pytest.raises(ManifestError, match=rf"manifest\.json is not JSON \(.*{said}"):
        Depth(toy_dir)


def test_no_error_repeats_more_of_a_manifest_than_a_few_hundred_characters(toy_dir: Path) -> None:
    long = "x" * 10**6
    whole = (toy_dir / "manifest.json").read_text()
    for path in (
        "name",
        long,
        f"size/{long}",
        f"files/{long}",
        f"graph_sets/{long}",
        "golden",
        "output_space",
    ):
        (toy_dir / "manifest.json").write_text(whole)

        def change(content: dict[str, Any], path: str = path) -> None:
            parent, key = at(path)(content)
            parent[key] = long

        edit(toy_dir, change)
        with pytest.raises(EngineDirError) as error:
            Depth(toy_dir)
        assert len(str(error.value)) < 1200, path


@pytest.mark.parametrize("key", ["schema", "golden", "default"])
def test_a_key_that_is_there_twice_is_refused(toy_dir: Path, key: str) -> None:
    """Readers differ in which of the two they take."""
    file = toy_dir / "manifest.json"
    (line,) = [line for line in file.read_text().splitlines() if f'"{key}":' in line]
    file.write_text(file.read_text().replace(line, f"{line.rstrip(',')},\n{line}"))
    with pytest.raises(ManifestError, match=f"the key '{key}' is there twice"):
        Depth(toy_dir)


def test_a_graph_that_the_files_do_not_list_is_refused(toy_dir: Path) -> None:
    edit(toy_dir, lambda content: content["files"].pop(UNET))
    with pytest.raises(ManifestError, match=f"does not list '{UNET}'"):
        Depth(toy_dir)


# --- files ---


def test_a_missing_file_is_named(toy_dir: Path) -> None:
    (toy_dir / UNET).unlink()
    with pytest.raises(MissingFileError, match=UNET):
        Depth(toy_dir)


def test_a_file_beside_the_graphs_that_nothing_vouches_for_is_refused(toy_dir: Path) -> None:
    (toy_dir / UNET).with_suffix(".weights").write_bytes(b"weights of somebody else")
    with pytest.raises(ManifestError, match="nothing vouches for it"):
        Depth(toy_dir)


def test_a_changed_bit_is_found_by_the_hash(toy_dir: Path) -> None:
    data = bytearray((toy_dir / UNET).read_bytes())
    data[len(data) // 2] ^= 1
    (toy_dir / UNET).write_bytes(data)
    with pytest.raises(HashMismatchError, match="SHA-256"):
        Depth(toy_dir)
    open_engine_dir(toy_dir, verify=False)


# --- hashes that are remembered ---


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("FIFFDEPTH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes"


def settle() -> None:
    """Files that changed just now are hashed again, since another change might not show in their times."""
    time.sleep(0.15)


def flip(file: Path) -> None:
    """Change one bit of a file in its place, and put its time of change back."""
    status = file.stat()
    with file.open("r+b") as content:
        content.seek(status.st_size // 2)
        byte = content.read(1)[0]
        content.seek(-1, 1)
        content.write(bytes([byte ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_opening_hashes_the_graphs_that_run_and_verify_hashes_all(toy_dir: Path, memory: Path) -> None:
    for name in ("golden.npz", "graphs/bf16/unet.onnx"):
        flip(toy_dir / name)
    Depth(toy_dir, precision="fp32").close()
    with pytest.raises(HashMismatchError, match="bf16/unet"):
        Depth(toy_dir, precision="bf16")
    with pytest.raises(HashMismatchError):
        Depth(toy_dir, precision="fp32", verify=True)
    with pytest.raises(HashMismatchError, match="golden"):
        open_engine_dir(toy_dir, verify=False).file("golden.npz")


def test_a_file_that_has_not_changed_is_not_hashed_again(toy_dir: Path, memory: Path) -> None:
    """Shown by a memory that is wrong: it is believed, and verify=True sees what is true."""
    settle()
    open_engine_dir(toy_dir, verify=False).graph("fp32", "unet")
    (file,) = memory.iterdir()
    remembered = json.loads(file.read_text())
    assert remembered[UNET]["sha256"] == read_manifest(toy_dir).files[UNET].sha256
    remembered[UNET]["sha256"] = "0" * 64
    file.write_text(json.dumps(remembered))
    with pytest.raises(HashMismatchError, match=r"is 000000000000…"):
        open_engine_dir(toy_dir, verify=False).graph("fp32", "unet")
    open_engine_dir(toy_dir, verify=True)
    settle()
    open_engine_dir(toy_dir, verify=False).graph("fp32", "unet")


@pytest.mark.parametrize("change", ["in its place", "by another file", "with its time put back"])
def test_a_file_that_changed_since_it_was_remembered_is_hashed_again(
    toy_dir: Path, memory: Path, change: str
) -> None:
    settle()
    Depth(toy_dir).close()
    file = toy_dir / UNET
    assert UNET in next(memory.iterdir()).read_text()
    status = file.stat()
    if change == "by another file":
        copy = Path(shutil.copy(file, toy_dir.parent / "copy"))
        flip(copy)
        copy.replace(file)
    else:
        flip(file)
        if change == "in its place":
            file.touch()
    assert file.stat().st_size == status.st_size
    with pytest.raises(HashMismatchError, match="SHA-256"):
        Depth(toy_dir)


def test_what_is_remembered_of_one_file_is_not_believed_of_another(toy_dir: Path, memory: Path) -> None:
    settle()
    Depth(toy_dir).close()
    (file,) = memory.iterdir()
    remembered = json.loads(file.read_text())
    flip(toy_dir / UNET)
    settle()
    remembered[UNET] |= {"state": remembered["graphs/fp32/encoder.onnx"]["state"]}
    file.write_text(json.dumps(remembered))
    with pytest.raises(HashMismatchError):
        Depth(toy_dir)
    other = shutil.copytree(toy_dir, toy_dir.parent / "other")  # a memory of another directory
    with pytest.raises(HashMismatchError):
        Depth(other)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"golden.npz": 7}', b"\xff", b"[" * 100_000])
def test_a_damaged_memory_is_as_none(toy_dir: Path, memory: Path, content: bytes) -> None:
    settle()
    Depth(toy_dir).close()
    (file,) = memory.iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    Depth(toy_dir).close()
    assert file.read_bytes() == whole


@pytest.mark.parametrize("where", ["off", "a file", "nowhere to write"])
def test_without_a_memory_a_directory_opens_all_the_same(
    toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "a file").touch()
    folder = {"off": "off", "a file": str(tmp_path / "a file"), "nowhere to write": "/proc/none"}[where]
    monkeypatch.setenv("FIFFDEPTH_CACHE", folder)
    settle()
    for _ in range(2):
        Depth(toy_dir).close()
    flip(toy_dir / UNET)
    with pytest.raises(HashMismatchError):
        Depth(toy_dir)


def test_a_file_of_another_length_is_found_without_hashing(toy_dir: Path) -> None:
    with (toy_dir / UNET).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(HashMismatchError, match="bytes where"):
        open_engine_dir(toy_dir, verify=False)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_opened(toy_dir: Path, kind: str) -> None:
    (toy_dir / UNET).unlink()
    (toy_dir / UNET).mkdir() if kind == "folder" else os.mkfifo(toy_dir / UNET)
    with pytest.raises(MissingFileError, match="not a file"):
        Depth(toy_dir)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "graphs/../../secret",
        "/etc/passwd",
        "graphs//x",
        "./x",
        "",
        "C:/x",
        "a\\..\\b",
        "a\0b",
        "..",
    ],
)
def test_a_path_that_could_leave_the_directory_is_refused(toy_dir: Path, name: str) -> None:
    (toy_dir.parent / "secret").write_bytes(b"x")
    edit(toy_dir, lambda content: content["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(UnsafePathError):
        Depth(toy_dir)


@pytest.mark.parametrize("name", ["graphs/fp32", "graphs"])
def test_a_folder_that_is_a_link_is_refused_wherever_it_points(toy_dir: Path, name: str) -> None:
    real = toy_dir.parent / "real"
    (toy_dir / name).rename(real)
    (toy_dir / name).symlink_to(real)
    with pytest.raises(UnsafePathError, match="is a link"):
        Depth(toy_dir)


def test_files_may_be_links_as_in_the_cache_of_a_hub_and_their_hashes_vouch_for_them(
    toy_dir: Path, photo: np.ndarray
) -> None:
    with Depth(toy_dir) as plain:
        expected = plain.infer(photo).values
    blobs = toy_dir.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in toy_dir.rglob("*") if path.is_file())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    with Depth(toy_dir, verify=True) as linked:
        np.testing.assert_array_equal(linked.infer(photo).values, expected)
    unet = (toy_dir / UNET).resolve()
    unet.write_bytes(unet.read_bytes()[:-1] + b"!")
    with pytest.raises(HashMismatchError):
        Depth(toy_dir, verify=True)
    unet.unlink()
    with pytest.raises(UnsafePathError, match="is a link to no file"):
        Depth(toy_dir)


# --- graphs ---


@pytest.mark.parametrize("stage", ["encoder", "unet", "decoder"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_graph_is_a_graph_error_even_if_its_hash_is_right(
    toy_dir: Path, capfd: pytest.CaptureFixture[str], stage: str, kept: float
) -> None:
    file = toy_dir / f"graphs/fp32/{stage}.onnx"
    os.truncate(file, int(file.stat().st_size * kept))
    with pytest.raises(HashMismatchError):
        Depth(toy_dir)
    vouch(toy_dir)
    with pytest.raises(GraphError, match=f"{stage}.onnx"):
        Depth(toy_dir)
    assert capfd.readouterr() == ("", "")


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["encoder", "unet", "decoder"])
def test_a_graph_truncated_anywhere_is_a_graph_error(toy_dir: Path, stage: str) -> None:
    file = toy_dir / f"graphs/fp32/{stage}.onnx"
    whole = file.read_bytes()
    for kept in range(len(whole)):
        file.write_bytes(whole[:kept])
        vouch(toy_dir)
        with pytest.raises(GraphError):
            Depth(toy_dir)


def test_a_graph_that_is_something_else_is_a_graph_error(toy_dir: Path) -> None:
    (toy_dir / UNET).write_bytes(b"\x89PNG\r\n" * 100)
    vouch(toy_dir)
    with pytest.raises(GraphError, match=r"unet\.onnx"):
        Depth(toy_dir)


def test_stages_that_do_not_fit_each_other_are_found_in_the_manifest(toy_dir: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["graph_sets"]["fp32"]["stages"]["unet"]["inputs"][0]["shape"][1] = 8

    edit(toy_dir, change)
    with pytest.raises(StageMismatchError, match=r"unet takes latent float32 batch×8×.*given .*batch×4×"):
        open_engine_dir(toy_dir)


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda stages: stages["encoder"]["outputs"][0].update(name="z"),
            "gives z where it should be latent",
        ),
        (lambda stages: stages["decoder"]["outputs"].pop(), "should be depth, depth_unclipped"),
        (
            lambda stages: stages["encoder"]["inputs"][0].update(dtype="float32"),
            "not uint8 batch×height×width×3",
        ),
        (lambda stages: stages["encoder"]["inputs"][0].update(shape=["batch", 3]), "not uint8"),
        (lambda stages: stages["decoder"]["outputs"][0].update(dtype="float16"), "gives depth float16"),
        (lambda stages: stages["unet"]["outputs"][0].update(dtype="float16"), "takes depth_latent float32"),
    ],
)
def test_tensors_that_make_no_journey_are_found_in_the_manifest(
    toy_dir: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    edit(toy_dir, lambda content: change(content["graph_sets"]["fp32"]["stages"]))
    with pytest.raises(StageMismatchError, match=said):
        open_engine_dir(toy_dir)


@pytest.mark.parametrize("kind", ["dtype", "fixed height", "more channels"])
def test_a_manifest_that_claims_what_the_graph_is_not_is_found_at_the_graph(toy_dir: Path, kind: str) -> None:
    def change(content: dict[str, Any]) -> None:
        for stage in content["graph_sets"]["fp32"]["stages"].values():
            for spec in stage["inputs"] + stage["outputs"]:
                if kind == "dtype" and "latent" in spec["name"]:
                    spec["dtype"] = "float16"
                if kind == "more channels" and "latent" in spec["name"]:
                    spec["shape"][1] = 16
                if kind == "fixed height":
                    spec["shape"] = [{"height": 512, "height/8": 64}.get(dim, dim) for dim in spec["shape"]]

    edit(toy_dir, change)
    open_engine_dir(toy_dir)  # consistent in itself
    with pytest.raises(StageMismatchError, match="fp32/encoder"):
        Depth(toy_dir)


def test_a_graph_in_another_stages_place_is_found(toy_dir: Path) -> None:
    shutil.copy(toy_dir / "graphs/fp32/encoder.onnx", toy_dir / UNET)
    vouch(toy_dir)
    with pytest.raises(StageMismatchError, match="fp32/unet"):
        Depth(toy_dir)

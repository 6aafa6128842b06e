"""golden.npz as strangers make it: whatever is in it, the values, or a ParityError before memory is taken."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.golden_file import read_golden
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import (
    GOLDEN_MAX_BYTES,
    GRAPH_MAX_BYTES,
    Manifest,
    read_manifest,
    write_manifest,
)
from fiffdepth_rt.errors import ManifestError, ParityError
from fiffdepth_rt.verify import check_parity
from tests.support.toy import toy_golden, write_static_toy, write_toy_engine_dir

OUTPUT = "photo0/decoder/output"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_toy_engine_dir(tmp_path_factory.mktemp("engines") / "toy"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return toy_golden()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape: str, dtype: str = "<f4", version: bytes = b"\x01\x00") -> bytes:
    """The beginning of a .npy that declares what it likes."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode()


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as written:
        for key, content in entries.items():
            written.writestr(f"{key}.npy", content)
    return path


def test_what_was_written_is_read(tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray]) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "golden.npz", **golden)
        for read in (read_golden(tmp_path / "golden.npz"), read_golden(tmp_path / "golden.npz", manifest)):
            assert list(read) == ["photo0", "photo1", "noise"]
            for key, array in golden.items():
                image, stage, side = key.split("/")
                assert np.array_equal(getattr(read[image][stage], side), array)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"no zip at all" * 100, npy(np.ones(3)), b"PK\x05\x06" + bytes(18)],
    ids=["empty", "a zip's first bytes", "text", "an npy", "an empty zip"],
)
def test_a_file_that_is_no_archive_of_golden_values(
    tmp_path: Path, manifest: Manifest, content: bytes
) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    if content.startswith(b"PK\x05"):
        assert read_golden(tmp_path / "golden.npz", manifest) == {}
        return
    with pytest.raises(ParityError, match=r"golden\.npz cannot be read \(.*Export the directory again"):
        read_golden(tmp_path / "golden.npz", manifest)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy(np.array(["a", "b"])), "dtype"),
        (npy(np.zeros((1, 128, 192), np.complex64)), "dtype"),
        (npy(np.zeros((1, 128, 192), bool)), "dtype"),
        (npy(np.zeros((1, 128, 192), "M8[s]")), "dtype"),
        (npy(np.zeros((1, 128, 192), [("a", "<f4")])), "dtype"),
        (header("(2,)", "|O") + bytes(16), "dtype"),
        (npy(np.asfortranarray(np.zeros((1, 128, 192), np.float32))), "C order"),
        (npy(np.full((1, 128, 192), np.nan, np.float32)), "not finite"),
        (npy(np.full((1, 128, 192), np.inf, np.float32)), "not finite"),
        (npy(np.full((1, 128, 192), 1e30, np.float32)), "not finite, or beyond"),
        (npy(np.zeros((1, 128, 192), np.float32))[:-5], "which its bytes are not"),
        (npy(np.zeros((1, 128, 192), np.float32)) + b"more", "which its bytes are not"),
        (header("(1, 128, -192)"), "has the shape"),
        (header("(99999999999, 999999999999)"), "has the shape"),
        (header(f"({'(' * 300}1,)"), "cannot be read"),
        (header("__import__('os').getpid()"), "cannot be read"),
        (header("(1,)", version=b"\x09\x00"), "version"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70_000, "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_array_that_is_none_is_a_parity_error(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray], content: bytes, said: str
) -> None:
    entries = {key: npy(array) for key, array in golden.items()} | {OUTPUT: content}
    with pytest.raises(ParityError, match=said):
        read_golden(archive(tmp_path / "golden.npz", entries), manifest)


def test_a_missing_array_is_named(tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray]) -> None:
    entries = {key: npy(array) for key, array in golden.items() if key != OUTPUT}
    with pytest.raises(ParityError, match=f"it lacks {OUTPUT}"):
        read_golden(archive(tmp_path / "golden.npz", entries), manifest)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_numpy_does_not_pack_so_is_refused(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray], compression: int
) -> None:
    entries = {key: npy(array) for key, array in golden.items()}
    with pytest.raises(ParityError, match="is packed as numpy packs nothing"):
        read_golden(archive(tmp_path / "golden.npz", entries, compression), manifest)


def test_an_encrypted_archive_is_a_parity_error(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray]
) -> None:
    file = archive(tmp_path / "golden.npz", {key: npy(array) for key, array in golden.items()})
    content = bytearray(file.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + place] |= 1
    file.write_bytes(content)
    with pytest.raises(ParityError, match="encrypted"):
        read_golden(file, manifest)


def test_damaged_deflate_is_a_parity_error(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray]
) -> None:
    np.savez_compressed(tmp_path / "golden.npz", **golden)
    whole = (tmp_path / "golden.npz").read_bytes()
    for at in range(200, len(whole) - 200, len(whole) // 40):
        (tmp_path / "golden.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(ParityError):
            read_golden(tmp_path / "golden.npz", manifest)


def peak_bytes(file: Path, manifest: Manifest) -> int:
    tracemalloc.start()
    try:
        read_golden(file, manifest)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [2**11, pytest.param(2**14, marks=pytest.mark.soak)])
def test_gigabytes_of_deflated_zeros_are_left_out_unread(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray], side: int
) -> None:
    """A grid beyond the manifest's largest is no graph set's: nothing is unpacked."""
    entries = {key: npy(array) for key, array in golden.items()}
    with zipfile.ZipFile(tmp_path / "golden.npz", "w", zipfile.ZIP_DEFLATED) as written:
        for key, content in entries.items():
            written.writestr(f"{key}.npy", content)
        with written.open("bomb/encoder/input.npy", "w", force_zip64=True) as entry:
            entry.write(header(f"(1, {side}, {side}, 3)", "|u1"))
            for _ in range(3 * side * side // 2**20):
                entry.write(bytes(2**20))
        for key, content in entries.items():
            if key.startswith("photo0/") and key != "photo0/encoder/input":
                written.writestr(f"{key.replace('photo0', 'bomb')}.npy", content)
    assert peak_bytes(tmp_path / "golden.npz", manifest) < 20 * 2**20


def test_a_header_that_declares_more_than_the_entry_has_takes_no_memory(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray]
) -> None:
    entries = {key: npy(array) for key, array in golden.items()}
    entries["photo0/encoder/input"] = header("(1, 1024, 1024, 3)", "|u1")
    file = archive(tmp_path / "golden.npz", entries)
    tracemalloc.start()
    try:
        with pytest.raises(ParityError, match="which its bytes are not"):
            read_golden(file, manifest)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_images_of_other_shapes_than_the_graph_sets_are_left_out(tmp_path: Path) -> None:
    """Such as those of grids whose sets are gone. Where none is left, verify says so."""
    directory = write_static_toy(tmp_path / "toy", (64, 128))
    manifest = read_manifest(directory)
    assert read_golden(directory / "golden.npz", manifest) == {}  # they are 128×192
    assert list(read_golden(directory / "golden.npz")) == ["photo0", "photo1", "noise"]
    with pytest.raises(ParityError, match="No golden photo"):
        check_parity(directory, threads=1)


@pytest.mark.parametrize("stage", ["encoder", "unet", "decoder"])
def test_an_image_whose_stages_are_of_two_grids_is_left_out(
    tmp_path: Path, manifest: Manifest, golden: dict[str, np.ndarray], stage: str
) -> None:
    other = {
        k: npy(np.concatenate([v, v], axis=2)) for k, v in golden.items() if k == f"photo0/{stage}/input"
    }
    if stage == "encoder":
        other = {k: npy(np.concatenate([golden[k]] * 2, axis=1)) for k in other}
    entries = {key: npy(array) for key, array in golden.items()} | other
    found = read_golden(archive(tmp_path / "golden.npz", entries), manifest)
    assert list(found) == ["photo1", "noise"]


# --- as listed in a manifest ---


@pytest.mark.parametrize(
    ("name", "most"), [("golden.npz", GOLDEN_MAX_BYTES), ("graphs/fp32/unet.onnx", GRAPH_MAX_BYTES)]
)
def test_a_length_that_nobody_waits_for_is_refused_before_it_is_hashed(
    tmp_path: Path, name: str, most: int
) -> None:
    """A sparse file of a terabyte, listed as such: hashing it would take hours."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    manifest = read_manifest(directory)
    with (directory / name).open("r+b") as file:
        file.truncate(2**40)
    record = msgspec.structs.replace(manifest.files[name], bytes=2**40)
    with pytest.raises(ManifestError, match=rf"files\.{name}\.bytes is {2**40}, and .* at most {most}"):
        write_manifest(directory, msgspec.structs.replace(manifest, files={**manifest.files, name: record}))
    text = (directory / "manifest.json").read_text()
    listed = f'"bytes": {manifest.files[name].bytes}'
    assert text.count(listed) == 1
    (directory / "manifest.json").write_text(text.replace(listed, f'"bytes": {2**40}'))
    with pytest.raises(ManifestError, match="at most"):
        open_engine_dir(directory)


def test_values_that_verify_refuses_are_a_parity_error_there_too(
    tmp_path: Path, golden: dict[str, np.ndarray]
) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    archive(directory / "golden.npz", {k: npy(v) for k, v in golden.items()} | {OUTPUT: npy(np.array("x"))})
    manifest = read_manifest(directory)
    files = {**manifest.files, "golden.npz": hash_file(directory / "golden.npz")}
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ParityError, match=f"{OUTPUT} is of dtype"):
        check_parity(directory, threads=1)

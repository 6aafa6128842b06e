"""golden.npz that lie: another zip, other headers, other arrays; held against an engine as `verify` does."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import msgspec
import numpy as np

from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import MANIFEST_NAME, read_manifest
from fiffdepth_rt.verify import check_parity
from tests.fuzz.mutations import TEXTS, mutated_bytes
from tests.fuzz.trial import Kind
from tests.support.toy import toy_golden, write_toy_engine_dir

DTYPES = (
    "|O",
    "<U5",
    "|S3",
    "<c8",
    "|b1",
    "<M8[s]",
    "|V4",
    "<f2",
    "<f8",
    ">f4",
    "<i8",
    "|u1",
    "<f16",
    "nonsense",
)
SHAPES = (
    "()",
    "(0,)",
    "(-1,)",
    "(1, 128, 192)",
    "(4294967296, 4294967296)",
    "(1,) * 99",
    "None",
    "(" * 300,
    "(1.5,)",
)
PACKINGS = (*(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) * 4, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


class Fuzzed(Kind):
    def __init__(self, folder: Path) -> None:
        self._directory = write_toy_engine_dir(folder / "toy")
        self._manifest = read_manifest(self._directory)
        self._golden = {k: v for k, v in toy_golden().items() if not k.startswith("photo1")}

    def attempt(self, chance: random.Random) -> None:
        file = self._directory / "golden.npz"
        file.write_bytes(self._archive(chance))
        files = {**self._manifest.files, "golden.npz": hash_file(file)}
        manifest = msgspec.structs.replace(self._manifest, files=files)
        (self._directory / MANIFEST_NAME).write_text(manifest.to_json())  # faster than to disk and back
        check_parity(self._directory, threads=1)

    def _archive(self, chance: random.Random) -> bytes:
        entries = {f"{key}.npy": _npy(array) for key, array in self._golden.items()}
        for _ in range(chance.choice((0, 1, 1, 2))):
            self._mutate(entries, chance)
        made = io.BytesIO()
        packing = chance.choice(PACKINGS)
        with zipfile.ZipFile(made, "w", packing) as archive:
            for name, content in entries.items():
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=packing)
        return made.getvalue() if chance.random() < 0.6 else mutated_bytes(made.getvalue(), chance)

    def _mutate(self, entries: dict[str, bytes], chance: random.Random) -> None:
        name = chance.choice([name for name in sorted(entries) if name.removesuffix(".npy") in self._golden])
        array, how = self._golden[name.removesuffix(".npy")], chance.randrange(9)
        if how == 0:
            del entries[name]
        elif how == 1:
            entries[chance.choice([*TEXTS, "photo0/decoder/rounding", "photo0/x"]).replace("\ud800", "")] = (
                entries[name]
            )
        elif how == 2:
            entries[name] = _header(chance.choice(DTYPES), repr(array.shape)) + array.tobytes()
        elif how == 3:
            entries[name] = _header(array.dtype.str, chance.choice(SHAPES)) + array.tobytes()
        elif how == 4:
            entries[name] = mutated_bytes(entries[name], chance)
        elif how == 5:
            axis = chance.randrange(array.ndim)
            entries[name] = _npy(np.concatenate([array] * chance.choice((2, 4)), axis=axis))
        elif how == 6:
            values = array.astype(np.float32)
            values.flat[chance.randrange(values.size)] = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e9))
            entries[name] = _npy(values.astype(array.dtype) if array.dtype != np.uint8 else values)
        elif how == 7:
            entries[name] = _npy(
                chance.choice((array.T, array[..., ::2], array[0], array.ravel(), np.array(3.0)))
            )
        else:
            rounding = np.array(chance.choice(([1e-3, 1e-4, 1e-5], [1, 2, 3], [-1, 0, 0], [1], "abc")))
            entries["photo0/chain/rounding.npy"] = _npy(rounding)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _header(dtype: str, shape: str) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()

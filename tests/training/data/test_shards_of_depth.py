"""Promises about shards of depth: who trains on WebDataset tars reads them beside the photos."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

import fiffdepth_rt
from fiffdepth_rt.batch.shards import split_name
from fiffdepth_rt.program import program


def test_webdataset_reads_what_fiffdepth_batch_makes_of_a_shard(toy_dir: Path, tmp_path: Path) -> None:
    photos = {}
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "0.tar", "w") as tar:
        for key in ("k1", "x/k2"):
            photos[key] = np.random.default_rng(len(photos)).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(photos[key]).save(buffer, format="PNG")
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    words = [
        "batch",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--engine",
        str(toy_dir),
        "--format",
        "npy",
    ]
    assert CliRunner().invoke(program, words).exit_code == 0
    with (tmp_path / "out" / "0.tar").open("rb") as file:
        named = ({**one, "__url__": "0.tar"} for one in tar_file_iterator(file))
        samples = {sample["__key__"]: sample for sample in group_by_keys(named)}
    assert set(samples) == set(photos)
    with fiffdepth_rt.Depth(toy_dir) as depth:
        for key, photo in photos.items():
            values = np.load(io.BytesIO(samples[key]["depth.npy"]))
            np.testing.assert_array_equal(values, np.asarray(depth.infer(photo)))
            assert b"Convention" in samples[key]["depth.npy.json"]


def test_keys_are_those_of_webdataset() -> None:
    for name in ("a.jpg", "x/a.jpg", "x.y/a.depth.png", "a.", "A.B.C"):
        key, ending = base_plus_ext(name)
        assert split_name(name) == (key, f".{ending}")
    for name in ("a", "x.y/a"):
        assert base_plus_ext(name) == (None, None) and split_name(name) == (name, "")
    for name in (".hidden", "x/.hidden.png"):
        assert split_name(name) == ("", "")

"""Promises about `fiffdepth batch` on a Ray cluster. Those with a real cluster are long, and hence `soak`."""

from __future__ import annotations

import functools
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from click.testing import CliRunner, Result
from PIL import Image

import fiffdepth_rt
from fiffdepth_rt.batch import on_ray
from fiffdepth_rt.batch.output import Naming
from fiffdepth_rt.batch.photos import photos_in
from fiffdepth_rt.batch.places import LocalFolder
from fiffdepth_rt.batch.shards import Shards
from fiffdepth_rt.batch.work import Target
from fiffdepth_rt.cluster.names import Names
from fiffdepth_rt.errors import OutputError
from fiffdepth_rt.program import program
from tests.support.cluster.two_nodes import WARNS, killing, two_nodes

pytestmark = WARNS


def write_photos(folder: Path, count: int) -> None:
    for i in range(count):
        path = folder / f"{i % 3}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (150 + i % 7, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "junk.jpg").write_bytes(b"junk")


def write_shards(folder: Path, count: int, photos: int) -> None:
    folder.mkdir()
    for shard in range(count):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as tar:
            for i in range(photos):
                buffer = io.BytesIO()
                seed = 100 * shard + i
                pixels = np.random.default_rng(seed).integers(0, 256, (150, 200 + i % 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, format="PNG")
                member = tarfile.TarInfo(f"k{seed}.png")
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
            junk = tarfile.TarInfo("junk.jpg")
            junk.size = 4
            tar.addfile(junk, io.BytesIO(b"junk"))


def batch(engine: Path, *words: object) -> Result:
    settings = ["--engine", engine, "--size", 64, "--format", "png16,npy"]
    return CliRunner().invoke(program, ["batch", *map(str, (*settings, *words))])


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def as_columns(rows: list[dict]) -> dict[str, np.ndarray]:
    return {key: np.array([row[key] for row in rows], object) for key in rows[0]}


def target_in(folder: Path) -> Target:
    naming = Naming(whole=frozenset())
    return Target(folder=LocalFolder(folder), formats=("png16", "npy"), naming=naming, strict=False)


def test_an_actor_makes_the_files_that_one_process_makes_and_none_again(
    toy_dir: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 4)
    assert batch(toy_dir, tmp_path / "photos", tmp_path / "alone").exit_code == 1  # for junk.jpg
    folder = LocalFolder(tmp_path / "photos")
    photos = photos_in(folder, folder.files())
    rows = as_columns([on_ray._row_of(photos, False, i) for i in range(len(photos.names))])
    open_depth = functools.partial(fiffdepth_rt.Depth, toy_dir, size=64)
    with open_depth() as depth:
        made_of = depth.made_of()
    actor = on_ray.PhotoActor(open_depth, target_in(tmp_path / "shared"), made_of)
    told = actor(rows)
    made = files_in(tmp_path / "alone")
    reasons = {one["name"]: one["reason"] for one in json.loads(made.pop("skipped.json"))}
    del made["fiffdepth.json"]
    assert files_in(tmp_path / "shared") == made and len(made) == 12
    assert {os.fsdecode(n): os.fsdecode(r) for n, r in zip(told["name"], told["reason"], strict=True)} == {
        **dict.fromkeys((name for name in photos.names if name != "junk.jpg"), ""),
        **reasons,
    }
    (tmp_path / "shared" / "0" / "000_depth.npy").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.*")}
    assert list(actor(rows)["reason"]) == list(told["reason"])  # a task that runs again
    assert files_in(tmp_path / "shared") == made
    kept = {path for path, time_ns in times.items() if path.stat().st_mtime_ns == time_ns}
    assert {path.name for path in set(times) - kept} == {"000_depth.npy.json"}


def test_an_actor_makes_the_shards_that_one_process_makes(toy_dir: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 2, 3)
    assert batch(toy_dir, tmp_path / "in", tmp_path / "alone").exit_code == 1
    open_depth = functools.partial(fiffdepth_rt.Depth, toy_dir, size=64)
    with open_depth() as depth:
        made_of = depth.made_of()
    shards = Shards(folder=LocalFolder(tmp_path / "in"), names=Names(["00.tar", "01.tar"]))
    actor = on_ray.ShardActor(shards, open_depth, target_in(tmp_path / "shared"), made_of)
    alone = files_in(tmp_path / "alone")
    for _ in range(2):  # made; and found, as by the task of a worker that died before it could tell
        told = actor({"item": np.array([0, 1])})
        assert list(told["made"]) == [3, 3]
        assert [[one["name"] for one in json.loads(text)] for text in told["skipped"]] == [
            ["00.tar/junk"],
            ["01.tar/junk"],
        ]
        for name in ("00.tar", "01.tar", "00.skipped.json", "01.skipped.json"):
            assert (tmp_path / "shared" / name).read_bytes() == alone[name]


def test_a_machine_that_would_compute_differently_is_refused(toy_dir: Path, tmp_path: Path) -> None:
    open_depth = functools.partial(fiffdepth_rt.Depth, toy_dir, size=64)
    with fiffdepth_rt.Depth(toy_dir, size=128) as depth:
        made_of = depth.made_of()
    with pytest.raises(OutputError, match=r"would compute differently \(.*say --precision"):
        on_ray.PhotoActor(open_depth, target_in(tmp_path), made_of)


# ---- with a cluster ----


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with two_nodes(cpus=2) as address:
        yield address


@pytest.mark.soak
def test_a_worker_killed_midway_loses_and_doubles_no_result(
    address: str, toy_dir: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 240)
    alone = batch(toy_dir, tmp_path / "photos", tmp_path / "alone", "--threads", 1)
    assert alone.exit_code == 1 and "240 photos" in alone.stdout
    when_killed: list[int] = []

    def midway() -> bool:
        when_killed[:] = [len(list((tmp_path / "depth").rglob("*_depth.png")))]
        return when_killed[0] >= 20

    words = (tmp_path / "photos", tmp_path / "depth", "--ray", address, "--actors", 2)
    with killing("PhotoActor", when=midway) as killed:
        shared = batch(toy_dir, *words)
    assert shared.exit_code == 1, shared.output
    assert killed and 20 <= when_killed[0] < 240
    assert "240 photos" in shared.stdout and "1 skipped" in shared.stderr
    LocalFolder(tmp_path / "depth").sweep()  # what the killed one left half-written
    assert files_in(tmp_path / "depth") == files_in(tmp_path / "alone")
    again = batch(toy_dir, *words)
    assert "0 photos" in again.stdout and "240 photos were there already" in again.stdout


@pytest.mark.soak
def test_a_worker_killed_midway_loses_and_doubles_no_shard(
    address: str, toy_dir: Path, tmp_path: Path
) -> None:
    write_shards(tmp_path / "in", 8, 30)
    assert batch(toy_dir, tmp_path / "in", tmp_path / "alone", "--threads", 1).exit_code == 1
    words = (tmp_path / "in", tmp_path / "depth", "--ray", address, "--actors", 2)
    with killing("ShardActor", when=lambda: any((tmp_path / "depth").glob("*.tar"))) as killed:
        shared = batch(toy_dir, *words)
    assert killed and "240 photos" in shared.stdout and "8 skipped" in shared.stderr, shared.output
    LocalFolder(tmp_path / "depth").sweep()
    assert files_in(tmp_path / "depth") == files_in(tmp_path / "alone")


@pytest.mark.soak
def test_the_package_is_shipped_to_the_workers(address: str) -> None:
    """They run the copy, and not what lies where the command was given: it may be edited meanwhile."""
    from fiffdepth_rt.cluster.connecting import connected

    @ray.remote(num_cpus=0)
    def imported() -> str:
        from fiffdepth_rt.batch import on_ray as there

        return there.__file__

    with connected(address, packages=(fiffdepth_rt,)):
        where = ray.get(imported.remote())
    assert "working_dir_files" in where and where.endswith("fiffdepth_rt/batch/on_ray.py")


@pytest.mark.soak
def test_a_disk_that_refuses_on_a_worker_ends_the_run_with_its_reason(
    address: str, toy_dir: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 4)
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "1").write_text("a file where a folder has to be")
    result = batch(toy_dir, tmp_path / "photos", tmp_path / "depth", "--ray", address)
    assert result.exit_code == 1 and "cannot be made" in result.stderr
    assert "run the same command again" in result.stderr


@pytest.mark.soak
def test_a_cluster_for_this_machine_alone_comes_and_goes(toy_dir: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    result = batch(toy_dir, tmp_path / "photos", tmp_path / "depth", "--ray", "local")
    assert result.exit_code == 1 and "6 photos" in result.stdout, result.output
    assert not ray.is_initialized()

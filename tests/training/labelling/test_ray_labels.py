"""Promises about labels made on a Ray cluster. Those with a cluster are long, and hence `soak`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from fiffdepth_rt.cluster.photo_rows import Rows
from fiffdepth_rt.errors import ClusterError
from tests.support.cluster.two_nodes import WARNS, killing, two_nodes
from tests.support.listed_photos import Listed
from tests.support.tiny_teachers import save_depth_anything
from training.data.images import open_photos
from training.data.labels import LabelStore
from training.labelling import on_ray as ray_labels
from training.labelling import steps as labelling
from training.labelling.command import main
from training.labelling.teachers import open_teacher

pytestmark = WARNS


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Red:
    """A teacher of one line: disparity is the red channel plus one."""

    name, licence, output = "red", "CC0-1.0", "disparity"
    calls = 0

    def bucket(self, photo_hw: tuple[int, int]) -> tuple[int, int]:
        return photo_hw

    def __call__(self, photos: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        Red.calls += len(photos)
        return [photo[..., 0].astype(np.float32) + 1 for photo in photos]


def rows_of(photos: Listed) -> Rows:
    """All photos as one batch, as Ray Data hands it over."""
    rows = [ray_labels.row_of(photos, i) for i in range(len(photos))]
    return {key: np.array([row[key] for row in rows], object) for key in rows[0]}


def test_a_worker_makes_the_labels_that_one_machine_makes(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff.png")  # a name that is no text
    photos = Listed(
        {
            "a/b.png": noise(40, 50, 0),
            odd: noise(40, 50, 1),
            "bad": None,
            "flat": np.zeros((9, 9, 3), np.uint8),
        }
    )
    header = labelling.header_for(Red(), space="depth", dtype="uint16")
    alone = LabelStore.create(tmp_path / "alone", header)
    shared = LabelStore.create(tmp_path / "shared", header)
    tally = labelling.label_photos(photos, Red(), alone)
    told = ray_labels.Labeller(Red, str(shared.folder), 4)(rows_of(photos))
    assert list(alone) == list(shared) == ["a/b.png", odd]
    for name in alone:
        assert alone.path(name).read_bytes() == shared.path(name).read_bytes()
    reasons = {os.fsdecode(n): os.fsdecode(r) for n, r in zip(told["name"], told["reason"], strict=True)}
    assert reasons == {"a/b.png": "", odd: "", **{one.name: one.reason for one in tally.skipped}}


def test_a_task_that_runs_again_makes_no_label_again(tmp_path: Path) -> None:
    photos = Listed({str(i): noise(40, 50, i) for i in range(6)})
    store = LabelStore.create(tmp_path, labelling.header_for(Red(), space="depth", dtype="uint16"))
    worker = ray_labels.Labeller(Red, str(tmp_path), 2)
    worker(rows_of(photos))
    store.path("4").unlink()
    before = Red.calls
    told = worker(rows_of(photos))
    assert (Red.calls - before, list(told["reason"])) == (1, [b""] * 6)
    assert list(store) == list("012345")


# ---- with a cluster ----


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with two_nodes(cpus=2) as address:
        yield address


@pytest.fixture(scope="module")
def da(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_anything(tmp_path_factory.mktemp("weights") / "tiny-da")


@pytest.mark.soak
def test_a_worker_killed_midway_loses_and_doubles_no_label(address: str, da: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(240):
        height, width = ((300, 400), (400, 300), (300, 300))[i % 3]
        Image.fromarray(noise(height, width, i)).save(photos / f"{i:03d}.png")
    (photos / "junk.jpg").write_bytes(b"junk")
    out = tmp_path / "labels"
    when_killed: list[int] = []

    def midway() -> bool:
        when_killed[:] = [len(list(out.glob("*.png")))]
        return when_killed[0] >= 20

    words = ["--images", photos, "--teacher", da, "--out", out, "--ray", address, "--actors", 2, "--batch", 2]
    with killing("Labeller", when=midway) as killed:
        result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    assert killed and when_killed[0] < 240
    assert "240 labels made, 0 were there, 1 skipped" in result.stdout
    store = LabelStore(out)
    assert list(store) == [f"{i:03d}.png" for i in range(240)]
    store.sweep()
    others = {path.name for path in out.rglob("*")} - {store.path(name).name for name in store}
    assert others == {"header.json", "lock", "skipped.json"}
    alone = LabelStore.create(tmp_path / "alone", store.header)
    teacher = open_teacher(str(da))
    labelling.label_photos(open_photos(photos), teacher, alone)
    for name in alone:
        np.testing.assert_allclose(store.picture(name)[0], alone.picture(name)[0], atol=2e-3)
    again = CliRunner().invoke(main, list(map(str, words)))
    assert "0 labels made, 240 were there, 1 skipped" in again.stdout


@pytest.mark.soak
def test_the_package_is_shipped_to_the_workers(address: str) -> None:
    """They run the copy, and not what lies where the command was given: it may be edited meanwhile."""

    @ray.remote(num_cpus=0)
    def imported() -> str:
        from training.labelling import on_ray as there

        return there.__file__

    with ray_labels.cluster(address):
        where = ray.get(imported.remote())
    assert "working_dir_files" in where and where.endswith("training/labelling/on_ray.py")


def broken_teacher() -> Red:
    raise ValueError("no weights on this machine")


@pytest.mark.soak
def test_a_teacher_that_fails_on_the_workers_stops_the_run_with_its_reason(
    address: str, tmp_path: Path
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    store = LabelStore.create(tmp_path, labelling.header_for(Red(), space="depth", dtype="uint16"))
    try:
        with (
            ray_labels.cluster(address),
            pytest.raises(ClusterError, match=r"no weights on this machine.*run the same command again"),
        ):
            ray_labels.label_on_cluster(Listed({"a": noise(40, 50, 0)}), broken_teacher, store)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

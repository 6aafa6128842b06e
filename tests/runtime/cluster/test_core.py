"""Promises about what all work on a cluster shares. Those with a real cluster are beside this file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fiffdepth_rt.cluster.connecting import connected
from fiffdepth_rt.cluster.photo_rows import Read, from_rows, outcome, outcomes, to_row
from fiffdepth_rt.cluster.progress import Progress
from fiffdepth_rt.cluster.sharing import READING_CPUS, Share, share_of
from fiffdepth_rt.cluster.tally import Skipped, report
from fiffdepth_rt.errors import ClusterError

ODD = os.fsdecode(b"\xff.png")  # a name that is no text


@pytest.mark.parametrize("actors", [None, 1, 2, 3, 8, 64])
@pytest.mark.parametrize("cpus", [1, 2, 3, 16])
def test_however_many_actors_there_are_a_task_that_reads_finds_a_core(cpus: int, actors: int | None) -> None:
    share = share_of(cpus, 0, actors)
    assert share.actors == (actors or max(1, cpus // 2)) and share.gpus == 0
    assert 0 < share.cpus <= 0.5 and share.cpus * share.actors <= cpus - READING_CPUS
    assert share.threads == max(1, cpus // share.actors)
    assert share.cpus != READING_CPUS  # else both become one task


def test_on_gpus_each_actor_has_one_and_leaves_the_cores_alone() -> None:
    assert share_of(16, 4) == Share(actors=4, cpus=0, gpus=1, threads=None) == share_of(16, 4, 9)
    assert share_of(16, 4, 2) == Share(actors=2, cpus=0, gpus=1, threads=None)


def test_photos_and_reasons_come_out_of_rows_as_they_went_in() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    bad = Skipped(name="bad", reason="damaged")
    rows = [to_row(one) for one in (Read(name=ODD, pixels=pixels), bad)]
    columns = {key: np.array([row[key] for row in rows], object) for key in rows[0]}
    good, same = from_rows(columns)
    assert isinstance(good, Read) and good.name == ODD and same == bad
    np.testing.assert_array_equal(good.pixels, pixels)
    told = outcomes(columns, [bad])
    assert [outcome({key: told[key][i] for key in told}) for i in range(2)] == [None, bad]


def test_the_report_is_sorted_json_whatever_the_names() -> None:
    skipped = [Skipped(name=ODD, reason="damaged"), Skipped(name="a", reason="too small")]
    assert json.loads(report(skipped)) == [
        {"name": "a", "reason": "too small"},
        {"name": ODD, "reason": "damaged"},
    ]


def test_progress_says_how_far_how_fast_and_how_long_still() -> None:
    lines: list[str] = []
    with Progress("shards", unit="shard", total=4, each="photo", line=lines.append) as progress:
        assert progress.sentence() == "shards: 0 of 4 shards"
        progress.update(counted=900)
        progress.update(counted=100)
        said = progress.sentence()
    assert said.startswith("shards: 2 of 4 shards, ") and " photos/s, 0:00:0" in said
    assert said.endswith(" left") and lines == []  # not yet time for a line


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_without_a_cluster_says_how_to_get_one(address: str) -> None:
    with pytest.raises(ClusterError, match=r"refused.*ray start --head"), connected(address, packages=()):
        pass


def test_a_folder_whose_name_is_too_long_for_sockets_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    (tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    with (
        pytest.raises(ClusterError, match="set TMPDIR to a folder with room and a short name"),
        connected("local", packages=()),
    ):
        pass
    assert list((tmp_path / ("x" * 100)).iterdir()) == []

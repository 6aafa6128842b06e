"""Promises about scoring on a Ray cluster: a worker that is killed in the middle changes no number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks import accuracy
from benchmarks.evaluation import on_ray
from tests.support import tiny_sets
from tests.support.cluster.two_nodes import WARNS, killing, two_nodes
from tests.support.tiny_sets import NYUV2

pytestmark = WARNS
COUNT = 120


class Halves:
    def open(self):
        return lambda index: index / 2


def test_an_actor_answers_each_index_with_its_result() -> None:
    import pickle

    rows = on_ray.Worker(Halves())({"item": np.array([4, 7])})
    assert rows["index"].tolist() == [4, 7]
    assert [pickle.loads(result) for result in rows["result"]] == [2, 3.5]


def test_an_address_without_a_cluster_says_how_to_get_one(tmp_path: Path) -> None:
    tiny_sets.write(NYUV2, tmp_path)
    words = ["--data", tmp_path, "--datasets", "nyuv2", "--subset", "--model", "ramp", "--ray", "127.0.0.1:1"]
    ended = CliRunner().invoke(accuracy.main, [str(word) for word in words])
    assert ended.exit_code == 1 and "ray start --head" in ended.stderr


@pytest.mark.soak
def test_a_worker_killed_midway_changes_no_number(tmp_path: Path) -> None:
    tiny_sets.write(NYUV2, tmp_path)
    listed = tmp_path / "data_split" / NYUV2.list_name
    listed.write_text("\n".join(NYUV2.lines[i % 2] for i in range(COUNT)) + "\n")
    words = ["--data", tmp_path, "--datasets", "nyuv2", "--subset", "--model", "ramp", "--out"]

    def scored(out: str, *more: str) -> tuple[Result, dict]:
        ended = CliRunner().invoke(accuracy.main, [str(word) for word in (*words, tmp_path / out, *more)])
        assert ended.exit_code == 0, ended.output
        return ended, json.loads((tmp_path / out / "result.json").read_text())["scores"]

    _, alone = scored("alone")
    # A second: in the middle of its work.
    with two_nodes(cpus=1) as address, killing("Worker", after_s=1) as killed:
        _, shared = scored("shared", "--ray", address)
    assert killed and shared == alone
    assert shared["marigold"]["nyuv2"][0]["images"] == COUNT

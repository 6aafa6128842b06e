"""Promises about scoring on a Ray cluster: a worker that is killed in the middle changes no number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("ray", reason="ray is not installed (pip install 'fiffdepth-rt[ray]')")

from ray.cluster_utils import Cluster

from benchmarks import accuracy
from benchmarks.evaluation import on_ray
from tests.support import tiny_sets
from tests.support.tiny_sets import NYUV2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
COUNT = 120


class Halves:
    def open(self):
        return lambda index: index / 2


def test_an_actor_answers_each_index_with_its_result() -> None:
    import pickle

    rows = on_ray.Worker(Halves())({"data": np.array([4, 7])})
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
    folder, before = tempfile.mkdtemp(prefix="ray-"), dict(os.environ)
    os.environ.update(RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    killed, over = [], threading.Event()

    def kill_one() -> None:
        while not killed and not over.wait(0.05):
            for process in psutil.process_iter(["cmdline"]):
                if any("MapBatches(Worker)" in word for word in process.info["cmdline"] or ()):
                    time.sleep(1)  # in the middle of its work
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
                    break

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        _, shared = scored("shared", "--ray", cluster.address)
    finally:
        over.set()
        killer.join()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)
    assert killed and shared == alone
    assert shared["marigold"]["nyuv2"][0]["images"] == COUNT

"""Promises of kernels that are kept for the next start, and of captures that the library is asked about.

On the stand-in: whether TensorRT for RTX itself takes and gives what it should, only a GPU can tell. That it
has the names, with these arguments, is asked of the library.
"""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fiffdepth_rt
from fiffdepth_rt.backends.tensorrt import runtime_cache
from fiffdepth_rt.backends.tensorrt.runtime_cache import COMPILED, KEPT
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import read_manifest
from fiffdepth_rt.gpu.cuda import Gpu
from fiffdepth_rt.program import program
from tests.support.cuda_stand_in import Cuda
from tests.support.plans import RTX, as_plan, edit, graph_in, image
from tests.support.toy import toy_depth


def kept() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return sorted((folder / "kernels").glob("*.bin"))


def started(directory: Path, card: Cuda) -> tuple[str, int]:
    """Where the kernels of a start came from, and how many plans were compiled, when a frame was right."""
    card.compiled = 0
    with fiffdepth_rt.Depth(directory, backend="tensorrt-rtx") as depth:
        np.testing.assert_allclose(depth.infer(image(1)), toy_depth(image(1)[None])[0], atol=1e-6)
        return depth.describe()["engine"]["kernels"], card.compiled


# --- what is kept ---


def test_kernels_are_compiled_at_the_first_start_and_kept_for_the_next(
    portable: Path, card: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fiffdepth_rt.tensorrt"):
        assert started(portable, card) == (COMPILED, 3)  # the golden check and the three stages share them
    assert sum("compiling for this GPU (NVIDIA GeForce RTX 4090)" in line for line in caplog.messages) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "fiffdepth_rt.tensorrt"):
        assert started(portable, card) == (KEPT, 0)
    assert not [line for line in caplog.messages if "compiling" in line]
    assert len(kept()) == 1 and card.left_over() == (0, 0, 0, 0)


def test_kernels_of_a_lane_are_kept_when_its_first_frame_ran_and_not_by_closing_alone(
    portable: Path, card: Cuda
) -> None:
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx"):
        pass
    for file in kept():  # of the golden check
        file.unlink()
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx") as depth:
        assert kept() == []
        depth.infer(image())
        (file,) = kept()
        before = file.stat().st_mtime_ns
        for _ in range(3):
            depth.infer(image())
    assert file.stat().st_mtime_ns == before  # nothing new: nothing written


def test_a_card_a_driver_and_a_library_have_kernels_of_their_own(portable: Path, card: Cuda) -> None:
    assert started(portable, card)[0] == COMPILED
    for change in ("card", "driver", "directory"):
        directory = portable
        if change == "card":
            card.gpus = (("NVIDIA GeForce RTX 5090", 12, 0),)
        elif change == "driver":
            card.driver = 14000
        else:
            directory = Path(shutil.copytree(portable, portable.parent / "copy"))
        assert started(directory, card)[0] == COMPILED, change
        assert started(directory, card) == (KEPT, 0), change
    assert len(kept()) == 4
    card.driver = 14010  # another minor version
    assert started(portable, card)[0] == KEPT
    gpu = Gpu(name="A", compute_capability="8.9", driver_cuda="13.0")
    keys = {runtime_cache.key(portable, gpu, release) for release in ("RTX 1.7.1.116", "RTX 1.7.2.1")}
    assert len(keys) == 2


def test_kernels_of_plans_that_were_built_again_are_not_used(portable: Path, card: Cuda) -> None:
    started(portable, card)
    manifest = read_manifest(portable)
    name = manifest.plans[0].file
    plan = portable / name
    graph = graph_in(plan.read_bytes()) + b"\x72\x00"  # an empty field: the same graph, another file
    plan.write_bytes(as_plan(graph, RTX))
    edit(portable, files={**manifest.files, name: hash_file(plan)})
    assert started(portable, card) == (COMPILED, 3)
    assert started(portable, card) == (KEPT, 0)
    assert len(kept()) == 1


# --- the program ---


def said(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(program, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.output


def test_build_warm_on_the_card_fills_the_cache(portable: Path, card: Cuda) -> None:
    build = ("build", portable, "--flavour", "rtx", "--precision", "fp32", "--grid", "128x192", "--warm")
    assert "kernels of fp32: compiled here; opened and run once in" in said(*build)
    assert started(portable, card) == (KEPT, 0)
    assert "kernels of fp32: kept from before" in said(*build)


def test_build_warm_is_refused_before_anything_is_built_where_it_has_no_meaning(
    portable: Path, card: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_no = said("build", portable, "--warm", status=1)
    assert "--warm is for --flavour rtx: TensorRT's plans hold kernels that are compiled already." in said_no
    monkeypatch.setenv("FIFFDEPTH_CACHE", "off")
    words = ("build", portable, "--flavour", "rtx", "--warm")
    assert "set FIFFDEPTH_CACHE to a folder" in said(*words, status=1)
    monkeypatch.delenv("FIFFDEPTH_CACHE")
    card.driver = 0
    assert "no driver of an NVIDIA GPU" in said(*words, status=1)
    assert read_manifest(portable).plans[0].checked is False


def test_bench_gives_the_time_to_the_first_map_with_kernels_compiled_and_kept(
    portable: Path, card: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx") as depth:
        depth.infer(image())
    card.compiled = 0
    text = said("bench", portable, "--backend", "tensorrt-rtx", "--photo", "128x192", "--runs", 1)
    assert card.compiled == 3  # once, with what was kept deleted
    starts = json.loads(text.splitlines()[-1])["start_ms"]
    assert list(starts) == ["compiled", "kept"] and all(ms > 0 for ms in starts.values())
    assert f"From opening to the first depth map, with kernels compiled: {starts['compiled']:.0f} ms." in text
    assert started(portable, card) == (KEPT, 0)
    monkeypatch.setenv("FIFFDEPTH_CACHE", "off")
    text = said("bench", portable, "--backend", "tensorrt-rtx", "--photo", "128x192", "--runs", 1)
    assert json.loads(text.splitlines()[-1])["start_ms"] == {} and "with kernels" not in text


# --- what goes wrong with the file ---


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "longer", "foreign", "another's"])
def test_damaged_kernels_never_reach_the_library_and_are_compiled_again(
    portable: Path, card: Cuda, damage: str
) -> None:
    started(portable, card)
    (file,) = kept()
    content = file.read_bytes()
    file.write_bytes(
        {
            "flipped": content[:40] + bytes([content[40] ^ 1]) + content[41:],
            "cut": content[: len(content) // 2],
            "empty": b"",
            "longer": content + b"x",
            "foreign": b"x" * 1000,
            # whole, and sealed for other plans
            "another's": runtime_cache._seal(content[32:], ["other"]) + content[32:],
        }[damage]
    )
    assert started(portable, card) == (COMPILED, 3)  # the stand-in's library would die of damaged bytes
    assert file.read_bytes() == content
    assert started(portable, card) == (KEPT, 0)


def test_kernels_that_the_library_does_not_take_are_compiled_again(
    portable: Path, card: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(portable, card)
    monkeypatch.setattr("tests.support.gpu_stand_in._LibraryCache.deserialize", lambda self, blob: False)
    assert started(portable, card) == (COMPILED, 3)


def test_without_a_place_to_keep_them_kernels_are_compiled_at_every_start(
    portable: Path, card: Cuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in ("off", str(tmp_path / "file" / "folder")):
        monkeypatch.setenv("FIFFDEPTH_CACHE", folder)
        for _ in range(2):
            assert started(portable, card) == (COMPILED, 3)


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    file, contents = tmp_path / "kernels" / "a.bin", [bytes([i]) * 100_000 for i in range(8)]
    writers = [
        threading.Thread(target=runtime_cache.write, args=(file, content, ["seal"])) for content in contents
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert runtime_cache.read(file, ["seal"]) in contents
    assert {path.name for path in file.parent.iterdir()} <= {"a.bin", "a.lock"}


# --- captures ---


def test_a_context_that_cannot_be_captured_runs_plainly_and_says_so_once(
    portable: Path, card: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    card.capturable = False
    with fiffdepth_rt.Depth(portable, backend="tensorrt-rtx") as depth:
        for seed in range(4):
            found = depth.infer(image(seed))
            np.testing.assert_allclose(found, toy_depth(image(seed)[None])[0], atol=1e-6)
        said = depth.describe()["cuda_graph"]
    assert said == "off: the library cannot have encoder, unet, decoder captured, work is enqueued plainly"
    assert caplog.messages.count(f"CUDA graph {said}") == 1 and card.launches == 0


# --- the library's own names ---


def test_the_library_has_these_calls_with_these_arguments() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="its wheels are not for here")
    ours = "tensorrt_rtx_bindings.tensorrt_rtx"
    for call, signature in (
        (trt.ICudaEngine.create_runtime_config, "(self: {}.ICudaEngine) -> {}.IRuntimeConfig"),
        (trt.IRuntimeConfig.create_runtime_cache, "(self: {}.IRuntimeConfig) -> "),
        (trt.IRuntimeConfig.set_runtime_cache, "(self: {}.IRuntimeConfig, cache: "),
        (trt.IRuntimeCache.serialize, "(self: {}.IRuntimeCache) -> {}.IHostMemory"),
        (trt.IRuntimeCache.deserialize, "(self: {}.IRuntimeCache, blob: "),
        (trt.IExecutionContext.is_stream_capturable, "(self: {}.IExecutionContext, stream: "),
    ):
        assert inspect.getdoc(call).startswith(call.__name__ + signature.replace("{}", ours))
    for call in (trt.IRuntimeConfig.set_runtime_cache, trt.IRuntimeCache.deserialize):
        assert ") -> bool" in inspect.getdoc(call)
    contexts = inspect.getdoc(trt.ICudaEngine.create_execution_context)
    assert f"runtime_config: {ours}.IRuntimeConfig" in contexts
    assert isinstance(trt.IRuntimeConfig.cuda_graph_strategy, property)
    assert trt.CudaGraphStrategy.DISABLED and trt.ExecutionContextAllocationStrategy.USER_MANAGED

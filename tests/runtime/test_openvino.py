"""Promises of the OpenVINO backend: the same depth as the plain twin and as ONNX Runtime, or an error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

import fiffdepth_rt
from fiffdepth_rt import verify
from fiffdepth_rt.backends.openvino import backend as openvino
from fiffdepth_rt.backends.openvino.cache import COPIES
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.checking import open_engine_dir
from fiffdepth_rt.engine_dir.known_hashes import hash_file
from fiffdepth_rt.engine_dir.manifest import BUNDLED, STAGES, read_manifest
from fiffdepth_rt.errors import (
    BackendUnavailableError,
    GraphError,
    InferenceError,
    ParityError,
    StageMismatchError,
)
from fiffdepth_rt.program import program
from tests.support.plans import edit
from tests.support.toy import toy_depth, write_static_toy, write_toy_engine_dir


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_it_says_that_it_is_usable() -> None:
    usability = openvino.usable()
    assert usability.usable
    assert usability.versions["openvino"]


def test_the_toy_engine_computes_what_its_twin_computes(toy_dir: Path) -> None:
    image = noise(192, 256, 3)
    with fiffdepth_rt.Depth(toy_dir, backend="openvino") as depth:
        assert depth.describe()["backend"] == "openvino"
        np.testing.assert_allclose(depth.infer(image), toy_depth(image[None])[0], atol=1e-6)


CLOSE_AND_SIGNAL = """
import gc, os, signal, sys, threading
import numpy as np
import fiffdepth_rt

def close_first():
    opened.pop(0).close()
    gc.collect()

signal.signal(signal.SIGUSR1, lambda *_: print("caught"))
opened = [fiffdepth_rt.Depth(sys.argv[1], backend="openvino") for _ in range(2)]
for depth in opened:
    depth.infer(np.zeros((64, 64, 3), np.uint8))
del depth
closer = threading.Thread(target=close_first)
closer.start()
closer.join()
close_first()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_closing_in_any_order_and_thread_is_caught(toy_dir: Path) -> None:
    command = [sys.executable, "-c", CLOSE_AND_SIGNAL, str(toy_dir)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "caught\n"), ended.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_nano_agrees_with_the_torch_reference(stage: str) -> None:
    with np.load(BUNDLED / "golden.npz", allow_pickle=False) as golden:
        value, expected = golden[f"photo0/{stage}/input"], golden[f"photo0/{stage}/output"]
    with fiffdepth_rt.Depth(backend="openvino") as depth:
        run = (
            depth.backend.run_unclipped if stage == "decoder" else lambda v: depth.backend.run_stage(stage, v)
        )
        np.testing.assert_allclose(run(value), expected, atol=1e-4, rtol=0)


def test_threads_at_once_and_batches_give_the_same_bits_as_one_photo(toy_dir: Path) -> None:
    images = [noise(128, 192, 3, seed=i) for i in range(8)]
    with fiffdepth_rt.Depth(toy_dir, backend="openvino") as depth:
        alone = [depth.infer(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(depth.infer, images))
        batch = depth.infer_batch(images)
    for a, b, c in zip(alone, together, batch, strict=True):
        assert np.array_equal(a, b)
        np.testing.assert_allclose(a, c, atol=1e-5)


def test_another_device_than_the_cpu_is_refused(toy_dir: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="device='cpu'"):
        fiffdepth_rt.Depth(toy_dir, backend="openvino", device="cuda")


def test_a_graph_that_openvino_cannot_read_is_named(toy_dir: Path, tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "cut")
    graph = directory / "graphs" / "fp32" / "unet.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Mul", b"Pad"))  # with inputs that are none of its
    _vouch_for(directory, "graphs/fp32/unet.onnx")
    with pytest.raises(GraphError, match=r"OpenVINO cannot read .*unet\.onnx"):
        fiffdepth_rt.Depth(directory, backend="openvino")


def test_a_graph_with_other_tensors_than_the_manifest_lists_is_refused(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "swapped")
    graphs = directory / "graphs" / "fp32"
    (graphs / "unet.onnx").write_bytes((graphs / "encoder.onnx").read_bytes())
    _vouch_for(directory, "graphs/fp32/unet.onnx")
    with pytest.raises(StageMismatchError, match="fp32/unet takes"):
        fiffdepth_rt.Depth(directory, backend="openvino")


def test_a_graph_whose_shapes_do_not_fit_together_is_refused_before_it_runs(tmp_path: Path) -> None:
    """OpenVINO multiplies 192×256 by 8×8 beyond its buffers; the next directory's graph then crashed."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    graph = directory / "graphs" / "fp32" / "encoder.onnx"
    model = onnx.load(graph)
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    conv.op_type = "Mul"
    onnx.save(model, graph)
    _vouch_for(directory, "graphs/fp32/encoder.onnx")
    with pytest.raises(StageMismatchError, match=r"encoder gives latent as \[4,3,8,8\]; the manifest lists"):
        fiffdepth_rt.Depth(directory, backend="openvino")


def test_a_tensor_without_a_type_is_refused(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "toy")
    graph = directory / "graphs" / "fp32" / "unet.onnx"
    model = onnx.load(graph)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    onnx.save(model, graph)
    _vouch_for(directory, "graphs/fp32/unet.onnx")
    with pytest.raises(StageMismatchError, match=r"unet takes .*'dynamic'"):
        fiffdepth_rt.Depth(directory, backend="openvino")


def test_an_output_behind_a_cast_keeps_its_name(tmp_path: Path) -> None:
    """OpenVINO removes casts from and to fp16; the tensors around one are then a single one, of two names."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    graph = directory / "graphs" / "fp32" / "encoder.onnx"
    model = onnx.load(graph)
    half, back = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    (kernel,) = (one for one in model.graph.initializer if one.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel).astype(np.float16), "kernel"))
    conv = model.graph.node[-1]
    signed = conv.input[0]
    conv.input[0], conv.output[0] = "a_signed", "a_conv"
    model.graph.node.insert(
        len(model.graph.node) - 1, onnx.helper.make_node("Cast", [signed], ["a_signed"], to=half)
    )
    model.graph.node.append(onnx.helper.make_node("Cast", ["a_conv"], ["latent"], to=back))
    onnx.save(model, graph)
    edit(directory, files={**read_manifest(directory).files, "graphs/fp32/encoder.onnx": hash_file(graph)})
    image = noise(192, 256, 3)
    with fiffdepth_rt.Depth(directory, backend="openvino") as depth:
        np.testing.assert_allclose(depth.infer(image), toy_depth(image[None])[0], atol=2e-3)


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_tensor_that_openvino_knows_by_several_names_is_found_by_the_manifest_s(
    tmp_path: Path, half: int
) -> None:
    """It drops casts that it need not compute: fp16's everywhere, bf16's where a CPU has no units for it."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    for stage, end in (("encoder", "latent"), ("unet", "depth_latent"), ("decoder", "depth")):
        name = f"graphs/fp32/{stage}.onnx"
        model = onnx.load(directory / name)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["whole" if one == end else one for one in names]
        model.graph.node.append(onnx.helper.make_node("Cast", ["whole"], ["narrow"], to=half))
        model.graph.node.append(onnx.helper.make_node("Cast", ["narrow"], [end], to=TensorProto.FLOAT))
        onnx.save(model, directory / name)
        _vouch_for(directory, name)
    image = noise(128, 192, 3)
    with fiffdepth_rt.Depth(directory, backend="openvino", size=192, threads=1) as depth:
        np.testing.assert_allclose(depth.infer(image), toy_depth(image[None])[0], atol=0.01)


def test_after_close_it_says_so(toy_dir: Path) -> None:
    depth = fiffdepth_rt.Depth(toy_dir, backend="openvino")
    depth.close()
    with pytest.raises(InferenceError, match="closed"):
        depth.infer(noise(64, 64, 3))


# --- what was compiled is kept ---


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FIFFDEPTH_CACHE", str(folder))
    return folder


def _from_cache(depth: fiffdepth_rt.Depth) -> list[bool]:
    """Of each stage, whether its compiled model was loaded."""
    (opened,) = depth.backend.opened()  # type: ignore[attr-defined]
    return [model.get_property("LOADED_FROM_CACHE") for model in opened.stages.values()]


def _opened(directory: Path) -> tuple[np.ndarray, list[bool]]:
    with fiffdepth_rt.Depth(directory, backend="openvino", threads=1) as depth:
        return depth.infer(noise(64, 64, 3)), _from_cache(depth)


def test_the_second_opening_takes_what_the_first_one_compiled(toy_dir: Path, cache: Path) -> None:
    before = sorted(path.name for path in toy_dir.rglob("*"))
    first, cached = _opened(toy_dir)
    assert cached == [False] * 3
    second, cached = _opened(toy_dir)
    assert cached == [True] * 3
    np.testing.assert_array_equal(first, second)
    assert sorted(path.name for path in toy_dir.rglob("*")) == before  # nothing in the engine directory


def _cut(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])


def _flip(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[len(content) * 3 // 4] ^= 0xFF
    blob.write_bytes(bytes(content))


def _unseal(blob: Path) -> None:
    (blob.parent / "seal.json").write_text("{")


@pytest.mark.parametrize("damage", [_cut, _flip, _unseal, Path.unlink, lambda blob: blob.write_bytes(b"")])
def test_a_damaged_cache_is_compiled_again(toy_dir: Path, cache: Path, damage: Callable[[Path], Any]) -> None:
    expected, _ = _opened(toy_dir)
    blobs = list(cache.rglob("*.blob"))
    assert len(blobs) == 3
    for blob in blobs:
        damage(blob)
    result, cached = _opened(toy_dir)
    assert cached == [False] * 3
    np.testing.assert_array_equal(result, expected)
    assert _opened(toy_dir)[1] == [True] * 3


def test_another_export_of_the_same_name_is_not_taken_for_the_cached_one(tmp_path: Path, cache: Path) -> None:
    first = write_toy_engine_dir(tmp_path / "toy", shift=0.0)
    _opened(first)
    shutil.rmtree(first)
    second = write_toy_engine_dir(tmp_path / "toy", shift=0.25)
    with fiffdepth_rt.Depth(second, backend="onnxruntime") as depth:
        np.testing.assert_allclose(_opened(second)[0], depth.infer(noise(64, 64, 3)), atol=1e-6)


def test_copies_of_a_directory_keep_what_was_compiled_of_each(
    toy_dir: Path, tmp_path: Path, cache: Path
) -> None:
    """OpenVINO names a blob by the graph's path: one copy's was swept out by the next one's."""
    copies = [Path(shutil.copytree(toy_dir, tmp_path / f"copy{n}")) for n in range(COPIES + 1)]
    for copy in copies:
        assert _opened(copy)[1] == [False] * 3
    assert [_opened(copy)[1] for copy in copies[1:]] == [[True] * 3] * COPIES
    assert len(list(cache.rglob("seal.json"))) == 3 * COPIES  # of three stages; the oldest went


_AT_ONCE = """
import random, sys, time
from pathlib import Path
import numpy as np
import fiffdepth_rt

engine, began, others = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
(began / sys.argv[4]).touch()
while len(list(began.iterdir())) < others:
    time.sleep(0.001)
time.sleep(0.1 * random.random())
with fiffdepth_rt.Depth(engine, backend="openvino", threads=1) as depth:
    print(float(depth.infer(np.full((64, 64, 3), 90, np.uint8)).values.mean()))
"""


@pytest.mark.soak
def test_processes_that_open_a_directory_at_once_disturb_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nano, 12 times by four processes: one emptied the folder that another was writing to."""
    said = set()
    for round_ in range(12):
        monkeypatch.setenv("FIFFDEPTH_CACHE", str(tmp_path / f"cache{round_}"))
        (began := tmp_path / f"began{round_}").mkdir()
        words = [sys.executable, "-c", _AT_ONCE, str(BUNDLED), str(began), "4"]
        started = [
            subprocess.Popen([*words, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for n in range(4)
        ]
        for process in started:
            out, errors = process.communicate(timeout=300)
            assert process.returncode == 0, (round_, process.returncode, errors[-2000:])
            said.add(out)
        assert len(list((tmp_path / f"cache{round_}").rglob("seal.json"))) == 3
    assert len(said) == 1


def test_what_goes_wrong_in_the_cache_is_no_reason_not_to_open(
    toy_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        """OpenVINO where it cannot finish a blob."""

        def compile_model(self, graph: str, device: str, config: dict[str, Any]) -> Any:
            if "CACHE_DIR" in config:
                raise RuntimeError("filesystem error: cannot set permissions: No such file or directory")
            return core.compile_model(graph, device, config)

    core = openvino._core()
    monkeypatch.setattr(openvino, "_core", Refusing)
    values, cached = _opened(toy_dir)
    assert cached == [False] * 3
    with fiffdepth_rt.Depth(toy_dir, backend="onnxruntime") as depth:
        np.testing.assert_allclose(values, depth.infer(noise(64, 64, 3)), atol=1e-6)
    assert not list(cache.rglob("seal.json"))


def test_the_cache_can_be_switched_off_and_describe_says_where_it_is(
    toy_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fiffdepth_rt.Depth(toy_dir, backend="openvino") as depth:
        assert depth.describe()["engine"]["cache"] == str(cache / "openvino")
    monkeypatch.setenv("FIFFDEPTH_CACHE", "off")
    with fiffdepth_rt.Depth(toy_dir, backend="openvino") as depth:
        assert depth.describe()["engine"]["cache"] == "off"
        assert _from_cache(depth) == [False] * 3


def test_a_cache_that_cannot_be_written_is_no_error(
    toy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIFFDEPTH_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert _opened(toy_dir)[1] == [False] * 3


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FIFFDEPTH_CACHE": "off"}, None),
        ({"FIFFDEPTH_CACHE": " OFF "}, None),
        ({"FIFFDEPTH_CACHE": "/data/cache"}, Path("/data/cache")),
        ({"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/fiffdepth_rt")),
        ({"HOME": "/home/someone"}, Path("/home/someone/.cache/fiffdepth_rt")),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the last two are Linux's folders")
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: Path | None
) -> None:
    for name in ("FIFFDEPTH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == folder


# --- bf16, and its parity on this machine ---

needs_bf16 = pytest.mark.skipif(not openvino.computes_bf16(), reason="this CPU has no bfloat16 units")


def test_describe_says_what_is_really_computed_in(toy_dir: Path) -> None:
    for precision, computes_in in (("fp32", "f32"), ("bf16", "bf16" if openvino.computes_bf16() else "f32")):
        with fiffdepth_rt.Depth(toy_dir, backend="openvino", precision=precision) as depth:
            assert depth.describe()["engine"]["computes_in"] == computes_in


def test_a_bf16_set_on_a_cpu_without_units_for_it_is_computed_in_fp32_and_said(
    toy_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "computes_bf16", lambda: False)
    for precision, said in (("fp32", []), ("bf16", ["bf16 set is computed in fp32"])):
        with fiffdepth_rt.Depth(toy_dir, backend="openvino", precision=precision, threads=1):
            assert [words for words in said if words not in caplog.text] == []
            assert bool(caplog.records) == bool(said)


@needs_bf16
def test_the_parity_of_bf16_is_recorded_in_the_manifest(toy_dir: Path) -> None:
    before = read_manifest(toy_dir).parity
    words = ["verify", str(toy_dir), "--backend", "openvino", "--precision", "bf16"]
    result = CliRunner().invoke(program, words, catch_exceptions=False)
    assert result.exit_code == 0 and "bf16 openvino chain   photo0" in result.stdout
    table = read_manifest(toy_dir).parity
    assert table[: len(before)] == before
    rows = [row for row in table if row["backend"] == "openvino"]
    assert {(row["stage"], row["image"]) for row in rows} == {
        (stage, image) for stage in (*STAGES, "chain") for image in ("photo0", "photo1", "noise")
    }
    assert all(row["graph_set"] == "bf16" and row["device"] == "cpu" and row["passed"] for row in rows)
    assert rows[0]["engine"]["computes_in"] == "bf16" and "cache" not in rows[0]["engine"]
    assert max(row["max_abs"] for row in rows) < 0.02
    verify.record_parity(toy_dir, backend="openvino", precision="bf16")
    assert len(read_manifest(toy_dir).parity) == len(table)  # replaced, not doubled
    open_engine_dir(toy_dir)


def test_an_engine_that_computes_something_else_is_not_recorded(tmp_path: Path) -> None:
    directory = write_toy_engine_dir(tmp_path / "off", shift=0.3)
    before = (directory / "manifest.json").read_bytes()
    with pytest.raises(ParityError, match="fp32/unet on photo0"):
        verify.record_parity(directory, backend="openvino")
    assert (directory / "manifest.json").read_bytes() == before
    result = CliRunner().invoke(program, ["verify", str(directory)])
    assert result.exit_code == 1 and "differs from the checkpoint" in result.output


def test_graphs_of_a_grid_without_golden_photos_prove_nothing(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="No golden photo"):
        verify.record_parity(write_static_toy(tmp_path / "toy", (64, 64)))
    rows = verify.record_parity(write_static_toy(tmp_path / "other", (128, 192)))
    assert {row.graph_set for row in rows} == {"fp32-128x192"}


def test_golden_photos_of_another_set_s_grid_are_not_asked_of_graphs_with_free_sizes(tmp_path: Path) -> None:
    """A set exported for one grid brings golden values of it; a free set sees multiples of 64 only."""
    directory = write_toy_engine_dir(tmp_path / "toy")
    with np.load(directory / "golden.npz", allow_pickle=False) as arrays:
        golden = dict(arrays)
    for name in [n for n in golden if n.startswith("photo0/")]:
        value = golden[name]
        height, width = (1, 2) if name == "photo0/encoder/input" or value.ndim == 3 else (2, 3)
        off = value.take(range(value.shape[height] * 3 // 4), height).take(
            range(value.shape[width] * 2 // 3), width
        )
        golden[name.replace("photo0", "photo2")] = off
    assert golden["photo2/encoder/input"].shape == (1, 96, 128, 3)
    np.savez(directory / "golden.npz", **golden)
    _vouch_for(directory, "golden.npz")
    rows = verify.record_parity(directory, backend="openvino")
    assert {row.image for row in rows} == {"photo0", "photo1", "noise"}


def _vouch_for(directory: Path, name: str) -> None:
    """Makes the manifest's hash of a file true again."""
    from fiffdepth_rt.engine_dir.known_hashes import hash_file

    manifest = json.loads((directory / "manifest.json").read_text())
    record = hash_file(directory / name)
    manifest["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    (directory / "manifest.json").write_text(json.dumps(manifest))

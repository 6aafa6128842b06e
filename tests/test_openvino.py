"""Promises of the OpenVINO backend: the same depth as the plain twin and as ONNX Runtime, or an error."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toy import toy_depth, write_toy_engine_dir

import fiffdepth_rt
from fiffdepth_rt.backends import openvino
from fiffdepth_rt.engine_dir import BUNDLED, STAGES
from fiffdepth_rt.errors import BackendUnavailableError, GraphError, InferenceError, StageMismatchError


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
    graph.write_bytes(graph.read_bytes()[:60])
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


def test_after_close_it_says_so(toy_dir: Path) -> None:
    depth = fiffdepth_rt.Depth(toy_dir, backend="openvino")
    depth.close()
    with pytest.raises(InferenceError, match="closed"):
        depth.infer(noise(64, 64, 3))


def _vouch_for(directory: Path, name: str) -> None:
    """Makes the manifest's hash of a file true again."""
    from fiffdepth_rt.engine_dir import hash_file

    manifest = json.loads((directory / "manifest.json").read_text())
    record = hash_file(directory / name)
    manifest["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    (directory / "manifest.json").write_text(json.dumps(manifest))

"""Promises of `fiffdepth triton`: what it writes, and what Triton makes of it where there is a tritonserver.

FIFFDEPTH_TRITONSERVER names its binary, else it is looked for on PATH. FIFFDEPTH_TRITON_PATH is the
PYTHONPATH of its Python backend, which needs the runtime's dependencies; with nvidia-pytriton 0.7's binary,
NumPy 1.26.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import fiffdepth_rt
from fiffdepth_rt.errors import ImageError
from fiffdepth_rt.photos.loading import load_photo_bytes
from fiffdepth_rt.program import program
from tests.fuzz.images import Fuzzed as Photos
from tests.fuzz.mutations import mutated_json
from tests.support.paths import ROOT


def run(*words: str) -> Any:
    return CliRunner().invoke(program, ["triton", *words])


def test_the_repository_holds_a_config_a_model_and_the_whole_engine_directory(
    toy_dir: Path, tmp_path: Path
) -> None:
    words = [
        "--name",
        "near",
        "--instances",
        "3",
        "--kind",
        "gpu",
        "--size",
        "128x192",
        "--precision",
        "bf16",
    ]
    result = run(str(toy_dir), str(tmp_path / "models"), *words)
    assert result.exit_code == 0, result.output
    made = tmp_path / "models" / "near"
    assert f"{made} is whole." in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "toy"]
    assert sorted(path.name for path in made.iterdir()) == ["1", "config.pbtxt"]
    files = {path.relative_to(toy_dir) for path in toy_dir.rglob("*") if path.is_file()}
    engine = made / "1" / "engine"
    assert {path.relative_to(engine) for path in engine.rglob("*") if path.is_file()} == files
    assert all((engine / file).read_bytes() == (toy_dir / file).read_bytes() for file in files)
    config = (made / "config.pbtxt").read_text()
    assert 'name: "near"' in config and "  count: 3\n  kind: KIND_GPU\n" in config
    for key, value in {"space": "depth", "size": "128x192", "precision": "bf16"}.items():
        assert f'parameters {{\n  key: "{key}"\n  value {{ string_value: "{value}" }}\n}}\n' in config
    assert 'string_value: "affine-invariant depth: 0 = nearest, 1 = farthest; not metres"' in config


def test_the_config_is_what_tritons_own_schema_takes(toy_dir: Path, tmp_path: Path) -> None:
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="wants Triton's schema: pip install 'tritonclient[grpc]'"
    )
    from google.protobuf import text_format

    assert run(str(toy_dir), str(tmp_path / "models")).exit_code == 0
    text = (tmp_path / "models/toy/config.pbtxt").read_text()
    config = text_format.Parse(text, schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("toy", "python", 0)
    (image,), (depth,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("image", schema.TYPE_UINT8, [-1, -1, 3])
    assert (depth.name, depth.data_type, list(depth.dims)) == ("depth", schema.TYPE_FP32, [-1, -1])


def test_a_model_that_is_there_is_not_touched(toy_dir: Path, tmp_path: Path) -> None:
    taken = tmp_path / "models/toy"
    taken.mkdir(parents=True)
    result = run(str(toy_dir), str(tmp_path / "models"))
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert list(taken.iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == ["models", "toy"]


def test_a_damaged_engine_directory_becomes_no_model(toy_dir: Path, tmp_path: Path) -> None:
    with (toy_dir / "graphs/fp32/unet.onnx").open("r+b") as file:
        file.seek(40)
        file.write(b"\xff")
    result = run(str(toy_dir), str(tmp_path / "models"))
    assert result.exit_code == 1 and "unet.onnx" in result.stderr
    assert not (tmp_path / "models").exists()


def test_a_name_is_no_path(toy_dir: Path, tmp_path: Path) -> None:
    for name in ("../x", "/x", ".x", "", "a/b"):
        assert run(str(toy_dir), str(tmp_path / "models"), "--name", name).exit_code == 2
    assert run(str(toy_dir), str(tmp_path / "models"), "--device", "cpu").exit_code == 2
    assert not (tmp_path / "models").exists()


# --- the model, as Triton's Python backend calls it ---


class Answer(SimpleNamespace):
    """What stands for Triton's Tensor, TritonError and InferenceResponse: it keeps what it is given."""


def backend_utils() -> ModuleType:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor = lambda name, values: Answer(name=name, as_numpy=lambda: values)
    module.get_input_tensor_by_name = lambda request, name: request[name]

    class TritonError(Answer):
        INVALID_ARG = 3

        def __init__(self, message: str, code: int | None = None) -> None:
            super().__init__(message=message, code=code)

    module.TritonError = TritonError
    module.InferenceResponse = lambda output_tensors=(), error=None: Answer(
        tensors=output_tensors, error=error
    )
    return module  # type: ignore[no-any-return]


def test_the_model_gives_the_bits_of_a_direct_call_and_errors_as_sentences(
    toy_dir: Path,
    tmp_path: Path,
    photo: np.ndarray,
    depth: fiffdepth_rt.Depth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(str(toy_dir), str(tmp_path / "models"), "--threads", "1").exit_code == 0
    utils = backend_utils()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    monkeypatch.syspath_prepend(tmp_path / "models/toy/1")
    monkeypatch.delitem(sys.modules, "model", raising=False)
    model = importlib.import_module("model").TritonPythonModel()
    parameters = {
        "threads": {"string_value": "1"},
        "size": {"string_value": "{}x{}".format(*depth.grid_for(photo.shape[:2]))},
    }
    model.initialize(
        {
            "model_config": json.dumps({"parameters": parameters}),
            "model_repository": str(tmp_path / "models/toy"),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    photos = (photo, photo[:8], photo.astype(np.int64) - 500)
    requests = [{"image": Answer(as_numpy=lambda one=one: one)} for one in photos]
    right, small, odd = model.execute(requests)
    model.finalize()
    assert right.error is None and right.tensors[0].name == "depth"
    assert np.array_equal(right.tensors[0].as_numpy(), depth.infer(photo).values)
    for refused, said in (
        (small, "A photo of 8×200 px is too small"),
        (odd, "Pixels of int64 have no known range"),
    ):
        assert refused.error.message.startswith(said) and refused.error.code == 3
    monkeypatch.delitem(sys.modules, "model")


# --- a real tritonserver ---


def tritonserver() -> Path:
    """Skips where there is none, or where it cannot start."""
    found = os.environ.get("FIFFDEPTH_TRITONSERVER") or shutil.which("tritonserver")
    if found is None:
        pytest.skip("no tritonserver: set FIFFDEPTH_TRITONSERVER, or put it on PATH")
    started = subprocess.run([found, "--help"], capture_output=True, text=True, check=False)
    if "model-repository" not in started.stdout + started.stderr:
        pytest.skip(f"{found} does not start here: {started.stderr.strip()[-200:]}")
    return Path(found)


class Triton:
    """KServe's protocol with binary tensors, over HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", "/v2/models/toy/infer", body, headers)
            heard = connection.getresponse()
            return heard.status, {k.lower(): v for k, v in heard.getheaders()}, heard.read()

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def infer(self, photo: np.ndarray) -> np.ndarray | str:
        """The depth map, or the error."""
        said = {"name": "image", "datatype": "UINT8", "shape": photo.shape}
        head = json.dumps(
            {
                "inputs": [{**said, "parameters": {"binary_data_size": photo.nbytes}}],
                "outputs": [{"name": "depth", "parameters": {"binary_data": True}}],
            }
        ).encode()
        lengths = {"Inference-Header-Content-Length": str(len(head))}
        status, headers, body = self.post(head + photo.tobytes(), lengths)
        if status != 200:
            return str(json.loads(body)["error"])
        split = int(headers["inference-header-content-length"])
        (output,) = json.loads(body[:split])["outputs"]
        return np.frombuffer(body[split:], np.float32).reshape(output["shape"])


@contextlib.contextmanager
def serving(models: Path, log: Path) -> Iterator[Triton]:
    binary = tritonserver()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(binary), "--model-repository", str(models), "--http-address", "127.0.0.1"]
    words += ["--http-port", str(port), "--allow-grpc=false", "--allow-metrics=false"]
    backends = binary.parent.parent / "backends"
    if backends.is_dir():
        words += ["--backend-directory", str(backends)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("FIFFDEPTH_TRITON_PATH")])])
    with (
        log.open("wb") as said,
        subprocess.Popen(words, stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": path}) as process,
    ):
        try:
            triton, until = Triton(port), time.monotonic() + 180
            while not triton.ready():
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.2)
            yield triton
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.soak
def test_a_real_triton_gives_the_bits_of_a_direct_call(
    toy_dir: Path, tmp_path: Path, photo: np.ndarray, depth: fiffdepth_rt.Depth
) -> None:
    assert run(str(toy_dir), str(tmp_path / "models"), "--threads", "1").exit_code == 0
    with serving(tmp_path / "models", tmp_path / "log") as triton:
        for one in (photo, np.ascontiguousarray(photo[:, ::-1]), np.zeros((16, 2000, 3), np.uint8)):
            assert np.array_equal(triton.infer(one), depth.infer(one).values)
        assert "too small" in str(triton.infer(photo[:8]))


@pytest.mark.soak
def test_ten_thousand_uploads_of_a_stranger_leave_a_real_triton_as_it_was(
    toy_dir: Path, tmp_path: Path, photo: np.ndarray, depth: fiffdepth_rt.Depth,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(str(toy_dir), str(tmp_path / "models"), "--threads", "1").exit_code == 0
    (tmp_path / "fuzz").mkdir()
    photos, outcomes = Photos(tmp_path / "fuzz"), Counter[str]()
    with serving(tmp_path / "models", tmp_path / "log") as triton:
        for seed in range(10_000):
            chance = random.Random(f"triton {seed}")
            _, content = photos.mutated(chance)
            try:
                pixels = load_photo_bytes(content, name="The photo").pixels
            except ImageError:  # what a client could not read, sent as if it were pixels
                pixels = np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(1, -1, 3)
            said = {"name": "image", "datatype": "UINT8", "shape": pixels.shape}
            how = chance.randrange(4)
            if how == 0:
                found = triton.infer(pixels)
                if isinstance(found, str):
                    outcomes["refused"] += 1
                    assert "Traceback" not in found and str(tmp_path) not in found
                else:
                    outcomes["right"] += 1
                    assert np.array_equal(found, depth.infer(pixels).values), seed
                continue
            head = mutated_json(
                {"inputs": [{**said, "parameters": {"binary_data_size": pixels.nbytes}}]}, chance
            )
            words = head.encode("utf-8", "surrogatepass")
            length = len(words) if how != 1 else chance.choice((0, 1, len(words) - 1, 10**9))
            try:
                status, _, body = triton.post(
                    words + pixels.tobytes()[: 10**6], {"Inference-Header-Content-Length": str(length)}
                )
            except (OSError, http.client.HTTPException):
                outcomes["closed"] += 1
            else:
                outcomes[str(status)] += 1
                assert b"Traceback" not in body and str(tmp_path).encode() not in body, (seed, body)
            if seed % 500 == 0:
                assert np.array_equal(triton.infer(photo), depth.infer(photo).values)
        assert np.array_equal(triton.infer(photo), depth.infer(photo).values)
    with capsys.disabled():
        print(dict(outcomes))
    assert outcomes["right"] > 500 and outcomes["400"] > 500

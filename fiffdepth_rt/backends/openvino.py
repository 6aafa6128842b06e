"""OpenVINO on the CPU: an Intel CPU with bfloat16 units runs a bf16 set on them; fp32 sets stay fp32.

A compiled model per stage. Grids are free as with ONNX Runtime; each new one is shaped on its first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array, Usability
from fiffdepth_rt.backends.grids import own_grid, split
from fiffdepth_rt.backends.threads import default_threads
from fiffdepth_rt.backends.wheels import installed
from fiffdepth_rt.engine_dir import JOURNEY, EngineDir
from fiffdepth_rt.errors import BackendUnavailableError, GraphError, InferenceError, StageMismatchError
from fiffdepth_rt.image import grid_for

NAME = "openvino"
PRECISIONS = ("fp32", "bf16", "fp16")  # in order of preference: what was asked for is what is computed

Models = Mapping[str, Any]  # by stage


def usable() -> Usability:
    """Whether `import openvino` works here. Never raises."""
    versions = installed([NAME])
    try:
        import openvino

        why = f"openvino {openvino.__version__.partition('-')[0]}"
    except Exception as error:  # a broken wheel fails in its own ways
        why = f"openvino cannot be imported ({error})" if versions else "openvino is not installed"
        mend = f"pip install {'--force-reinstall ' if versions else ''}'fiffdepth-rt[openvino]'"
        return Usability(name=NAME, usable=False, why=why, mend=mend, versions=versions)
    return Usability(name=NAME, usable=True, why=why, mend="", versions=versions)


def open_backend(
    engine_dir: EngineDir,
    *,
    precision: str,
    device: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
) -> OpenVinoBackend:
    """EngineDir -> compiled models.

    device: "cpu" (also None). threads: None for the physical cores available. cuda_graph: not for a CPU.
    Raises BackendUnavailableError, GraphError, StageMismatchError.
    """
    if device not in (None, "cpu"):
        raise BackendUnavailableError(f"openvino runs on device='cpu' here, not on {device!r}.")
    return OpenVinoBackend(engine_dir, precision=precision, threads=threads)


class OpenVinoBackend:
    """Three compiled models. `Backend` says what the methods promise."""

    name = NAME
    device = "cpu"

    def __init__(self, engine_dir: EngineDir, *, precision: str, threads: int | None) -> None:
        import openvino

        self.precision = precision
        self._size = engine_dir.manifest.size
        self._own_grid = own_grid(engine_dir.manifest.graph_sets[precision])
        self._threads = default_threads() if threads is None else threads
        self._hint = "bf16" if precision.startswith("bf16") else "f32"  # CPUs compute fp16 graphs in fp32
        core = openvino.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": self._hint,
        }
        self._models: Models = {
            stage: _compile(core, engine_dir, precision, stage, config) for stage in JOURNEY
        }

    def grid_for(self, photo_hw: tuple[int, int], size: int) -> tuple[int, int]:
        return self._own_grid or grid_for(photo_hw, size=size, multiple=self._size.multiple)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        models, parts = self._opened(), []
        for part in split(image_BHW3, self._size):
            value: Array = part
            for stage in JOURNEY:
                value = _run(models, stage, value, JOURNEY[stage][1][0])
            parts.append(value)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_stage(self, stage: str, value: Array) -> Array:
        return _run(self._opened(), stage, value, JOURNEY[stage][1][0])

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return _run(self._opened(), "decoder", depth_latent, "depth_unclipped")

    def describe(self) -> dict[str, Any]:
        import openvino

        version = openvino.__version__.partition("-")[0]
        return {"openvino": version, "computes_in": self._hint, "threads": self._threads}

    def close(self) -> None:
        self._models = {}  # a call that is running holds the models until it ends

    def _opened(self) -> Models:
        if not self._models:
            raise InferenceError("This engine is closed. Open a new Depth.")
        return self._models


def _compile(core: Any, engine_dir: EngineDir, precision: str, stage: str, config: dict[str, Any]) -> Any:
    path = engine_dir.stage_path(precision, stage)
    try:
        model = core.compile_model(str(path), "CPU", config)
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        raise GraphError(f"OpenVINO cannot read {path}: {error}. Copy the directory again.") from error
    spec = engine_dir.manifest.graph_sets[precision].stages[stage]
    for verb, listed, ports in (("takes", spec.inputs, model.inputs), ("gives", spec.outputs, model.outputs)):
        found = {(port.any_name, str(port.element_type.to_dtype())) for port in ports}
        if found != {(tensor.name, tensor.dtype) for tensor in listed}:
            raise StageMismatchError(
                f"The graph {precision}/{stage} {verb} {sorted(found)}; the manifest lists "
                f"{[(tensor.name, tensor.dtype) for tensor in listed]}. Export the directory again."
            )
    return model


def _run(models: Models, stage: str, value: Array, output: str) -> Array:
    """One stage, in a request of its own, so that threads may run at once. Copies the result out of it."""
    try:
        request = models[stage].create_infer_request()
        request.infer({JOURNEY[stage][0][0]: value}, share_inputs=True)
        result: Array = request.get_tensor(output).data.copy()
    except Exception as error:  # as in _compile
        raise InferenceError(
            f"OpenVINO failed in the {stage} on {value.dtype} {value.shape}: {error}"
        ) from error
    return result

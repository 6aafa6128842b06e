"""OpenVINO on the CPU: an Intel CPU with bfloat16 units runs a bf16 set on them; fp32 sets stay fp32.

A compiled model per stage. Grids are free as with ONNX Runtime; each new one is shaped on its first use. What
was compiled is kept for the next time, see openvino_cache.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.backends import Array, Usability
from fiffdepth_rt.backends.grids import Grids, Size, families, split
from fiffdepth_rt.backends.host import OpenedSets
from fiffdepth_rt.backends.openvino.cache import Cache
from fiffdepth_rt.cache_folder import cache_folder
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import JOURNEY, GraphSet
from fiffdepth_rt.errors import BackendUnavailableError, GraphError, InferenceError, StageMismatchError
from fiffdepth_rt.machine import default_threads, installed

NAME = "openvino"
PRECISIONS = ("fp32", "bf16", "fp16")  # in order of preference: what was asked for is what is computed

Models = Mapping[str, Any]  # by stage


def usable() -> Usability:
    """Whether `import openvino` works here, and whether this CPU computes bf16. Never raises."""
    versions = installed([NAME])
    try:
        import openvino

        units = "computes bf16" if computes_bf16() else "has no bfloat16 units"
        why = f"openvino {openvino.__version__.partition('-')[0]}; this CPU {units}"
    except Exception as error:  # a broken wheel fails in its own ways
        why = f"openvino cannot be imported ({error})" if versions else "openvino is not installed"
        fix = f"pip install {'--force-reinstall ' if versions else ''}'fiffdepth-rt[openvino]'"
        return Usability(name=NAME, usable=False, why=why, fix=fix, versions=versions)
    return Usability(name=NAME, usable=True, why=why, fix="", versions=versions)


def takes(graph_set: GraphSet) -> bool:
    """Every graph set: one of bf16 is computed in fp32 where the CPU has no bfloat16 units."""
    return True


def computes_bf16() -> bool:
    """Whether OpenVINO is here and this CPU has bfloat16 units. Never raises."""
    try:
        return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception:  # a broken wheel fails in its own ways
        return False


@functools.cache
def _core() -> Any:
    """One for the whole process, never given up.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signals, and frees that stack when its
    Core goes. Where two Cores go in the order of their coming, or one goes in another thread, a pointer into
    nothing is left, and the next signal (Ctrl-C, the end of a child process) ends the process.
    """
    import openvino

    return openvino.Core()


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
    """Three compiled models per graph set. `Backend` says what the methods promise."""

    name = NAME
    device = "cpu"

    def __init__(self, engine_dir: EngineDir, *, precision: str, threads: int | None) -> None:
        import openvino

        self.precision = precision
        self._engine_dir = engine_dir
        self._threads = default_threads() if threads is None else threads
        # CPUs compute fp16 graphs in fp32.
        self._asked = "bf16" if precision.startswith("bf16") else "f32"
        self._core = _core()
        folder = cache_folder()
        self._cache = None if folder is None else Cache(folder, version=openvino.__version__)
        keys = families(engine_dir.manifest)[precision]
        fixed = tuple(grid for grid in keys if grid is not None)
        self._grids = Grids(limits=engine_dir.manifest.size, fixed=fixed)
        self._sets: OpenedSets[Models] = OpenedSets(keys, self._open_set)

    def grid_for(self, photo_hw: tuple[int, int], size: Size) -> tuple[int, int]:
        return self._grids.choose(photo_hw, size)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        models, parts = self._sets.at("encoder", image_BHW3), []
        for part in split(image_BHW3, self._grids.limits):
            value: Array = part
            for stage in JOURNEY:
                value = _run(models, stage, value, JOURNEY[stage][1][0])
            parts.append(value)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_stage(self, stage: str, value: Array) -> Array:
        return _run(self._sets.at(stage, value), stage, value, JOURNEY[stage][1][0])

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return _run(self._sets.at("decoder", depth_latent), "decoder", depth_latent, "depth_unclipped")

    def describe(self) -> dict[str, Any]:
        import openvino

        computes_in = {
            str(model.get_property("INFERENCE_PRECISION_HINT").to_string())
            for models in self._sets.opened()
            for model in models.values()
        }
        return {
            "openvino": openvino.__version__.partition("-")[0],
            "computes_in": ", ".join(sorted(computes_in)) or self._asked,
            "threads": self._threads,
            "grids": self._grids.describe(),
            "cache": "off" if self._cache is None else str(self._cache.folder),
        }

    def close(self) -> None:
        self._sets.close()

    def _open_set(self, key: str) -> Models:
        return {stage: self._compile(key, stage) for stage in JOURNEY}

    def _compile(self, key: str, stage: str) -> Any:
        checked = self._engine_dir.graph(key, stage)
        path, graph = checked.path, checked.stage
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": self._asked,
        }
        try:
            if self._cache is None:
                model = self._core.compile_model(str(path), "CPU", config)
            else:
                model = self._cache.compile(self._core, path, config, checked.files)
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise GraphError(f"OpenVINO cannot read {path}: {error}. Copy the directory again.") from error
        for verb, listed, ports in (
            ("takes", graph.inputs, model.inputs),
            ("gives", graph.outputs, model.outputs),
        ):
            found = {(port.any_name, str(port.element_type.to_dtype())) for port in ports}
            if found != {(tensor.name, tensor.dtype) for tensor in listed}:
                raise StageMismatchError(
                    f"The graph {key}/{stage} {verb} {sorted(found)}; the manifest lists "
                    f"{[(tensor.name, tensor.dtype) for tensor in listed]}. Export the directory again."
                )
        return model


def _run(models: Models, stage: str, value: Array, output: str) -> Array:
    """One stage, in a request of its own, so that threads may run at once. Copies the result out of it."""
    try:
        request = models[stage].create_infer_request()
        request.infer({JOURNEY[stage][0][0]: value}, share_inputs=True)
        result: Array = request.get_tensor(output).data.copy()
    except Exception as error:  # OpenVINO raises RuntimeError for everything
        raise InferenceError(
            f"OpenVINO failed in the {stage} on {value.dtype} {value.shape}: {error}"
        ) from error
    return result

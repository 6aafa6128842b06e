"""ONNX Runtime: the default engine, on the CPU everywhere, on an NVIDIA GPU with the [gpu] extra.

A session per stage. Grids are free, any multiple of the manifest's, unless the graphs were exported for one.
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
from fiffdepth_rt.engine_dir import JOURNEY, EngineDir, Stage, TensorSpec
from fiffdepth_rt.errors import BackendUnavailableError, GraphError, InferenceError, StageMismatchError
from fiffdepth_rt.image import grid_for

NAME = "onnxruntime"
PRECISIONS = ("fp32", "fp16")  # in order of preference: a CPU computes fp16 graphs in fp32, with casts around

_WHEELS = ("onnxruntime", "onnxruntime-gpu")  # both own the package `onnxruntime`
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_FATAL = 4  # ONNX Runtime's log level; what goes wrong is raised, so nothing needs to be printed as well

Sessions = Mapping[str, Any]  # by stage


def usable() -> Usability:
    """Whether `import onnxruntime` works here, and which wheels it may come from. Never raises."""
    versions = installed(_WHEELS)
    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        why = f"onnxruntime {onnxruntime.__version__} with {providers}"
    except Exception as error:  # a broken wheel fails in its own ways
        why = f"onnxruntime cannot be imported ({error})" if versions else "onnxruntime is not installed"
        mend = f"pip install {'--force-reinstall ' if versions else ''}'fiffdepth-rt[cpu]'"
        return Usability(name=NAME, usable=False, why=why, mend=mend, versions=versions)
    mend = ""
    if len(versions) > 1:
        why += "; its CPU and its GPU wheel are both installed and have overwritten each other"
        mend = f"pip uninstall -y {' '.join(_WHEELS)} && pip install 'fiffdepth-rt[cpu]'  # or [gpu]"
    return Usability(name=NAME, usable=True, why=why, mend=mend, versions=versions)


def open_backend(
    engine_dir: EngineDir,
    *,
    precision: str,
    device: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
) -> OnnxRuntimeBackend:
    """EngineDir -> opened sessions.

    device: "cpu" (also None), "cuda" or "cuda:N". threads: on the CPU; None for the physical cores available.
    cuda_graph: no CUDA graphs are captured here, whatever it says.
    Raises BackendUnavailableError, GraphError, StageMismatchError.
    """
    return OnnxRuntimeBackend(engine_dir, precision=precision, device=device or "cpu", threads=threads)


class OnnxRuntimeBackend:
    """Three sessions. `Backend` says what the methods promise."""

    name = NAME

    def __init__(self, engine_dir: EngineDir, *, precision: str, device: str, threads: int | None) -> None:
        import onnxruntime

        self.precision = precision
        self.device, provider = _provider(device)
        onnxruntime.disable_telemetry_events()
        self._size = engine_dir.manifest.size
        self._own_grid = own_grid(engine_dir.manifest.graph_sets[precision])
        self._threads = default_threads() if threads is None else threads
        options = _session_options(self._threads)
        self._provider = provider if isinstance(provider, str) else provider[0]
        self._sessions: Sessions = {
            stage: _open_session(engine_dir, precision, stage, options, provider) for stage in JOURNEY
        }

    def grid_for(self, photo_hw: tuple[int, int], size: int) -> tuple[int, int]:
        return self._own_grid or grid_for(photo_hw, size=size, multiple=self._size.multiple)

    def run(self, image_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        sessions, parts = self._opened(), []
        for part in split(image_BHW3, self._size):
            value: Array = part
            for stage in JOURNEY:
                value = _run(sessions, stage, value, _main_output(stage))
            parts.append(value)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_stage(self, stage: str, value: Array) -> Array:
        return _run(self._opened(), stage, value, _main_output(stage))

    def run_unclipped(self, depth_latent: Array) -> npt.NDArray[np.float32]:
        return _run(self._opened(), "decoder", depth_latent, "depth_unclipped")

    def describe(self) -> dict[str, Any]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__, "provider": self._provider, "threads": self._threads}

    def close(self) -> None:
        self._sessions = {}  # a call that is running holds the sessions until it ends

    def _opened(self) -> Sessions:
        if not self._sessions:
            raise InferenceError("This engine is closed. Open a new Depth.")
        return self._sessions


def _main_output(stage: str) -> str:
    return JOURNEY[stage][1][0]


def _run(sessions: Sessions, stage: str, value: Array, output: str) -> Array:
    """One stage. Only `output` is asked for, so the graph's other outputs are not copied out."""
    try:
        result: Array = sessions[stage].run([output], {JOURNEY[stage][0][0]: value})[0]
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise InferenceError(
            f"ONNX Runtime failed in the {stage} on {value.dtype} {value.shape}: {error}"
        ) from error
    return result


def _provider(device: str) -> tuple[str, str | tuple[str, dict[str, Any]]]:
    """device as asked for -> device as it is called, and ONNX Runtime's provider for it."""
    import onnxruntime

    kind, _, index = device.partition(":")
    if device == "cpu":
        return device, "CPUExecutionProvider"
    if kind != "cuda" or not (index or "0").isdecimal():
        raise BackendUnavailableError(f"device={device!r} is not known: say 'cpu', 'cuda' or 'cuda:1'.")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"device={device!r} needs ONNX Runtime's GPU wheel, and this is the CPU one. "
            "Run: pip uninstall -y onnxruntime && pip install 'fiffdepth-rt[gpu]'"
        )
    number = int(index or 0)
    # TF32 would round the inputs of fp32 products to 10 bits.
    return f"cuda:{number}", ("CUDAExecutionProvider", {"device_id": number, "use_tf32": 0})


def _session_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL
    # Each session has its own threads. They wait by spinning, which would take the cores of the next stage.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _open_session(engine_dir: EngineDir, precision: str, stage: str, options: Any, provider: Any) -> Any:
    import onnxruntime

    path = engine_dir.stage_path(precision, stage)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # as in _run
        raise GraphError(
            f"ONNX Runtime {onnxruntime.__version__} cannot read {path}: {error}. "
            "Copy the directory again, or export it again."
        ) from error
    name = provider if isinstance(provider, str) else provider[0]
    if session.get_providers()[0] != name:  # ONNX Runtime falls back to the CPU without an error
        raise BackendUnavailableError(f"ONNX Runtime could not start {name}. Run: fiffdepth doctor")
    spec = engine_dir.manifest.graph_sets[precision].stages[stage]
    _check_tensors(f"{precision}/{stage}", spec, session)
    return session


def _check_tensors(where: str, spec: Stage, session: Any) -> None:
    """Raises StageMismatchError unless the graph's own tensors are those that the manifest lists."""
    for verb, listed, found in (
        ("takes", spec.inputs, session.get_inputs()),
        ("gives", spec.outputs, session.get_outputs()),
    ):
        by_name = {tensor.name: tensor for tensor in found}
        if by_name.keys() != {tensor.name for tensor in listed}:
            raise _mismatch(where, f"{verb} {', '.join(by_name)}", ", ".join(t.name for t in listed))
        for tensor in listed:
            own = by_name[tensor.name]
            if not _agrees(tensor, own):
                it_does = f"{verb} {own.name} as {own.type} {own.shape}"
                raise _mismatch(where, it_does, f"{tensor.dtype} {[*tensor.shape]}")


def _agrees(listed: TensorSpec, actual: Any) -> bool:
    """A free dim has whatever name the exporter gave it, so only that it is free is compared."""
    return (
        _DTYPES.get(actual.type) == listed.dtype
        and len(actual.shape) == len(listed.shape)
        and all(
            dim == found if isinstance(dim, int) else not isinstance(found, int)
            for dim, found in zip(listed.shape, actual.shape, strict=True)
        )
    )


def _mismatch(where: str, found: str, listed: str) -> StageMismatchError:
    return StageMismatchError(
        f"The graph {where} {found}; the manifest lists {listed}. Export the directory again."
    )

"""ONNX Runtime: the default engine, on the CPU everywhere, on an NVIDIA GPU with the [gpu] extra."""

from __future__ import annotations

from fiffdepth_rt.backends import Backend, Usability
from fiffdepth_rt.backends.host import HostBackend
from fiffdepth_rt.backends.onnxruntime.cpu import CpuEngine
from fiffdepth_rt.backends.onnxruntime.cuda import CudaEngine
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import GraphSet
from fiffdepth_rt.errors import BackendUnavailableError
from fiffdepth_rt.machine import installed
from fiffdepth_rt.telemetry import import_onnxruntime

NAME = CpuEngine.name
# In order of preference. A CPU computes fp16 graphs in fp32, with casts around.
PRECISIONS = ("fp32", "fp16")
GPU_PRECISIONS = ("fp16", "fp32")

_WHEELS = ("onnxruntime", "onnxruntime-gpu")  # both own the package `onnxruntime`


def usable() -> Usability:
    """Whether `import onnxruntime` works here, and which wheels it may come from. Never raises."""
    versions = installed(_WHEELS)
    try:
        onnxruntime = import_onnxruntime()

        providers = ", ".join(onnxruntime.get_available_providers())
        why = f"onnxruntime {onnxruntime.__version__} with {providers}"
    except Exception as error:  # a broken wheel fails in its own ways
        return Usability.not_imported(NAME, error, versions=versions, extra="cpu")
    fix = ""
    if len(versions) > 1:
        why += "; its CPU and its GPU wheel are both installed and have overwritten each other"
        fix = f"pip uninstall -y {' '.join(_WHEELS)} && pip install 'fiffdepth-rt[cpu]'  # or [gpu]"
    return Usability(name=NAME, usable=True, why=why, fix=fix, versions=versions)


def takes(graph_set: GraphSet) -> bool:
    """Whether ONNX Runtime can run such graphs: its kernels know no bfloat16 convolution."""
    return graph_set.precision != "bf16"


def open_backend(
    engine_dir: EngineDir,
    *,
    precision: str,
    device: str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
) -> Backend:
    """EngineDir -> opened sessions.

    device: "cpu" (also None), "cuda" or "cuda:N". threads: on the CPU; None for the physical cores available.
    cuda_graph: on a GPU, replay frames from CUDA graphs where the graphs are for one grid.
    Raises BackendUnavailableError, GraphError, StageMismatchError, DeviceMemoryError.
    """
    gpu = gpu_index("cpu" if device is None else device)
    if gpu is None:
        return HostBackend(engine_dir, CpuEngine(threads=threads), precision=precision)
    return HostBackend(
        engine_dir, CudaEngine(gpu, threads=threads, cuda_graph=cuda_graph), precision=precision
    )


def gpu_index(device: str) -> int | None:
    """ "cpu" -> None, "cuda" -> 0, "cuda:1" -> 1. Raises BackendUnavailableError."""
    kind, colon, index = device.partition(":")
    if device == "cpu":
        return None
    if kind != "cuda" or not (index.isdecimal() if colon else True):
        raise BackendUnavailableError(f"device={device!r} is not known: say 'cpu', 'cuda' or 'cuda:1'.")
    return int(index or 0)

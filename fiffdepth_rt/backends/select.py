"""Which engine opens a directory: the one asked for, or the best that is usable here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Protocol

from fiffdepth_rt.backends import Backend, Usability
from fiffdepth_rt.backends.grids import families
from fiffdepth_rt.backends.onnxruntime import cpu as onnxruntime
from fiffdepth_rt.backends.openvino import backend as openvino
from fiffdepth_rt.backends.tensorrt import backend as tensorrt
from fiffdepth_rt.backends.tensorrt import here as tensorrt_here
from fiffdepth_rt.engine_dir.manifest import EngineDir, Manifest
from fiffdepth_rt.errors import BackendUnavailableError


class Opener(Protocol):
    """A backend file's `open_backend`."""

    def __call__(
        self,
        engine_dir: EngineDir,
        *,
        precision: str,
        device: str | None,
        threads: int | None,
        cuda_graph: bool,
    ) -> Backend: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """One row of the table.

    precisions: graph sets it would rather have, best first; gpu_precisions: the same on a GPU, for an engine
    that also runs on a CPU. ready: of a directory, the graph sets that it can open on a device at once; None
    where that is every set which names it.
    """

    name: str
    precisions: tuple[str, ...]
    gpu_precisions: tuple[str, ...] | None = None
    usable: Callable[[], Usability]
    open: Opener
    ready: Callable[[EngineDir, str | None], tuple[str, ...]] | None = None


# In the order of "auto". Another engine is a file in this folder and a row here.
# Plans for this machine come first. On a CPU it is ONNX Runtime, whatever the model's size: it computes fp32
# everywhere, so a directory gives the same depth on every machine, and in fp32 it is the faster one (nano:
# 54 ms against 71). A bf16 set on OpenVINO takes half of that CPU time where the CPU has bfloat16 units, but
# rounds otherwise: that is for whoever asks for it, with backend="openvino", precision="bf16".
ENGINES: tuple[Engine, ...] = (
    Engine(
        name=tensorrt_here.NAME,
        precisions=tensorrt.PRECISIONS,
        usable=tensorrt_here.usable,
        open=tensorrt.open_backend,
        ready=tensorrt.ready,
    ),
    Engine(
        name=onnxruntime.NAME,
        precisions=onnxruntime.PRECISIONS,
        gpu_precisions=onnxruntime.GPU_PRECISIONS,
        usable=onnxruntime.usable,
        open=onnxruntime.open_backend,
    ),
    Engine(
        name=openvino.NAME,
        precisions=openvino.PRECISIONS,
        usable=openvino.usable,
        open=openvino.open_backend,
    ),
)


def open_backend(
    engine_dir: EngineDir,
    *,
    backend: str,
    device: str | None,
    precision: str | None,
    threads: int | None,
    cuda_graph: bool = True,
) -> Backend:
    """EngineDir -> opened Backend.

    backend: a name, which works or raises; "auto": the first of ENGINES that is usable here and has graphs in
    the directory, or plans for this machine. precision: a graph set; None for the engine's first choice among
    those that are for it. cuda_graph: replay frames from CUDA graphs, where the engine can.
    Raises BackendUnavailableError, and what opening raises: GraphError, StageMismatchError.
    """
    if threads is not None and threads < 1:
        raise BackendUnavailableError(f"threads={threads} cannot run anything: say 1 or more, or None.")
    candidates = [engine for engine in ENGINES if backend in ("auto", engine.name)]
    if not candidates:
        names = ", ".join(engine.name for engine in ENGINES)
        raise BackendUnavailableError(f"backend={backend!r} is not known: say 'auto' or one of {names}.")
    reasons, error_kind = [], BackendUnavailableError
    for engine in candidates:
        usability = engine.usable()
        ready = engine.ready(engine_dir, device) if engine.ready and usability.usable else None
        if backend == "auto" and ready is not None and not (precision in ready if precision else ready):
            path = engine_dir.path
            reasons.append(f"{engine.name} has no plans for this machine. Run: fiffdepth build {path}")
            continue
        try:
            planned = {plan.precision for plan in engine_dir.manifest.plans}
            among = None if precision or ready is None else ready or planned
            chosen = choose_precision(engine_dir.manifest, engine, precision, among or None, device=device)
        except BackendUnavailableError as error:
            reasons.append(str(error))
            continue
        if usability.usable:
            return engine.open(
                engine_dir, precision=chosen, device=device, threads=threads, cuda_graph=cuda_graph
            )
        reasons.append(f"{usability.why}. Run: {usability.fix}")
        error_kind = usability.error
    raise (error_kind if len(candidates) == 1 else BackendUnavailableError)(" ".join(reasons))


def choose_precision(
    manifest: Manifest,
    engine: Engine,
    precision: str | None,
    among: Collection[str] | None = None,
    *,
    device: str | None = None,
) -> str:
    """The graph set that `engine` shall open, or the sets that differ in their grid alone (`families`).

    among: those that it can; None for all that name it. Raises BackendUnavailableError, naming what is there.
    """
    sets = manifest.graph_sets
    takes = sorted(
        name
        for name, keys in families(manifest).items()
        if all(engine.name in sets[key].backends for key in keys.values())
        and (among is None or name in among)
    )
    if precision in takes:
        return precision
    if precision is None and takes:
        on_gpu = device is not None and device.startswith("cuda")
        preferred = (engine.gpu_precisions if on_gpu else None) or engine.precisions
        return next((name for name in preferred if name in takes), takes[0])
    there = f"The directory holds {', '.join(sorted(sets))}; {engine.name} takes {', '.join(takes) or 'none'}"
    if precision is None:
        raise BackendUnavailableError(f"{there}. Export a set for it: python -m export.build_engines")
    if precision not in sets:
        raise BackendUnavailableError(f"precision={precision!r} is not here. {there}.")
    raise BackendUnavailableError(
        f"{engine.name} cannot run {precision}; {', '.join(sets[precision].backends)} can. {there}."
    )

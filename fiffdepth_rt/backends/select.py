"""Which engine opens a directory: the one asked for, or the best that is usable here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from fiffdepth_rt.backends import Backend, Usability
from fiffdepth_rt.backends.grids import Size, families
from fiffdepth_rt.backends.onnxruntime import backend as onnxruntime
from fiffdepth_rt.backends.openvino import backend as openvino
from fiffdepth_rt.backends.room import require_host_room
from fiffdepth_rt.backends.tensorrt import backend as tensorrt
from fiffdepth_rt.backends.tensorrt import here as tensorrt_here
from fiffdepth_rt.backends.tensorrt import versions as tensorrt_versions
from fiffdepth_rt.backends.tensorrt.flavour import FLAVOURS, TENSORRT_RTX
from fiffdepth_rt.engine_dir.checking import EngineDir
from fiffdepth_rt.engine_dir.manifest import PRECISIONS, GraphSet, Manifest
from fiffdepth_rt.errors import BackendUnavailableError


class Opener(Protocol):
    """The `open_backend` of an engine's backend.py."""

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

    takes: whether the engine can run such graphs. precisions: the graph sets that the engine prefers, best
    first; gpu_precisions: the same on a GPU, for an engine that also runs on a CPU. ready: a directory and a
    device -> the graph sets that the engine can open there without building anything; None for an engine
    that never has to build.
    """

    name: str
    precisions: tuple[str, ...]
    gpu_precisions: tuple[str, ...] | None = None
    usable: Callable[[], Usability]
    takes: Callable[[GraphSet], bool]
    open: Opener
    ready: Callable[[EngineDir, str | None], tuple[str, ...]] | None = None


# In the order of "auto". Another engine is a folder beside this file and a row here.
# Plans for this machine come first. On a CPU it is ONNX Runtime, whatever the model's size: it computes fp32
# everywhere, so a directory gives the same depth on every machine, and in fp32 it is the faster one (nano:
# 54 ms against 71). A bf16 set on OpenVINO takes half of that CPU time where the CPU has bfloat16 units, but
# rounds otherwise: that is for whoever asks for it, with backend="openvino", precision="bf16".
ENGINES: tuple[Engine, ...] = (
    *(
        Engine(
            name=flavour.name,
            precisions=tensorrt.PRECISIONS,
            usable=partial(tensorrt_here.usable, flavour),
            takes=partial(tensorrt_versions.takes, flavour=flavour),
            open=partial(tensorrt.open_backend, flavour=flavour),
            ready=partial(tensorrt.ready, flavour=flavour),
        )
        for flavour in FLAVOURS
    ),
    Engine(
        name=onnxruntime.NAME,
        precisions=onnxruntime.PRECISIONS,
        gpu_precisions=onnxruntime.GPU_PRECISIONS,
        usable=onnxruntime.usable,
        takes=onnxruntime.takes,
        open=onnxruntime.open_backend,
    ),
    Engine(
        name=openvino.NAME,
        precisions=openvino.PRECISIONS,
        usable=openvino.usable,
        takes=openvino.takes,
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
    size: Size = None,
    check_room: bool = True,
) -> Backend:
    """EngineDir -> opened Backend.

    backend, precision: as in `choose_engine`. cuda_graph: replay frames from CUDA graphs, where it can.
    size: as in `Depth`; what photos of this size need must be free, unless check_room is False.
    Raises HostMemoryError, BackendUnavailableError, and what opening raises: GraphError, StageMismatchError.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        number = "; text from the environment needs int(...)" if isinstance(threads, str) else ""
        raise BackendUnavailableError(
            f"threads={threads!r} cannot run anything: say a whole number, 1 or more, or None{number}."
        )
    if device is not None and not isinstance(device, str):
        raise BackendUnavailableError(
            f"device={device!r} is not known: say 'cpu', 'cuda' or 'cuda:1', as text, or None."
        )
    engine, chosen = choose_engine(engine_dir, backend=backend, device=device, precision=precision)
    if check_room:
        require_host_room(
            engine_dir.manifest,
            backend=engine.name,
            device="cpu" if device is None else device,
            precision=chosen,
            size=size,
        )
    return engine.open(engine_dir, precision=chosen, device=device, threads=threads, cuda_graph=cuda_graph)


def choose_engine(
    engine_dir: EngineDir, *, backend: str, device: str | None, precision: str | None
) -> tuple[Engine, str]:
    """EngineDir -> the engine that opens it here, and the graph set, or the family of sets, that it opens.

    backend: a name, which works or raises; "auto": the first of ENGINES that is usable here and has graphs in
    the directory, or plans for this machine. To see that, the libraries of those before it are loaded into
    this process. precision: a graph set; None for the engine's first choice among those that are for it.
    Raises BackendUnavailableError.
    """
    candidates = [engine for engine in ENGINES if backend in ("auto", engine.name)]
    if not candidates:
        names = ", ".join(engine.name for engine in ENGINES)
        raise BackendUnavailableError(f"backend={backend!r} is not known: say 'auto' or one of {names}.")
    manifest, path = engine_dir.manifest, engine_dir.path
    _check_exported(manifest, precision)
    reasons, error_kind = list[str](), BackendUnavailableError
    for engine in candidates:
        usability = engine.usable()
        ready = engine.ready(engine_dir, device) if engine.ready and usability.usable else None
        if backend == "auto" and ready is not None and not (precision in ready if precision else ready):
            rtx = " --flavour rtx" if engine.name == TENSORRT_RTX.name else ""
            reasons.append(f"{engine.name} has no plans for this machine. Run: fiffdepth build {path}{rtx}")
            continue
        try:
            planned = {plan.precision for plan in manifest.plans if plan.flavour == engine.name}
            among = None if precision or ready is None else ready or planned
            chosen = choose_precision(manifest, engine, precision, among or None, device=device)
        except BackendUnavailableError as error:
            reasons.append(str(error))
            continue
        if usability.usable:
            return engine, chosen
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

    among: the graph sets to choose from; None for all that the engine takes. Raises
    BackendUnavailableError, naming what is there.
    """
    sets = manifest.graph_sets
    _check_exported(manifest, precision)
    names = families(manifest)
    taken = sorted(
        name
        for name, keys in names.items()
        if all(engine.takes(sets[key]) for key in keys.values()) and (among is None or name in among)
    )
    if precision in taken:
        return precision
    if precision is None and taken:
        on_gpu = device is not None and device.startswith("cuda")
        preferred = (engine.gpu_precisions if on_gpu else None) or engine.precisions
        return next((name for name in preferred if name in taken), taken[0])
    if precision is None:
        raise BackendUnavailableError(
            f"The directory holds {', '.join(sorted(sets))}; {engine.name} takes none of these. "
            f"Where the checkpoint is, run: {_export_command(manifest, engine.precisions[0])}"
        )
    others = [
        other.name for other in ENGINES if all(other.takes(sets[key]) for key in names[precision].values())
    ]
    instead = f"; {', '.join(sorted(others))} can" if others else ""
    raise BackendUnavailableError(
        f"{engine.name} cannot run {precision}{instead}. "
        f"It takes {', '.join(taken) or 'nothing'} of what the directory holds."
    )


def _check_exported(manifest: Manifest, precision: str | None) -> None:
    """Raises BackendUnavailableError unless graphs of this name are in the directory, for whatever engine."""
    names = families(manifest)
    if precision is None or precision in names:
        return
    instead = (
        f"Where the checkpoint is, run: {_export_command(manifest, precision)}"
        if precision in PRECISIONS
        else "Say one of these."
    )
    raise BackendUnavailableError(
        f"precision={precision!r} is not here. The directory holds {', '.join(sorted(names))}. {instead}"
    )


def _export_command(manifest: Manifest, precision: str) -> str:
    """What exports the graph sets of this directory, and one of `precision` besides."""
    there = [graph_set.precision for graph_set in manifest.graph_sets.values()]
    wanted = ",".join(dict.fromkeys([*there, precision]))
    return f"python -m export.build_engines CHECKPOINT --precision {wanted}"

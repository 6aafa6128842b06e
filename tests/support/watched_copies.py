"""Every copy that CUDA is told to make, for tests: on a GPU, and on the stand-in of cuda_stand_in.py alike.

CUDA's runtime is wrapped, not our code. What was captured counts each time its CUDA graph is launched.
"""

# ruff: noqa: N802 -- the names are CUDA's
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

H2D, D2H, D2D = "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copy:
    """kind: H2D, D2H or D2D. host: the address on the host; None where the copy stays on the GPU."""

    kind: str
    nbytes: int
    host: int | None


class _Runtime:
    """cuda.bindings.runtime, which notes the copies and passes every call on."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.seen: list[Copy] = []
        self._capturing: dict[int, list[Copy]] = {}  # by the handle of a stream
        self._captured: dict[int, tuple[Any, list[Copy]]] = {}  # by CUDA graph; the graph is kept alive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def cudaMemcpyAsync(self, to: int, from_: int, nbytes: int, kind: Any, stream: Any) -> Any:
        self._note(to, from_, nbytes, kind, stream)
        return self._runtime.cudaMemcpyAsync(to, from_, nbytes, kind, stream)

    def cudaMemcpy2DAsync(
        self, to: int, to_pitch: int, from_: int, pitch: int, width: int, rows: int, kind: Any, stream: Any
    ) -> Any:
        self._note(to, from_, width * rows, kind, stream)
        return self._runtime.cudaMemcpy2DAsync(to, to_pitch, from_, pitch, width, rows, kind, stream)

    def _note(self, to: int, from_: int, nbytes: int, kind: Any, stream: Any) -> None:
        host = {H2D: from_, D2H: to}.get(kind.name)
        copy = Copy(kind=kind.name, nbytes=nbytes, host=host)
        self._capturing.get(_key(stream), self.seen).append(copy)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> Any:
        self._capturing[_key(stream)] = []
        return self._runtime.cudaStreamBeginCapture(stream, mode)

    def cudaStreamEndCapture(self, stream: Any) -> Any:
        copies = self._capturing.pop(_key(stream))
        status, graph = self._runtime.cudaStreamEndCapture(stream)
        self._captured[_key(graph)] = (graph, copies)
        return status, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        status, executable = self._runtime.cudaGraphInstantiate(graph, flags)
        self._captured[_key(executable)] = (executable, self._captured[_key(graph)][1])
        return status, executable

    def cudaGraphLaunch(self, executable: Any, stream: Any) -> Any:
        self.seen += self._captured[_key(executable)][1]
        return self._runtime.cudaGraphLaunch(executable, stream)


def _key(handle: Any) -> int:
    """The stand-in's handles are numbers; cuda-python's are objects, of which our code keeps one each."""
    return handle if isinstance(handle, int) else id(handle)


@contextlib.contextmanager
def watched_copies() -> Iterator[_Watch]:
    """From here to the end of the block. CUDA graphs that were captured before cannot be launched in it."""
    import cuda.bindings

    runtime = cuda.bindings.runtime
    watched = _Runtime(runtime)
    cuda.bindings.runtime = watched
    try:
        yield _Watch(watched)
    finally:
        cuda.bindings.runtime = runtime


class _Watch:
    """What is seen: `take` gives the copies since the last `take`."""

    def __init__(self, runtime: _Runtime) -> None:
        self._runtime = runtime

    def take(self) -> list[Copy]:
        seen, self._runtime.seen = self._runtime.seen, []
        return seen

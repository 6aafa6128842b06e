"""Source -> Result, through a Depth."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from fiffdepth_rt.depth import Depth
from fiffdepth_rt.errors import DamagedVideoError
from fiffdepth_rt.stream import Frame
from fiffdepth_rt.video.result import Result
from fiffdepth_rt.video.source import Source


def convert(
    depth: Depth, source: Source, result: Result, *, smooth: float | None = None
) -> Generator[int, None, None]:
    """Every frame of `source` through `depth` into `result`; yields how many are done after each.

    A live source is not made to wait: the latest frame wins. However this ends, `result` is closed and holds
    the frames so far. Raises what Depth.stream, the source and the result raise.
    """
    result.begin(_made_of(depth, source, smooth))
    # Smoothing needs every frame, also those whose pictures are there.
    frames = source if smooth is not None else _wanted(source, result)
    whole = False
    try:
        with depth.stream(frames, drop="oldest" if source.live else "never", smooth=smooth) as stream:
            for item in stream:
                result.write(item)
                yield result.frames + result.already
        whole = not source.stopped
    except DamagedVideoError:  # raised behind the last frame
        whole = True
        raise
    finally:
        result.close(whole=whole)


def _wanted(source: Source, result: Result) -> Iterator[Frame]:
    for frame in source:
        if result.has(frame.tag.number):
            result.skip()
        else:
            yield frame


def _made_of(depth: Depth, source: Source, smooth: float | None) -> dict[str, Any]:
    """All that the values depend on, but for the processor."""
    return {
        "source": source.name,
        "bytes": sum(path.stat().st_size for path in source.paths if path.is_file()),
        **depth.made_of(),
        "smooth": smooth,
        **({"began": time.time()} if source.live else {}),  # what was missed does not come back
    }

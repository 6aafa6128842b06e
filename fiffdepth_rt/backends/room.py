"""Is there room? What opening a directory and computing on a grid will take, and what this machine has free.

For engines on a CPU the figures are the manifest's, measured by fiffdepth_rt/memory.py: what does not fit is
refused before it takes other programs' memory away. Plans have their own figures (tensorrt/backend.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from fiffdepth_rt.backends.grids import GridHW, Size, families, is_possible
from fiffdepth_rt.engine_dir.manifest import Manifest, MemoryRecord, SizeLimits
from fiffdepth_rt.errors import HostMemoryError
from fiffdepth_rt.machine import free_memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of host memory that one engine needs for one image on a grid.

    opening_bytes: the most while it opens. opened_bytes: what stays. computing_bytes: besides, the most while
    it computes; `predicted` where the grid itself was not measured.
    """

    grid: GridHW
    opening_bytes: int
    opened_bytes: int
    computing_bytes: int
    predicted: bool

    @property
    def most_bytes(self) -> int:
        return max(self.opening_bytes, self.opened_bytes + self.computing_bytes)


def records_for(manifest: Manifest, *, backend: str, device: str, precision: str) -> list[MemoryRecord]:
    """What was measured of the graph sets that can be asked for by `precision`, on this engine."""
    keys = families(manifest)[precision].values()
    return [
        record
        for record in manifest.memory
        if (record.backend, record.device) == (backend, device) and record.graph_set in keys
    ]


def need_on(grid: GridHW, records: Sequence[MemoryRecord]) -> Need | None:
    """Measured records of one engine -> what it needs on a grid; None without a record.

    On a grid that was not measured: activations grow with the pixels p, those of attention with p², so
    computing_bytes is a·p + b·p² through what was measured. By one record alone it grows with p² to larger
    grids and shrinks with p to smaller ones: the more cautious of both.
    """
    if not records:
        return None
    opening = max(record.opening_bytes for record in records)
    opened = max(record.opened_bytes for record in records)
    measured = {record.grid: record.computing_bytes for record in records}
    computing = measured.get(grid)
    return Need(
        grid=grid,
        opening_bytes=opening,
        opened_bytes=opened,
        computing_bytes=_grown(grid, measured) if computing is None else computing,
        predicted=computing is None,
    )


def _grown(grid: GridHW, measured: dict[GridHW, int]) -> int:
    pixels = grid[0] * grid[1]
    known = {h * w: nbytes for (h, w), nbytes in measured.items()}
    if len(known) == 1:
        ((one, nbytes),) = known.items()
        ratio = pixels / one
        return round(nbytes * max(ratio, ratio**2))
    p = np.array(list(known), dtype=np.float64) / pixels
    taken = np.array(list(known.values()), dtype=np.float64)
    a, b = (float(c) for c in np.linalg.lstsq(np.stack([p, p**2], axis=1), taken, rcond=None)[0])
    if a < 0 or b < 0:  # noise: the pixels alone tell as much
        return round(float((taken / p).max()))
    return round(a + b)


def require_host_room(manifest: Manifest, *, backend: str, device: str, precision: str, size: Size) -> None:
    """Raises HostMemoryError where an engine on the CPU cannot fit in the memory that is free here.

    size: as in `Depth`. Where nothing was measured, or the system does not tell what is free, nothing is
    refused: the manifest of an older export has no figures.
    """
    if device != "cpu":
        return
    free = free_memory()
    records = records_for(manifest, backend=backend, device=device, precision=precision)
    grids = _grids(manifest, precision, size)
    need = need_on(grids[0], records)
    if need is None or free is None or need.most_bytes <= free:
        return
    fitting = [grid for grid in grids[1:] if need_on(grid, records).most_bytes <= free]  # type: ignore[union-attr]
    if fitting:
        way = f"The largest grid that fits is {_shown(fitting[0])}: say size={max(fitting[0])}."
    else:
        way = "No grid of this model fits: close other programs, or take graphs of half the precision."
    raise HostMemoryError(
        f"{precision} on {backend} needs {_gb(need.most_bytes)} at {_shown(need.grid)} "
        f"({_gb(need.opened_bytes)} for weights, {_gb(need.computing_bytes)} to compute"
        f"{', predicted' if need.predicted else ''}), and {_gb(free)} are free. Nothing was opened. {way}"
    )


def _grids(manifest: Manifest, precision: str, size: Size) -> list[GridHW]:
    """The grid asked for, a square where photos decide it, and after it smaller ones, the largest first."""
    fixed = [grid for grid in families(manifest)[precision] if grid is not None]
    if isinstance(size, tuple):
        asked = size
    elif fixed:  # which of them a photo needs is not known yet: the smallest is enough to begin
        asked = min(fixed, key=_area)
    else:
        asked = _square(manifest.size.default if size is None else size, manifest.size)
    others: Iterable[GridHW] = fixed or (
        _square(side, manifest.size) for side in range(max(asked), 0, -manifest.size.multiple)
    )
    smaller = sorted({grid for grid in others if _area(grid) < _area(asked)}, key=_area, reverse=True)
    return [asked, *smaller]


def _square(side: int, limits: SizeLimits) -> GridHW:
    rounded = -(-side // limits.multiple) * limits.multiple
    grid = (rounded, rounded)
    return grid if is_possible(grid, limits) else (limits.max, limits.max)


def _area(grid: GridHW) -> int:
    return grid[0] * grid[1]


def _shown(grid: GridHW) -> str:
    return f"{grid[0]}x{grid[1]}"


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"

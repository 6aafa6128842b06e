"""Which grids an engine takes, which of them a photo goes on, and how many images go through at once.

Free grids (dynamic graphs): the longer side is the size asked for, both are rounded up to the multiple.
Fixed grids (graphs exported with --static, TensorRT plans): the one that wastes least, see `least_wasteful`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fiffdepth_rt.engine_dir.manifest import GraphSet, Manifest, SizeLimits, TensorSpec, divisor_of
from fiffdepth_rt.errors import SizeError
from fiffdepth_rt.image import grid_for

GridHW = tuple[int, int]
Size = int | GridHW | None
"""The longer side in px; a grid's (height, width); None for the model's default, or any fixed grid."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grids:
    """What an engine takes. fixed: the only (height, width), px; empty where all within `limits` are."""

    limits: SizeLimits
    fixed: tuple[GridHW, ...] = ()

    def choose(self, photo_hw: tuple[int, int], size: Size = None) -> GridHW:
        """photo's (height, width) -> the grid it goes on; the same for the same photo, always.

        A grid asked for is taken as it is. Of fixed grids, those whose longer side is nearest to a size asked
        for are left, all of them where none is; see `least_wasteful` for the rest.
        Raises SizeError for a grid that this engine does not take.
        """
        if isinstance(size, tuple):
            return self._checked(size)
        if not self.fixed:
            return grid_for(photo_hw, size=size or self.limits.default, multiple=self.limits.multiple)
        left = self.fixed
        if size is not None:
            nearest = min(abs(max(grid) - size) for grid in left)
            left = tuple(grid for grid in left if abs(max(grid) - size) == nearest)
        return least_wasteful(photo_hw, left, default=self.limits.default)

    def describe(self) -> list[str] | str:
        """For `Depth.describe`: the fixed grids, or what all have in common."""
        if self.fixed:
            return ["{}x{}".format(*grid) for grid in self.fixed]
        return f"multiples of {self.limits.multiple}, up to {self.limits.max}"

    def _checked(self, grid: GridHW) -> GridHW:
        if self.fixed:
            if grid not in self.fixed:
                there = ", ".join(f"{h}x{w}" for h, w in self.fixed)
                raise SizeError(
                    f"No engine is here for the grid {grid[0]}x{grid[1]}; there is one for {there}. Take one "
                    "of these, or export it (--static) or build it (fiffdepth build --grid)."
                )
            return grid
        if not is_possible(grid, self.limits):
            raise SizeError(
                f"The grid {grid[0]}x{grid[1]} is not possible: both sides are multiples of "
                f"{self.limits.multiple} px, up to {self.limits.max}."
            )
        return grid


def is_possible(grid: GridHW, limits: SizeLimits) -> bool:
    """Whether a model with free grids takes this one: both sides are multiples, and neither is too large."""
    return all(side % limits.multiple == 0 and 0 < side <= limits.max for side in grid)


def wasted_share(photo_hw: tuple[int, int], grid: GridHW) -> Fraction:
    """The share of a grid that padding takes, before any rounding to whole px; 0 where the aspects agree.

    1 − min(h·W, w·H) / max(h·W, w·H) for a photo of H×W on a grid of h×w.
    """
    one, other = grid[0] * photo_hw[1], grid[1] * photo_hw[0]
    return 1 - Fraction(min(one, other), max(one, other))


def least_wasteful(photo_hw: tuple[int, int], grids: Iterable[GridHW], *, default: int) -> GridHW:
    """The grid with the smallest share of padding.

    Of those that waste the same: the one whose longer side is nearest to `default` px, then the one with
    fewer pixels, then the lower one.
    """
    return min(
        grids,
        key=lambda grid: (
            wasted_share(photo_hw, grid),
            abs(max(grid) - default),
            grid[0] * grid[1],
            grid,
        ),
    )


def own_grid(graphs: GraphSet) -> GridHW | None:
    """The only (height, width) that the graphs take, px; None where both are free."""
    _, height, width, _ = graphs.stages["encoder"].inputs[0].shape
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def tensor_shape(spec: TensorSpec, grid: GridHW, batch: int) -> tuple[int, ...]:
    """A stage's tensor -> its shape for so many images on a (height, width) grid."""
    sizes = {"batch": batch, "height": grid[0], "width": grid[1]}

    def size(symbol: str) -> int:
        name, divisor = divisor_of(symbol)
        return sizes[name] // divisor

    return tuple(size(dim) if isinstance(dim, str) else dim for dim in spec.shape)


def families(manifest: Manifest) -> dict[str, dict[GridHW | None, str]]:
    """Names by which graph sets can be asked for -> their keys in the manifest, by the grid each is for.

    Every set by its own key, the grid being None where grids are free; and sets that differ in their grid
    alone together: "fp16" for fp16-512x512 and fp16-384x640, unless a set of that name is there.
    """
    sets = manifest.graph_sets
    grids = {key: own_grid(graphs) for key, graphs in sets.items()}
    found: dict[str, dict[GridHW | None, str]] = {}
    for key, grid in sorted(grids.items()):
        name = key if grid is None else key.removesuffix("-{}x{}".format(*grid))
        # A camera's graphs take pictures of one camera: nobody else's photo belongs on them.
        if name not in sets and sets[key].form != "camera":
            found.setdefault(name, {})[grid] = key
    return found | {key: {grid: key} for key, grid in grids.items()}


def split(image_BHW3: npt.NDArray[np.uint8], size: SizeLimits) -> Iterator[npt.NDArray[np.uint8]]:
    """Images -> parts, none with more pixels than one image of the largest size: that bounds the memory."""
    batch, height, width, _ = image_BHW3.shape
    at_once = max(1, size.max**2 // (height * width))
    for start in range(0, batch, at_once):
        yield image_BHW3[start : start + at_once]

"""What 0 and 1 mean in a depth map. No other file says it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from fiffdepth_rt.errors import ImageError

if TYPE_CHECKING:  # the engine directory reads this file, also where numpy cannot be imported
    import numpy as np
    import numpy.typing as npt


class Space(str, enum.Enum):
    """The space of a depth map: what its values are of z, the distance of a pixel along the optical axis.

        DEPTH        a·z + b      0 = nearest, 1 = farthest
        DISPARITY    a/z + b      1 = nearest, 0 = farthest

    Both are affine-invariant: a > 0 and b are unknown, so values say which pixel is nearer, and not how many
    metres away it is.

    A Space is its own name, so `space == "depth"` holds, and JSON holds "depth". `Space("metres")` raises
    ImageError.
    """

    DEPTH = "depth"
    DISPARITY = "disparity"

    # As a str says them: Python 3.12 began to format members of such enums as "Space.DEPTH".
    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    @classmethod
    def _missing_(cls, value: object) -> Space:
        raise ImageError(f"space={value!r} is not known: say {' or '.join(repr(str(s)) for s in cls)}.")

    @property
    def zero(self) -> str:
        """What 0 is: "nearest" or "farthest". 1 is the other one."""
        return "nearest" if self is Space.DEPTH else "farthest"

    @property
    def sentence(self) -> str:
        """What the values are, for people."""
        return f"Values are {self}: 0 is the {self.zero}; relative, not metres."

    @property
    def unit(self) -> str:
        """What the values would be multiples of if their scale and shift were known."""
        return "metres" if self is Space.DEPTH else "inverse metres"

    def ends(self, low: str = "0", high: str = "1") -> str:
        """What the ends of a scale from `low` to `high` mean, such as "0 = nearest, 1 = farthest"."""
        near, far = (low, high) if self.zero == "nearest" else (high, low)
        return f"{near} = nearest, {far} = farthest"

    def nearness(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values of this space, in [0, 1] -> how near they are: 0 = farthest, 1 = nearest."""
        return 1 - values if self.zero == "nearest" else values

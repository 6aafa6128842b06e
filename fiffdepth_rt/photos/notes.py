"""What was done to a photo that its pixels do not show."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """One sentence. kind: the same for all photos to which the same was done, whatever their numbers."""

    kind: Literal["end", "light", "bands", "range"]
    text: str

    def __str__(self) -> str:
        return self.text

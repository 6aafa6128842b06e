"""A dataset of photos in memory, for labelling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.samples import Photo, SampleError


class Listed:
    """Photos in memory; None is one that cannot be read."""

    name, licence = "listed", "CC0-1.0"

    def __init__(self, photos: dict[str, NDArray[np.uint8] | None]) -> None:
        self._photos = photos
        self.names = list(photos)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Photo:
        photo = self._photos[self.names[index]]
        if photo is None:
            raise SampleError(self.names[index], "damaged")
        return Photo(photo=photo, name=self.names[index])

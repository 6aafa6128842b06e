"""What OpenCV reads better than Pillow: colours of 16 bits, and light."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def decoded(data: bytes) -> Array:
    """File -> its values as they are: H×W, H×W×3 RGB or H×W×4 RGBA. Raises cv2.error or ValueError."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("OpenCV cannot decode it")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        return np.asarray(
            cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        )
    return np.asarray(values)


def is_deep_png(path: Path) -> bool:
    """Whether a PNG has 16 bits for each of several channels."""
    with path.open("rb") as file:
        header = file.read(26)
    return header[24] == 16 and header[25] != 0  # bit depth, colour type


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """OpenCV's decoders write to stderr what our errors say. For the whole process, until the block ends."""
    log: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # until 4.12; from 4.13 on
    before = log.getLogLevel()
    log.setLogLevel(0)  # silent
    try:
        yield
    finally:
        log.setLogLevel(before)

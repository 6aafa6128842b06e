"""Predictions that were made once: a killed run goes on, and another protocol needs no model.

    FOLDER/<method's key>/<SHA-256 of the photo's pixels>.npy       float32 h×w, as the method gave it

The key is of the weights and of all that changes a map, so what lies there is right whatever a file is
called.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from benchmarks.evaluation.methods import Map, Method, Photo
from fiffdepth_rt.atomic import replacing


def predict(method: Method, photo: Photo, folder: Path | None) -> Map:
    """The method's map of a photo, from `folder` where it lies there, else made and kept there.

    Raises what the method raises, and OutputError where `folder` cannot be written.
    """
    if folder is None or method.key is None:
        return method.predict(photo)
    pixels = np.ascontiguousarray(photo.pixels)
    name = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    path = folder / method.key / f"{name}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged: made again
        kept = np.load(path, allow_pickle=False)
        if kept.ndim == 2 and kept.dtype == np.float32:
            return np.asarray(kept, np.float32)
    made = np.asarray(method.predict(photo), np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.save(file, made)
    return made

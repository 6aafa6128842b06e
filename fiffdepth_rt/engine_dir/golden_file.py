"""golden.npz -> golden values: a stranger's file, so what it declares is checked before memory is taken.

An .npz is a zip of .npy files, each a short header (shape, dtype) before its values. All headers are read
first, and held against the tensors of the manifest's graph sets; then the values. zipfile and zlib raise a
dozen kinds of errors on damaged files, and np.load allocates what a header says: neither reaches the caller.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fiffdepth_rt.engine_dir.golden import CHAIN, Array, Errors, Golden, StageValues, with_chain
from fiffdepth_rt.engine_dir.manifest import GOLDEN_MAX_BYTES, STAGES, Manifest, Stage, TensorSpec, divisor_of
from fiffdepth_rt.errors import ParityError, shortened

_ENTRIES_AT_MOST = 1000
_HEADER_BYTES = 4096  # of a .npy; ours have 128
_LARGEST = 1e6  # of a value; latents and depth are tens at most
_UNCLIPPED = {"unet": "depth_latent", "encoder": "latent", "decoder": "depth_unclipped"}
_Header = tuple[tuple[int, ...], np.dtype[np.generic]]


class _DamagedError(Exception):
    """What is wrong with the file."""


def read_golden(path: Path, manifest: Manifest | None = None) -> Golden:
    """golden.npz -> every stage's values, by image.

    manifest: of its directory; images that fit none of its graph sets are left out, unread. None: the
    export's own file, before there is a manifest.
    Raises ParityError where it cannot be read, lacks some values, or holds what are none.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            headers = dict(_headers(archive))
            images = dict.fromkeys(key.split("/")[0] for key in headers)
            fitting = [image for image in images if manifest is None or _fits(headers, image, manifest)]
            taken = sum(_bytes(headers[key]) for key in headers if key.split("/")[0] in fitting)
            if taken > GOLDEN_MAX_BYTES:
                raise _DamagedError(f"its arrays would take {taken} bytes")
            return {image: _read_image(archive, headers, image) for image in fitting}
    except KeyError as error:
        reason = f"it lacks {shortened(error.args[0])}"
    except _DamagedError as error:
        reason = shortened(error)
    # RuntimeError: zipfile's, for a password
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        MemoryError,
    ) as error:
        reason = f"{type(error).__name__}: {shortened(error)}"
    raise ParityError(f"The golden values in {path} cannot be read ({reason}). Export the directory again.")


def _headers(archive: zipfile.ZipFile) -> Iterator[tuple[str, _Header]]:
    """The shape and dtype of every array, by its key."""
    entries = archive.infolist()
    if len(entries) > _ENTRIES_AT_MOST:
        raise _DamagedError(f"it holds {len(entries)} arrays")
    for entry in entries:
        key = entry.filename.removesuffix(".npy")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _DamagedError(f"{key} is packed as numpy packs nothing")
        with archive.open(entry) as file:
            shape, fortran, dtype = _header(file, key)
            begin = file.tell()
        if fortran and len(shape) > 1:
            raise _DamagedError(f"{key} is not in C order")
        if dtype.kind not in "fu" or dtype.hasobject or dtype.itemsize > 8:
            raise _DamagedError(f"{key} is of dtype {dtype}")
        if entry.file_size != begin + _bytes((shape, dtype)):
            raise _DamagedError(f"{key} says that it has the shape {shape}, which its bytes are not")
        yield key, (shape, dtype)


def _header(file: IO[bytes], key: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _DamagedError(f"{key} is of .npy's version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file, max_header_size=_HEADER_BYTES)
    except Exception as error:  # a header is Python's own text, which fails in Python's many ways
        raise _DamagedError(f"{key} has a header that cannot be read: {shortened(error, 100)}") from error
    if not all(0 <= side < 2**31 for side in shape):
        raise _DamagedError(f"{key} has the shape {shape}")
    return shape, fortran, dtype


def _bytes(header: _Header) -> int:
    shape, dtype = header
    return math.prod(shape) * dtype.itemsize


def _fits(headers: Mapping[str, _Header], image: str, manifest: Manifest) -> bool:
    """Whether an image's shapes are those of the tensors of some graph set."""
    return any(
        all(_stage_fits(headers, image, name, graphs.stages[name], manifest.size.max) for name in STAGES)
        for graphs in manifest.graph_sets.values()
    )


def _stage_fits(headers: Mapping[str, _Header], image: str, name: str, stage: Stage, largest: int) -> bool:
    given = {spec.name: spec for spec in stage.outputs}[_UNCLIPPED[name]]
    pairs = ((f"{image}/{name}/input", stage.inputs[0]), (f"{image}/{name}/output", given))
    sides: dict[str, int] = {}
    return all(_spec_fits(spec, headers[key][0], largest, sides) for key, spec in pairs)


def _spec_fits(spec: TensorSpec, shape: tuple[int, ...], largest: int, sides: dict[str, int]) -> bool:
    """sides: what the free sides of this image have been so far; filled."""
    if len(shape) != len(spec.shape):
        return False
    for dim, side in zip(spec.shape, shape, strict=True):
        if isinstance(dim, int):
            fits = dim == side
        elif dim == "batch":
            fits = side == 1
        else:
            name, divisor = divisor_of(dim)
            whole = side * divisor
            fits = 0 < whole <= largest and sides.setdefault(name, whole) == whole
        if not fits:
            return False
    return True


def _read_image(
    archive: zipfile.ZipFile, headers: Mapping[str, _Header], image: str
) -> dict[str, StageValues]:
    values = {
        stage: StageValues(
            input=_read_array(archive, headers, f"{image}/{stage}/input"),
            output=_read_array(archive, headers, f"{image}/{stage}/output"),
            rounding=_read_rounding(archive, headers, image, stage),
        )
        for stage in STAGES
    }
    if values["encoder"].input.ndim != 4 or 0 in values["encoder"].input.shape:
        raise _DamagedError(f"{image}/encoder/input is no image")
    return with_chain(values, _read_rounding(archive, headers, image, CHAIN))


def _read_array(archive: zipfile.ZipFile, headers: Mapping[str, _Header], key: str) -> Array:
    shape, _ = headers[key]
    with archive.open(f"{key}.npy") as file:
        array: Array = npy.read_array(file, allow_pickle=False, max_header_size=_HEADER_BYTES)
    with np.errstate(all="ignore"):
        if array.shape != shape or not (np.abs(array) <= _LARGEST).all():  # also for NaN
            raise _DamagedError(f"{key} holds values that are not finite, or beyond {_LARGEST:g}")
    return array


def _read_rounding(
    archive: zipfile.ZipFile, headers: Mapping[str, _Header], image: str, stage: str
) -> Errors | None:
    if (key := f"{image}/{stage}/rounding") not in headers:
        return None
    if headers[key][0] != (3,):
        raise _DamagedError(f"{key} are no errors")
    max_abs, p999, mean_abs = _read_array(archive, headers, key).astype(np.float64).tolist()
    if not 0 <= mean_abs <= max_abs or not 0 <= p999 <= max_abs:
        raise _DamagedError(f"{key} are no errors")
    return Errors(max_abs=max_abs, p999=p999, mean_abs=mean_abs)

"""Teacher labels on disk: one 16-bit file per photo, and a header that says what all of them mean.

    labels/
      header.json                 space, dtype, teacher, licence, how the labels were made (Header)
      trip/sea.jpg.png            the label of photo "trip/sea.jpg" (uint16), or
      trip/sea.jpg.safetensors    the same as float16

Convention: a label is a depth picture as in samples.py, 2 %/98 % normalised, in the header's space.
uint16 holds 1 + round((picture + 1) / 2 × 65534), 0 where invalid; float16 the picture, NaN where invalid.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load, save

from fiffdepth_rt.atomic import NAME_MAX_BYTES, replacing
from fiffdepth_rt.space import Space
from training.data.samples import DataError, SampleError

Dtype = Literal["uint16", "float16"]

HEADER = "header.json"
FORMAT = "fiffdepth-labels"
FORMAT_VERSION = 1
ENCODING = {
    "uint16": "1 + round((picture + 1) / 2 * 65534); 0 = invalid",
    "float16": "picture; NaN = invalid",
}
_ENDINGS = {"uint16": ".png", "float16": ".safetensors"}


class LabelError(SampleError):
    """The label of one photo is missing, damaged, or cannot be written as it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What all labels of one store have in common.

    space: of the labels, see Convention.
    teacher, licence: who made them, and under which terms they may be used.
    made: how the teacher's output became a picture, for people and logs: JSON values only.
    """

    space: Space
    dtype: Dtype
    teacher: str
    licence: str
    made: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("space", tuple(Space)), ("dtype", get_args(Dtype))):
            if getattr(self, name) not in known:
                raise DataError(f"{name}={getattr(self, name)!r} is not known: say {' or '.join(known)}.")


class LabelStore:
    """The labels in a folder, by photo name: `name in store`, `store.picture(name)`, `store.header.space`.

    Any number of processes may read and write one store at once; a label that is there is complete.
    Raises DataError if the folder holds no readable header.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.header = _read_header(self.folder / HEADER)

    @classmethod
    def create(cls, folder: str | Path, header: Header) -> LabelStore:
        """A new store, or the one that is there if it has the same header.

        Raises DataError if it has another one (labels of two kinds never mix), OutputError.
        """
        path = Path(folder) / HEADER
        if path.exists():
            store = cls(folder)
            differing = [
                f"{field}={mine!r} there, {theirs!r} now"
                for field, mine in dataclasses.asdict(store.header).items()
                if mine != (theirs := getattr(header, field))
            ]
            if differing:
                raise DataError(
                    f"{folder} holds labels of another kind ({'; '.join(differing)}): "
                    "name another folder, or ask for the same kind again."
                )
            return store
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {"format": FORMAT, "format_version": FORMAT_VERSION, **_described(header)}
        with replacing(path) as file:
            file.write(json.dumps(text, indent=2, sort_keys=True).encode())
        return cls(folder)

    def path(self, name: str) -> Path:
        """Where the label of photo `name` lies, there or not. Raises LabelError: "../x", or too long."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise LabelError(name, "cannot name a label: names are relative paths without '..'")
        file = parts[-1] + _ENDINGS[self.header.dtype]
        if len(os.fsencode(file)) > NAME_MAX_BYTES:
            raise LabelError(name, f"its label's name would be longer than {NAME_MAX_BYTES} bytes")
        return self.folder.joinpath(*parts[:-1], file)

    def __contains__(self, name: str) -> bool:
        try:
            return self.path(name).is_file()
        except LabelError:
            return False

    def __iter__(self) -> Iterator[str]:
        """Names of all labels, sorted."""
        ending = _ENDINGS[self.header.dtype]
        files = self.folder.rglob("*" + ending)
        return iter(sorted(p.relative_to(self.folder).as_posix().removesuffix(ending) for p in files))

    def picture(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """name -> (picture float32 H×W in [-1, 1], valid bool H×W); 0 where not valid.

        Raises LabelError if the label is not there or damaged.
        """
        path = self.path(name)
        try:
            data = path.read_bytes()
            return _decode_uint16(data) if self.header.dtype == "uint16" else _decode_float16(data)
        except FileNotFoundError as error:
            raise LabelError(name, f"has no label in {self.folder}: run training.labelling again") from error
        except Exception as error:  # Pillow and safetensors raise a dozen kinds on damaged files
            raise LabelError(
                name,
                f"its label {path} is damaged ({error}): delete it, and run training.labelling again",
            ) from error

    def write(self, name: str, picture: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """(picture float32 H×W in [-1, 1], valid bool H×W) -> file, whole or not there; an older one goes.

        Raises LabelError for values out of range where valid, OutputError where the disk refuses.
        """
        if picture.ndim != 2 or picture.shape != valid.shape:
            raise LabelError(name, f"picture {picture.shape} and valid {valid.shape} are not one H×W")
        inside = picture[valid]
        if inside.size and not (inside.min() >= -1 and inside.max() <= 1):  # NaN fails both
            raise LabelError(name, "values outside of [-1, 1] where valid: normalise them first")
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        encode = _encode_uint16 if self.header.dtype == "uint16" else _encode_float16
        text = {k: v for k, v in _described(self.header).items() if isinstance(v, str)}
        with replacing(path) as file:
            file.write(encode(picture, valid, {"name": _printable(name), **text}))

    def sweep(self) -> int:
        """Remove what killed writers left half-written; returns how many. Only while nobody else writes."""
        left = list(self.folder.rglob(".*.tmp"))  # what atomic.replacing calls its temporary siblings
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def _printable(name: str) -> str:
    """Names of files may hold bytes that are no text; metadata may not."""
    return name.encode("utf-8", "backslashreplace").decode()


def _described(header: Header) -> dict[str, Any]:
    space = Space(header.space)
    ends = space.ends("-1", "+1")
    return {
        **dataclasses.asdict(header),
        "convention": f"affine-invariant {space}, 2 %/98 % normalised: {ends}; not {space.unit}",
        "encoding": ENCODING[header.dtype],
    }


def _read_header(path: Path) -> Header:
    try:
        text = json.loads(path.read_bytes())
        if (text["format"], text["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"format {text['format']!r}, version {text['format_version']!r}")
        return Header(**{field.name: text[field.name] for field in dataclasses.fields(Header)})
    except FileNotFoundError as error:
        raise DataError(
            f"{path.parent} is no label store: it has no {HEADER}. Make one with training.labelling."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be used ({error}): make the labels again.") from error


def _encode_uint16(picture: NDArray[np.float32], valid: NDArray[np.bool_], text: dict[str, str]) -> bytes:
    values = 1 + np.rint((np.where(valid, picture, 0).astype(np.float64) + 1) / 2 * 65534)
    info = PngInfo()
    for key, value in text.items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    # 4: 40 % of the time of the usual 6, for 5 % more bytes.
    Image.fromarray(np.where(valid, values, 0).astype(np.uint16)).save(
        buffer, format="PNG", pnginfo=info, compress_level=4
    )
    return buffer.getvalue()


def _decode_uint16(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        values = np.asarray(file)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ValueError(f"{values.dtype} of shape {values.shape} instead of uint16 H×W")
    valid = values > 0
    picture = (values.astype(np.float32) - 1) * np.float32(2 / 65534) - 1
    return np.where(valid, np.clip(picture, -1, 1), np.float32(0)), valid


def _encode_float16(picture: NDArray[np.float32], valid: NDArray[np.bool_], text: dict[str, str]) -> bytes:
    return save({"picture": np.where(valid, picture, np.nan).astype(np.float16)}, metadata=text)


def _decode_float16(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    picture = load(data)["picture"].astype(np.float32)
    if picture.ndim != 2:
        raise ValueError(f"shape {picture.shape} instead of H×W")
    valid = np.isfinite(picture)
    return np.where(valid, np.clip(picture, -1, 1), np.float32(0)), valid

"""Tensors out of .safetensors files and into diffusers modules; whatever does not fit is listed."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fiffdepth_rt.errors import shortened
from training.weights.configuration import empty_module
from training.weights.errors import CheckpointError

LISTED_AT_MOST = 8
# What a weight can be in, and fp32 holds exactly, but for float64.
_FLOATS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
)
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
_PICKLE_BEGINS = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # zipped by torch, or plain

Tensors = dict[str, torch.Tensor]


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """file.safetensors -> its tensors and its metadata; what a file is, its content says, not its name.

    Raises CheckpointError for a pickle, a truncated or foreign file, and one that is not there.
    """
    if looks_like_pickle(path):
        raise CheckpointError(
            f"{path.name} is a pickle, and whoever opens a pickle runs the program in it, so it is not "
            "opened. This makes a .safetensors of its tensors and runs nothing: "
            f"python -m training.weights.from_pickle {shlex.quote(str(path))} OUT.safetensors"
        )
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118 (not a dict)
    except (
        SafetensorError,
        OSError,
        KeyError,
        AttributeError,
    ) as e:  # the last two: a dtype that torch lacks
        raise CheckpointError(
            f"{path.name} cannot be read as safetensors ({shortened(e)}): it is cut off, or of another kind. "
            "Copy or download it again."
        ) from e


def looks_like_pickle(path: Path) -> bool:
    """Whether a file is what torch.save writes. A safetensors file under a pickle's name is none.

    Raises CheckpointError where there is no such file.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{shortened(path)} does not exist, or is not a file.")
        with path.open("rb") as file:
            begin = file.read(9)
    except CheckpointError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a name that no file can have
        raise CheckpointError(f"{shortened(path)} cannot be read ({shortened(e)}).") from e
    if begin[8:] == b"{":  # safetensors: the length of the header in 8 bytes, and JSON
        return False
    return begin.startswith(_PICKLE_BEGINS) or path.suffix.lower() in PICKLES


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as f:
            while chunk := f.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """The tensors under a prefix, by their names without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def build_module(cls: Any, config: Mapping[str, Any], tensors: Tensors, where: str) -> Any:
    """A diffusers class, a configuration and tensors -> the module in fp32 and eval mode.

    Raises CheckpointError for a configuration that builds no such class, and as `fill_module`.
    """
    return fill_module(empty_module(cls, config, len(tensors), where), tensors, where)


def fill_module(module: Any, tensors: Tensors, where: str) -> Any:
    """A module without weights and its tensors -> the same module in fp32 and eval mode.

    Raises CheckpointError listing what is missing, surplus or misshapen, of a dtype that is no float, or has
    NaN or infinity.
    """
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in tensors.items()}
    both = wanted.keys() & given.keys()
    complaints = {
        "missing": sorted(wanted.keys() - given.keys()),
        "surplus": sorted(given.keys() - wanted.keys()),
        "misshapen": [f"{k} {given[k]} for {wanted[k]}" for k in sorted(both) if wanted[k] != given[k]],
    }
    if any(complaints.values()):
        said = "; ".join(f"{len(v)} {k}: {listed(v)}" for k, v in complaints.items() if v)
        raise CheckpointError(
            f"{where}: the tensors do not fit the {type(module).__name__} of its configuration. {said}. "
            "Is it the right configuration, and the whole file?"
        )
    module.load_state_dict(in_fp32(tensors, where), assign=True)
    return module.eval().requires_grad_(False)


def in_fp32(tensors: Mapping[str, torch.Tensor], where: str) -> Tensors:
    """The tensors of a network in fp32, whatever float they are kept in.

    Raises CheckpointError naming the tensors that are no such floats, or not finite in fp32.
    """
    if odd := [f"{k} ({v.dtype})" for k, v in tensors.items() if v.dtype not in _FLOATS]:
        raise CheckpointError(
            f"{where}: weights are floats of 64, 32, 16 or 8 bits, but {len(odd)} of another dtype: "
            f"{listed(odd)}. Convert them, or take the checkpoint before quantisation."
        )
    whole = {k: v.float() for k, v in tensors.items()}
    if broken := [k for k, v in whole.items() if not torch.isfinite(v).all()]:
        raise CheckpointError(
            f"{where}: {len(broken)} tensors hold NaN or infinity: {listed(broken)}. "
            "The training diverged or the file is damaged: take an earlier checkpoint."
        )
    return whole


def low_precision(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """What to tell of weights that are kept in 8 bits; None where there are none."""
    eights = [v.dtype for v in tensors.values() if v.dtype in _FLOATS and v.dtype.itemsize == 1]
    if not eights:
        return None
    names = sorted({str(dtype).removeprefix("torch.") for dtype in eights})
    return (
        f"{len(eights)} of {len(tensors)} tensors were in {' and '.join(names)} and are taken as fp32: what "
        "8 bits have lost of the weights is lost"
    )


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first LISTED_AT_MOST, and how many more."""
    more = len(names) - LISTED_AT_MOST
    return ", ".join(shortened(name, 80) for name in names[:LISTED_AT_MOST]) + (
        f" and {more} more" if more > 0 else ""
    )

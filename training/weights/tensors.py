"""Tensors out of .safetensors files and into diffusers modules; whatever does not fit is listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from training.weights.errors import CheckpointError

LISTED_AT_MOST = 20
_PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
_CONVERT = (
    "A pickle can run any program when it is opened, so it is not. Where you trust its origin, convert it: "
    'python -c "import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], '
    "weights_only=True); save_file({k: v.contiguous().clone() for k, v in d.get('state_dict', d).items() "
    'if torch.is_tensor(v)}, sys.argv[2])" IN.ckpt OUT.safetensors'
)

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """file.safetensors -> its tensors and its metadata.

    Raises CheckpointError for a pickle, a truncated or foreign file, and one that is not there.
    """
    if path.suffix.lower() in _PICKLES:
        raise CheckpointError(f"{path.name} is a pickle. {_CONVERT}")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, or is not a file.")
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as e:
        raise CheckpointError(
            f"{path.name} cannot be read as safetensors ({e}): it is cut off, or of another kind. "
            "Copy or download it again."
        ) from e


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

    Raises CheckpointError as `fill_module`.
    """
    with torch.device("meta"):
        module = cls.from_config(dict(config))
    return fill_module(module, tensors, where)


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
    check_values(tensors, where)
    module.load_state_dict({k: v.float() for k, v in tensors.items()}, assign=True)
    return module.eval().requires_grad_(False)


def check_values(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Raises CheckpointError naming the tensors that are no floats, or not finite."""
    if odd := [f"{k} ({v.dtype})" for k, v in tensors.items() if not v.dtype.is_floating_point]:
        raise CheckpointError(
            f"{where}: weights are float32, float16 or bfloat16, but {len(odd)} of another dtype: "
            f"{listed(odd)}. Convert them, or take the checkpoint before quantisation."
        )
    if broken := [k for k, v in tensors.items() if not torch.isfinite(v).all()]:
        raise CheckpointError(
            f"{where}: {len(broken)} tensors hold NaN or infinity: {listed(broken)}. "
            "The training diverged or the file is damaged: take an earlier checkpoint."
        )


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first LISTED_AT_MOST, and how many more."""
    more = len(names) - LISTED_AT_MOST
    return ", ".join(names[:LISTED_AT_MOST]) + (f" and {more} more" if more > 0 else "")

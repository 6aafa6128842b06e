"""A checkpoint that torch.save wrote -> .safetensors, without running anything that the pickle names.

    python -m training.weights.from_pickle sd.ckpt sd.safetensors

torch reads it with `weights_only=True`, which builds tensors and containers alone and refuses all else. Files
of training programs name more: Lightning keeps its callbacks beside the weights. Each class or function that
torch does not know itself is therefore read as `_LeftOut`, which does nothing; the names are said.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save

from fiffdepth_rt.atomic import replacing
from fiffdepth_rt.errors import FiffDepthError, shortened
from fiffdepth_rt.files import refuse_existing, refuse_source
from fiffdepth_rt.program.options import NamedPath
from fiffdepth_rt.program.terminal import printable, say, tell
from training.weights.errors import CheckpointError
from training.weights.tensors import Tensors, listed, looks_like_pickle

STATE_DICT = "state_dict"


class _LeftOut:
    """What stands for a class or function of somebody else: takes anything, does and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_pickle(path: Path) -> tuple[Tensors, tuple[str, ...]]:
    """file -> its tensors, and the names of what was left out of it.

    Tensors are those under "state_dict" where there is such a key, else all, under the keys that lead to
    them, but an optimizer's. Raises CheckpointError for a file that torch cannot read so, or without tensors.
    """
    if not looks_like_pickle(path):
        raise CheckpointError(f"{path.name} is no pickle but safetensors: it can be used as it is.")
    try:
        foreign = _foreign(path)
        known = torch.serialization.safe_globals([(_LeftOut, name) for name in foreign])
        with known, path.open("rb") as file:  # of a path, torch would believe the ending
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # a broken pickle fails in any kind of error
        raise CheckpointError(
            f"{path.name} cannot be read without running what is in it: {_first_line(e)} Take it as "
            "safetensors from where it is published."
        ) from e
    whole = content[STATE_DICT] if isinstance(content, Mapping) and STATE_DICT in content else content
    tensors: dict[str, torch.Tensor] = {}
    try:
        for key, tensor in _tensors(whole):
            if key in tensors:
                raise CheckpointError(f"{path.name} holds two tensors that are called {shortened(key, 80)}.")
            tensors[key] = _whole(path, key, tensor)
    except RecursionError as e:
        raise CheckpointError(f"{path.name} holds containers in containers without an end.") from e
    if not tensors:
        raise CheckpointError(f"{path.name} holds no tensors.")
    return tensors, foreign


def _foreign(path: Path) -> tuple[str, ...]:
    """The classes and functions that a file names and torch does not know, read off without running it."""
    if not zipfile.is_zipfile(path):  # of torch before 1.6; it holds what torch knows, or is refused
        return ()
    return tuple(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))))


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if not isinstance(key, str) or key.startswith("optimizer"):
            continue
        if torch.is_tensor(value):
            yield f"{prefix}{key}", value
        else:
            yield from _tensors(value, f"{prefix}{key}.")


def _whole(path: Path, key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as safetensors has it. Raises CheckpointError: sparse, quantised, without values, or one that
    repeats a few values, by which a file of a few bytes can fill any memory."""
    kind = None
    if tensor.layout is not torch.strided:
        kind = "sparse"
    elif tensor.is_quantized:
        kind = "quantised"
    elif tensor.is_meta:
        kind = "without values"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = "larger than its values in the file"
    if kind is not None:
        raise CheckpointError(
            f"{path.name}: the tensor {shortened(key, 80)} is {kind}, which no weights are. Take the "
            "checkpoint as safetensors from where it is published."
        )
    return tensor.detach().contiguous().clone()


def _first_line(error: Exception) -> str:
    """torch's messages are pages that tell how to run the pickle."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "Unsupported" in line or "global" in line.lower()), None)
    return shortened(said or (lines[0] if lines else type(error).__name__)).rstrip(".") + "."


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("pickle", type=NamedPath())
@click.argument("result", type=NamedPath())
@click.option("--overwrite", is_flag=True, help="Replace RESULT if it is there.")
def main(pickle: Path, result: Path, overwrite: bool) -> None:
    """Write the tensors of PICKLE, a .ckpt, .pt or .bin, to RESULT, a .safetensors. Nothing in it is run."""
    try:
        refuse_source(result, [pickle], name=f"the checkpoint {pickle}")
        if not overwrite:
            refuse_existing(result)
        tensors, left_out = read_pickle(pickle)
        with replacing(result) as file:
            file.write(save(tensors))
        if left_out:
            say(f"left out, not run: {listed(left_out)}")
        tell(f"{result}: {len(tensors)} tensors")
    except FiffDepthError as e:
        raise click.ClickException(printable(str(e))) from e


if __name__ == "__main__":
    main()

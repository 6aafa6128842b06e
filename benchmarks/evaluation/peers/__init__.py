"""Depth models of other people through their own libraries: a hub id or a local folder -> a Method.

A folder, or a repository on the hub, with model_index.json is diffusers' (diffusers_marigold.py); one with
config.json is transformers' (transformers_depth.py). A path that exists wins over a hub id.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.evaluation.methods import Method
from training.alignment import AlignmentSpace
from training.data.samples import DataError

WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerChoice:
    """which: a folder, or OWNER/NAME. space: of its output; None: what is known of its kind of model."""

    which: str
    space: AlignmentSpace | None = None
    threads: int | None = None

    def open(self) -> Method:
        """Raises DataError: no such model, no depth model, weights missing, an unknown space, or the library
        of the model cannot be imported."""
        library = _library(self.which)
        try:
            if self.threads is not None:
                import torch

                torch.set_num_threads(self.threads)
            load: Callable[..., Method]
            if library == "diffusers":
                from benchmarks.evaluation.peers.diffusers_marigold import load
            else:
                from benchmarks.evaluation.peers.transformers_depth import load
        except ImportError as error:
            raise DataError(
                f"{self.which} is a model of {library}, which cannot be imported here ({_root(error)}): pip "
                "install 'fiffdepth-rt[export,benchmarks]'. A torchvision of another torch than the one that "
                "is installed says so too: install its own, or remove it."
            ) from error
        return load(self.which, space=self.space)


def _root(error: BaseException) -> str:
    """The first line of what an error came from; libraries that import lazily say only that it failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def name_of(which: str) -> str:
    """Of a folder its last name, of a hub id all of it."""
    folder = Path(which).expanduser()
    return folder.resolve().name if folder.is_dir() else which


def weights_sha256(which: str, commit: str | None) -> str:
    """Of a folder's weights, file by file; of a hub id, of its name and the commit that was fetched."""
    digest, folder = hashlib.sha256(), Path(which).expanduser()
    if not folder.is_dir():
        return hashlib.sha256(f"{which}@{commit}".encode()).hexdigest()
    for path in sorted(found for pattern in WEIGHTS for found in folder.rglob(pattern)):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _library(which: str) -> str:
    folder = Path(which).expanduser()
    if folder.is_dir():
        if (folder / "model_index.json").is_file():
            return "diffusers"
        if (folder / "config.json").is_file():
            return "transformers"
        raise DataError(f"{folder} holds neither model_index.json nor config.json: it is no model's folder.")
    if which.count("/") != 1 or which.startswith((".", "/", "~")):
        raise DataError(f"No model at {which}: name a folder, OWNER/NAME of a hub, or ramp.")
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return "diffusers" if file_exists(which, "model_index.json") else "transformers"
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise DataError(
            f"{which} is no folder here, and the hub cannot be asked ({str(error).splitlines()[0]}): name a "
            "folder that holds the model."
        ) from error

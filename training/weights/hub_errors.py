"""Why a hub does not give what it is asked for, in sentences: what happened, and what to do.

huggingface_hub and the HTTP libraries beneath it raise kinds of their own, without a common base.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import errors

from training.weights.tensors import PICKLES, listed


def not_found(e: Exception, name: str, place: str) -> str:
    """Why a repository could not be looked at. name: OWNER/NAME[@REVISION]; place: the hub's address."""
    repository, _, revision = name.partition("@")
    status = _status(e)
    if isinstance(e, errors.GatedRepoError):
        return (
            f"{name} is given to those alone who accept its terms: read and accept them on "
            f"{place}/{repository}, then `hf auth login` (or set HF_TOKEN), and run the same command."
        )
    if isinstance(e, errors.RevisionNotFoundError):
        return (
            f"{repository} has no revision {revision}: it never had, or it is gone. Without @{revision} the "
            f"main branch is taken; {place}/{repository}/commits/main lists the others."
        )
    if isinstance(e, errors.RepositoryNotFoundError):
        return (
            f"{place} has no repository {repository}, or shows it to its members alone: look at the "
            "spelling; for a private one set HF_TOKEN (`hf auth login`)."
        )
    if status in (401, 403):
        return (
            f"{place} does not let you read {name} ({status}): the token in HF_TOKEN (`hf auth login`) has "
            "no right to it, or is no longer valid."
        )
    if status is not None:
        return (
            f"{place} answered {status} when asked for {name}: the hub has a fault, or is asked too often. "
            "Run the same command later."
        )
    return (
        f"{place} cannot be reached ({first_line(e)}), so {name} cannot be had by its name. Ways on: where "
        f"there is a network, `hf download {repository} --local-dir {repository.split('/')[1]}`, copy that "
        "folder here and give its path; set HF_ENDPOINT to a mirror that can be reached; or set "
        "HF_HUB_OFFLINE=1 to take what lies in the cache."
    )


def broke_off(e: Exception, file: str, name: str, place: str, cache: Path) -> str:
    """Why a file could not be fetched; what is kept is said after it."""
    status = _status(e)
    if status in (401, 403):
        return not_found(e, name, place)
    if status is not None:
        return f"The download broke off at {file}: {place} answered {status}."
    if isinstance(e, OSError) and e.errno is not None and not isinstance(e, ConnectionError):
        return (
            f"{file} cannot be written to {cache}: {e.strerror or first_line(e)}. Make room, or set HF_HOME "
            "to a folder that you may write to."
        )
    return f"The download broke off at {file} ({first_line(e)})."


def instead(files: Iterable[str]) -> str:
    """What a repository without the .safetensors that are wanted holds, and what to do."""
    names = sorted(files)
    if pickles := [f for f in names if f.endswith(PICKLES)]:
        return (
            f"It holds pickles ({listed(pickles)}), and whoever opens a pickle runs the program in it, so "
            "none was fetched. Ask its owner for .safetensors, or `hf download` it and make them of it, "
            "which runs nothing: python -m training.weights.from_pickle IN.bin OUT.safetensors."
        )
    if any(f.startswith("transformer/") for f in names):
        return (
            "It holds a transformer (as FLUX, Stable Diffusion 3 and Qwen-Image do), and every recipe here "
            "asks a UNet of Stable Diffusion 2's kind."
        )
    if several := [f for f in names if "/" not in f and f.endswith(".safetensors")]:
        return (
            f"It holds several files ({listed(several)}): fetch one of them (hf download OWNER/NAME FILE "
            "--local-dir models) and give its path."
        )
    return "Is it a depth model of diffusers?"


def first_line(e: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(e).strip() or type(e).__name__).splitlines()[0].rstrip(".")


def _status(e: Exception) -> int | None:
    """The HTTP status that an error carries; None for one that has none."""
    status: int | None = getattr(getattr(e, "response", None), "status_code", None)
    return status

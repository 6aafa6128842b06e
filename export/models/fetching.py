"""START HERE. What CHECKPOINT means, and a name on a hub -> the files that an export needs.

    "ckpt.safetensors", "folder/"            a path that is here wins
    "lotus-d-v1-1"                           a short name of known_models.py
    "OWNER/NAME", "OWNER/NAME@REVISION"      a repository

The small files come first: what the model is, and its licence, are said before gigabytes are fetched. The
text encoder comes only if the embedding of the empty prompt is neither given nor kept.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable
from pathlib import Path

from export.models.known_models import KNOWN_MODELS, KnownModel, known_model
from export.models.licences import warning_of
from export.models.recognising import find_recipe, folder_evidence
from training.weights.errors import CheckpointError
from training.weights.folder import UNSTATED, read_model_card
from training.weights.hub import (
    Hub,
    HubName,
    Repository,
    parse_hub_name,
    text_encoder_of,
    vae_wanted,
    weights_wanted,
)
from training.weights.prompt import TextEncoder

log = logging.getLogger("fiffdepth_export")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetched:
    """A repository that gave something, for the manifest. gave: "checkpoint", "vae" or "text encoder"."""

    gave: str
    repository: str
    commit: str
    licence: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedBeside:
    """vae, text: None where none was to be fetched. The text encoder's weights come when they are needed."""

    vae: Path | None
    text: TextEncoder | None
    fetched: tuple[Fetched, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedCheckpoint(FetchedBeside):
    """folder: what the repository gave. vae: from another repository; None: the checkpoint's own, or none."""

    folder: Path


def named(text: str) -> Path | HubName:
    """What was typed for a checkpoint, a VAE or a text encoder -> a path that is here, or a name on a hub.

    Raises CheckpointError for what is neither, without a look at any network.
    """
    path = Path(text)
    if path.exists():
        return path
    if text in KNOWN_MODELS:
        return HubName(repository=KNOWN_MODELS[text].repository)
    if (name := parse_hub_name(text)) is not None:
        return name
    near = difflib.get_close_matches(text, KNOWN_MODELS, n=1, cutoff=0.5)
    raise CheckpointError(
        f"{text} does not exist here, and is no name of a public model"
        + (f" (is {near[0]} meant?)" if near else "")
        + ": give a file or a folder, OWNER/NAME of a repository on a hub, or one of "
        f"{', '.join(KNOWN_MODELS)} (python -m export.models)."
    )


def fetch_checkpoint(
    name: HubName,
    *,
    recipe: str | None,
    licence: str | None,
    vae: HubName | None,
    text: HubName | None,
    prompt_given: bool,
    agree: Callable[[str], None],
) -> FetchedCheckpoint:
    """A name -> its files on this disk.

    recipe, licence: the user's word, or None. vae, text: repositories to take these from; None: the model's
    own, or those of its row in known_models.py. prompt_given: the embedding of the empty prompt is. agree:
    called with what is to be minded of a licence that is not a free one, before weights are fetched; it
    raises to stop.

    Raises HubError, CheckpointError, RecipeError.
    """
    hub = Hub.from_environment()
    known = known_model(name.repository)
    repository = _look(hub, name)
    folder = repository.folder()
    evidence = folder_evidence(folder, name.repository)
    if evidence is not None:
        find_recipe(evidence, said=recipe)
    terms = licence or _licence(folder, known)
    log.info("licence of %s: %s", name.repository, terms)
    if (warning := warning_of(terms)) is not None:
        log.warning("mind: %s", warning)
        agree(warning)
    wanted = weights_wanted(repository, half_first=True)
    size = sum(repository.files[file].size for file in wanted if file in repository.files)
    log.info("fetching %s at commit %s, %.2g GB", name.repository, repository.commit[:12], size / 1e9)
    repository.fetch(wanted)
    fetched = _fetched("checkpoint", repository, licence)
    vae = vae or _other(known.vae_from if known else None)
    vae_path, fetched_vae = (None, None) if vae is None else _fetch_vae(hub, vae)
    encoder = None if text else text_encoder_of(repository, half_first=True)
    text = text or (_other(known.text_encoder_from if known else None) if encoder is None else None)
    fetched_text = None
    if text is not None and not prompt_given:
        encoder, fetched_text = _text_encoder_from(hub, text)
    return FetchedCheckpoint(
        folder=folder,
        vae=vae_path,
        text=encoder,
        fetched=(fetched, *(part for part in (fetched_vae, fetched_text) if part)),
    )


def fetch_beside(*, vae: HubName | None, text: HubName | None) -> FetchedBeside:
    """What is to come from a hub for a checkpoint that is here already. Raises HubError, CheckpointError."""
    hub = Hub.from_environment()
    vae_path, fetched_vae = (None, None) if vae is None else _fetch_vae(hub, vae)
    encoder, fetched_text = (None, None) if text is None else _text_encoder_from(hub, text)
    return FetchedBeside(
        vae=vae_path, text=encoder, fetched=tuple(part for part in (fetched_vae, fetched_text) if part)
    )


def _fetch_vae(hub: Hub, name: HubName) -> tuple[Path, Fetched]:
    """A VAE's folder or file, fetched."""
    giver = _look(hub, name)
    files = vae_wanted(giver, half_first=True)
    folder = giver.fetch(files)
    return folder / files[0] if "/" not in files[0] else folder, _fetched("vae", giver)


def _text_encoder_from(hub: Hub, name: HubName) -> tuple[TextEncoder, Fetched]:
    """A text encoder whose weights are fetched when they are needed."""
    giver = _look(hub, name)
    encoder = text_encoder_of(giver, half_first=True)
    if encoder is None:
        raise CheckpointError(f"{name} has no text_encoder/*.safetensors with a tokenizer/: name another.")
    return encoder, _fetched("text encoder", giver)


def _look(hub: Hub, name: HubName) -> Repository:
    repository = hub.look(name)
    repository.fetch_descriptions()
    return repository


def _licence(folder: Path, known: KnownModel | None) -> str:
    """What the card says, else what its row says, else UNSTATED."""
    said = read_model_card(folder / "README.md").licence
    return known.licence if said == UNSTATED and known is not None else said


def _other(repository: str | None) -> HubName | None:
    return HubName(repository=repository) if repository else None


def _fetched(gave: str, repository: Repository, licence: str | None = None) -> Fetched:
    """licence: the user's word for it; None: what the card or the row says."""
    name = repository.name.repository
    return Fetched(
        gave=gave,
        repository=name,
        commit=repository.commit,
        licence=licence or _licence(repository.folder(), known_model(name)),
    )

"""OWNER/NAME on a hub -> the files that are needed, in huggingface_hub's cache, each checked.

    look at the repository -> its commit and its files -> fetch those that are wanted -> a folder

This is the only place that talks to a hub, and only when it is asked for a name. A file that is in the cache
is not fetched again, so a command that broke off goes on with the same words. huggingface_hub would add what
it knows of this machine to its requests; here each request says "fiffdepth-rt" and its version, and no more.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, scan_cache_dir, try_to_load_from_cache

from fiffdepth_rt.engine_dir.known_hashes import KnownHashes
from fiffdepth_rt.version import __version__
from training.weights import hub_errors
from training.weights.errors import CheckpointError, HubError
from training.weights.folder import STEM, TEXT_STEM, files_below, single_file, unet_part, weight_files
from training.weights.prompt import TextEncoder
from training.weights.tensors import PICKLES

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_DESCRIPTIONS = (
    *("model_index.json", "README.md", "LICEN[SC]E*", "scheduler/*.json", "tokenizer/*"),
    *("unet*/config.json", "vae/config.json", "text_encoder/config.json", "*/*.index*.json"),
)
_AGENT = {"user-agent": f"fiffdepth-rt/{__version__}"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository as people write it. revision: a branch, a tag or a commit; None for the main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(text: str) -> HubName | None:
    """ "OWNER/NAME[@REVISION]" -> the name; None for what is a path.

    A folder or file that is here wins, and so does a folder OWNER; a name does not end like a weight file.
    """
    match = _NAME.fullmatch(text)
    if match is None or text.startswith(".") or Path(text).exists() or Path(text).parent.is_dir():
        return None
    if match["repository"].endswith((".safetensors", *PICKLES)) or ".." in text:
        return None
    return HubName(repository=match["repository"], revision=match["revision"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubFile:
    """size in bytes. sha256: of large files, as the hub states it; None for small ones."""

    size: int
    sha256: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """One commit of a repository. files: by path, with "/"; offline: those that the cache holds."""

    name: HubName
    commit: str
    files: Mapping[str, HubFile]
    hub: Hub

    def folder(self) -> Path:
        """Where the files of this commit lie once they are fetched."""
        name = f"models--{self.name.repository.replace('/', '--')}"
        return self.hub.cache / name / "snapshots" / self.commit

    def fetch(self, files: Iterable[str]) -> Path:
        """The files that are wanted -> the folder that holds them. Raises HubError; see `Hub`."""
        return self.hub.fetch(self, tuple(files))

    def fetch_descriptions(self) -> Path:
        """Model card, configurations, tokenizer: what says what the weights are, in a few MB."""
        return self.fetch(f for f in self.files if any(fnmatch.fnmatchcase(f, p) for p in _DESCRIPTIONS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hub:
    """A hub and the cache on this disk. endpoint: None for huggingface.co. offline: ask the cache alone."""

    endpoint: str | None
    cache: Path
    offline: bool

    @staticmethod
    def from_environment() -> Hub:
        """HF_ENDPOINT, HF_HUB_CACHE (or HF_HOME) and HF_HUB_OFFLINE, as they are now."""
        said = os.environ.get
        return Hub(
            endpoint=said("HF_ENDPOINT") or None,
            cache=Path(said("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser(),
            offline=said("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        )

    @property
    def place(self) -> str:
        """Where it is, for a message."""
        return self.endpoint or constants.ENDPOINT

    def look(self, name: HubName) -> Repository:
        """A name -> its commit and its files. Raises HubError: no such thing, not allowed, not reached."""
        if self.offline:
            return self._look_into_cache(name)
        api = HfApi(endpoint=self.endpoint, headers=_AGENT)
        try:
            info: Any = api.model_info(name.repository, revision=name.revision, files_metadata=True)
        except Exception as e:  # huggingface_hub and its HTTP libraries raise kinds without a common base
            raise HubError(hub_errors.not_found(e, str(name), self.place)) from e
        files = {
            f.rfilename: HubFile(size=f.size or 0, sha256=f.lfs.sha256 if f.lfs else None)
            for f in info.siblings
        }
        return Repository(name=name, commit=info.sha, files=files, hub=self)

    def fetch(self, repository: Repository, files: tuple[str, ...]) -> Path:
        """The files into the cache, one after the other, each with a moving line.

        Raises HubError: no room, the connection broke, the hash is another than the hub says. What arrived
        whole is kept; nothing else is.
        """
        name = repository.name
        missing = [file for file in files if self._cached(repository, file) is None]
        if self.offline and missing:
            raise HubError(
                f"HF_HUB_OFFLINE is set, and the cache {self.cache} lacks {', '.join(missing)} of {name}: "
                f"unset HF_HUB_OFFLINE, or fetch it where there is a network (hf download {name.repository}) "
                "and copy the cache."
            )
        self._check_room(repository, missing)
        for done, file in enumerate(missing):
            try:
                hf_hub_download(
                    name.repository, file, revision=repository.commit, cache_dir=self.cache,
                    endpoint=self.endpoint, headers=_AGENT,
                )  # fmt: skip
            except Exception as e:
                whole = f"{len(files) - len(missing) + done} of {len(files)} files are whole and kept"
                why = hub_errors.broke_off(e, f"{file} of {name}", str(name), self.place, self.cache)
                raise HubError(f"{why} {whole}; the same command goes on.") from e
        self._check_hashes(repository, files)
        return repository.folder()

    def _cached(self, repository: Repository, file: str) -> Path | None:
        found = try_to_load_from_cache(
            repository.name.repository, file, cache_dir=self.cache, revision=repository.commit
        )
        return Path(found) if isinstance(found, str) else None

    def _check_room(self, repository: Repository, files: list[str]) -> None:
        needed = sum(repository.files[file].size for file in files)
        there = next(folder for folder in (self.cache, *self.cache.absolute().parents) if folder.is_dir())
        if needed > (free := shutil.disk_usage(there).free):
            raise HubError(
                f"{repository.name} is {needed / 1e9:.1f} GB to fetch, and {self.cache} has "
                f"{free / 1e9:.1f} GB of room. Make room, or set HF_HOME to a folder on another disk. "
                "Nothing was fetched."
            )

    def _check_hashes(self, repository: Repository, files: tuple[str, ...]) -> None:
        """Large files, each once, remembered until it changes."""
        known = KnownHashes(repository.folder())
        for file in files:
            said, path = repository.files[file].sha256, repository.folder() / file
            if said is None or known.of(file, path, again=False).sha256 == said:
                continue
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise HubError(
                f"{file} of {repository.name} is not what the hub says it is (SHA-256), so it was removed: "
                "it was damaged on its way or on this disk. The same command fetches it again."
            )

    def _look_into_cache(self, name: HubName) -> Repository:
        repositories = scan_cache_dir(self.cache).repos if self.cache.is_dir() else frozenset()
        commits = [
            commit
            for found in repositories
            for commit in (found.revisions if found.repo_id == name.repository else ())
            if name.revision is None
            or name.revision in commit.refs
            or commit.commit_hash.startswith(name.revision)
        ]
        if commits:
            commit = max(commits, key=lambda commit: commit.last_modified)
            files = dict.fromkeys(files_below(commit.snapshot_path), HubFile(size=0, sha256=None))
            return Repository(name=name, commit=commit.commit_hash, files=files, hub=self)
        raise HubError(
            f"HF_HUB_OFFLINE is set, and the cache {self.cache} holds no {name}. Unset it, or fetch the "
            f"model where there is a network (hf download {name.repository}) and copy the cache, or the "
            "folder that --local-dir gives, and name that folder."
        )


def weights_wanted(repository: Repository, *, half_first: bool) -> tuple[str, ...]:
    """The weight files of UNet and VAE, or the single file, of a repository whose descriptions are fetched.

    Raises HubError where there is none: pickles alone, another kind of network.
    """
    files = repository.files
    part = unet_part(files)
    if part is None:
        if (one := single_file(files)) is not None:
            return (one,)
        raise HubError(
            f"{repository.name} holds no UNet of diffusers (unet/config.json). {hub_errors.instead(files)}"
        )
    parts = (part, "vae") if any(file.startswith("vae/") for file in files) else (part,)
    return tuple(file for name in parts for file in _part_wanted(repository, name, half_first=half_first))


def vae_wanted(repository: Repository, *, half_first: bool) -> tuple[str, ...]:
    """The weight files of the VAE alone, or the single file. Raises HubError where there is none."""
    one = None if "vae/config.json" in repository.files else single_file(repository.files)
    return (one,) if one else _part_wanted(repository, "vae", half_first=half_first)


def text_encoder_of(repository: Repository, *, half_first: bool) -> TextEncoder | None:
    """A repository whose descriptions are fetched -> its text encoder, the weights when they are needed.

    None: it has none.
    """
    if not {"text_encoder/config.json", "tokenizer/vocab.json"} <= repository.files.keys():
        return None
    try:
        wanted = _part_wanted(repository, "text_encoder", stem=TEXT_STEM, half_first=half_first)
    except HubError:
        return None  # pickles alone
    found = [repository.files[file].sha256 for file in wanted if file in repository.files]
    hashes = tuple(sha256 for sha256 in found if sha256 is not None)
    return TextEncoder(
        folder=repository.folder(),
        weights_sha256=hashes if len(hashes) == len(wanted) else None,
        fetch=lambda: repository.fetch(wanted),
        half_first=half_first,
    )


def _part_wanted(repository: Repository, part: str, *, half_first: bool, stem: str = STEM) -> tuple[str, ...]:
    names = [f.split("/")[1] for f in repository.files if f.startswith(f"{part}/") and f.count("/") == 1]
    chosen = weight_files(repository.folder() / part, names, stem=stem, half_first=half_first)
    if not chosen and repository.hub.offline:
        chosen = (f"{stem}.safetensors",)  # not in the cache, where it would be
    if not chosen:
        found = hub_errors.instead(repository.files)
        raise HubError(f"{repository.name} has no {part}/{stem}.safetensors. {found}")
    return tuple(f"{part}/{file}" for file in chosen)


WAYS = """Ways to get base weights:
  - where a hub can be reached: hf download OWNER/NAME --local-dir models/NAME; copy the folder here and set
    base.model = "models/NAME" (Stability's own SD 2.x repositories left the Hub; mirrors keep them)
  - another hub: set the environment variable HF_ENDPOINT; a private one also wants HF_TOKEN
  - a single .safetensors of SD 2.1 as people exchange it: base.model = "FILE.safetensors", with base.text or
    base.prompt_embedding
  - from an earlier run of ours: base.model = "runs/OTHER/NAME.safetensors\""""


def download_base(name: HubName) -> tuple[Path, TextEncoder | None]:
    """UNet, VAE and scheduler in full precision where there is one, and the text encoder, not yet fetched.

    Raises HubError with WAYS.
    """
    try:
        repository = Hub.from_environment().look(name)
        repository.fetch_descriptions()
        folder = repository.fetch(weights_wanted(repository, half_first=False))
        return folder, text_encoder_of(repository, half_first=False)
    except CheckpointError as e:
        raise HubError(f"{e}\n{WAYS}") from e


def download_text_encoder(name: HubName) -> TextEncoder:
    """text_encoder/ and tokenizer/ of a repository, the weights when they are needed. Raises HubError."""
    repository = Hub.from_environment().look(name)
    repository.fetch_descriptions()
    text = text_encoder_of(repository, half_first=False)
    if text is None:
        found = hub_errors.instead(repository.files)
        raise HubError(f"{name} holds no text_encoder/*.safetensors with a tokenizer/. {found}")
    return text

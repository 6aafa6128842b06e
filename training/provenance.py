"""What a result says of how it was made, without the places of the machine that made it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

_PLACE = re.compile(r"[/\\]|~|\.\.[/\\]|[A-Za-z]:[/\\]")

# Words with commas between, and at least one of them with a place behind a colon; "http://…" is none.
_KINDS = re.compile(r"(?=.*[a-z]{2}:)[a-z0-9]+(:(?!//)[^,]*)?(,[a-z0-9]+(:(?!//)[^,]*)?)*")


def command_without_folders(module: str, words: Sequence[str]) -> str:
    """A module and the words after it -> `python -m ...` as typed, paths by their last name alone."""
    return shlex.join(["python", "-m", module, *map(_without_folders, words)])


def without_places(values: Any) -> Any:
    """JSON values -> the same; a path that is absolute, of a home or upwards (../) by its last name alone.

    Hub ids and paths beneath the current folder stay as they are.
    """
    if isinstance(values, dict):
        return {key: without_places(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [without_places(value) for value in values]
    if isinstance(values, str) and _PLACE.match(values):
        return _last_name(values)
    return values


def _without_folders(word: str) -> str:
    """ "a/b.png", "-oa/b", "--model=mine=a/b", "x,kind:a/b" -> "b.png", "-ob", "--model=mine=b", "x,kind:b".

    Others as they are.
    """
    if _KINDS.fullmatch(word):
        return ",".join(_without_folder_of_kind(part) for part in word.split(","))
    label, equals, value = word.partition("=")
    if equals and not re.search(r"[/\\]", label):
        return label + equals + _without_folders(value)
    glued = re.match(r"-[A-Za-z](?=.)", word)
    option = glued[0] if glued else ""
    return option + _last_name(word[len(option) :])


def _without_folder_of_kind(word: str) -> str:
    kind, colon, place = word.partition(":")
    return kind + colon + _last_name(place)


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]

"""JSON values -> msgspec Structs, with errors that name the place and the value in plain words.

msgspec checks types, ranges, patterns, and that no key is missing or unknown. It says "Expected `int` >= 1 -
at `$.size.max`"; people are told "size.max should be a whole number of at least 1, but is 0".
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from fiffdepth_rt.errors import shortened

T = TypeVar("T")


class InvalidError(Exception):
    """where: the place, such as "size.max". what: the rest of a sentence that begins with the place."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where} {what}")
        self.where, self.what = where, what


def convert(content: Any, kind: type[T]) -> T:
    """What a JSON reader gave -> `kind`, a Struct or whatever else msgspec takes. Raises InvalidError."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise _invalid(content, kind, str(error)) from error
    except UnicodeEncodeError as error:  # JSON can spell half a character, "\ud800"
        raise InvalidError("a text in it", f"is no Unicode: {shortened(error.object, 40)!a}") from error


def one_of(*choices: str) -> msgspec.Meta:
    """For Annotated[str, …]: a text that is one of these."""
    return msgspec.Meta(pattern=f"^({'|'.join(choices)})$")


def text_like(pattern: str, words: str) -> msgspec.Meta:
    """For Annotated[str, …]: a text that matches a regular expression, for people in words."""
    _PATTERNS[pattern] = words
    return msgspec.Meta(pattern=pattern)


_PATTERNS: dict[str, str] = {}  # regular expressions of `text_like` -> what to call them


def _invalid(content: Any, kind: Any, message: str) -> InvalidError:
    what, _, path = message.partition(" - at ")
    keys = _keys(content, kind, path, message)
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)[1:] or "the top level"
    if (field := re.search(r"missing required field `(.*)`", what)) is not None:
        return InvalidError(where, f"lacks {field[1]}")
    if (field := re.search(r"unknown field `(.*)`", what)) is not None:
        name = shortened(field[1], 80)
        structs = msgspec.json.schema(kind)["$defs"].values()
        known = sorted({name for struct in structs for name in struct.get("properties", ())})
        near = difflib.get_close_matches(name, known, n=1)
        return InvalidError(where, f"has unknown {name}" + "".join(f" (did you mean {n}?)" for n in near))
    found = content
    for key in keys:
        found = found[key]
    expected = _choices(kind, str(keys[-1])) if what.startswith("Invalid enum value") else _in_words(what)
    return InvalidError(where, f"should be {expected}, but is {shown(found)}")


def _choices(kind: Any, field: str) -> str:
    """The members of the enum that a field of this name has."""
    known = msgspec.json.schema(kind)["$defs"]
    refs = [
        struct["properties"][field]["$ref"]
        for struct in known.values()
        if field in struct.get("properties", ())
    ]
    return f"one of {', '.join(known[refs[0].rpartition('/')[2]]['enum'])}"


def shown(value: object) -> str:
    """The beginning of a JSON value, for an error."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _in_words(expected: str) -> str:
    """ "Expected `int` >= 1" -> "a whole number of at least 1"."""
    expected = expected.removeprefix("Expected ").partition(", got")[0]
    if (pattern := re.fullmatch("`str` matching regex '(.*)'", expected)) is not None:
        return _PATTERNS.get(pattern[1], "one of " + pattern[1].strip("^()$").replace("|", ", "))
    for said, word in _WORDS.items():
        expected = re.sub(said, word, expected)
    return expected


_WORDS: Mapping[str, str] = {
    "`str` of length <= ([0-9]+)": r"a text of at most \1 characters",
    " of length >= 1": " that is not empty",
    " of length <= ([0-9]+)": r" of at most \1",
    " of length ([0-9]+)": r" of \1",
    "Number out of range": "a number within the range of 64 bits",
    ">= ([-0-9.e+]+)": r"of at least \1",
    "<= ([-0-9.e+]+)": r"of at most \1",
    "> ([-0-9.e+]+)": r"above \1",
    r" \| ": " or ",
    r"\bint\b": "a whole number",
    r"\bfloat\b": "a number",
    r"\bstr\b": "a text",
    r"\bbool\b": "true or false",
    r"\barray\b": "a list",
    r"\bobject\b": "an object",
    "`": "",
}


def _keys(content: Any, kind: Any, path: str, message: str) -> list[str | int]:
    """msgspec's path to what it refused, `$.size.max` or `$.files[...].bytes` -> the keys on the way.

    msgspec writes [...] for the key of a dictionary. The key is the one with which alone the same is refused.
    """
    keys: list[str | int] = []
    for name, index in re.findall(r"\.(\w+)|\[(\.\.\.|\d+)\]", path):
        keys.append(name or (int(index) if index != "..." else _culprit(content, kind, keys, message)))
    return keys


def _culprit(content: Any, kind: Any, keys: list[str | int], message: str) -> str:
    found = content
    for key in keys:
        found = found[key]
    for key in found:
        try:
            msgspec.convert(_with(content, keys, {key: found[key]}), kind)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return str(key)
        except UnicodeEncodeError:  # another fault than the one that is looked for
            continue
    raise AssertionError(f"msgspec refuses together what it takes alone: {message}")


def _with(content: Any, keys: list[str | int], value: Any) -> Any:
    """`content` with another value at the place that `keys` lead to."""
    if not keys:
        return value
    first, *rest = keys
    copy = content.copy()
    copy[first] = _with(content[first], rest, value)
    return copy

"""What a stranger may put in a file: hostile values, trees of JSON turned around, bytes flipped and moved."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

RAW = "raw number "
"""A text that begins so becomes the bare token behind it, which json.dumps would not write."""

TEXTS = (
    *("", " ", ".", "..", "/", "\\", "a\0b", "\ud800", "\u202e", "\x1b]52;c;eA==\x07", "é" * 200),
    *("x" * 300, "x" * 4096, "../../../outside/secret.bin", "/etc/hostname", "C:\\x", "con", "true", "NaN"),
    *("graphs", "graphs/fp32/unet.onnx", "manifest.json", "golden.npz", "height/0", "height/9999", "batch"),
)
NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 8, 63, 64, 65, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64),
    *(-(2**31), -(2**63), 0.0, -0.0, 0.5, 1.0, 1e-300, 1e300, 64.0),
)
TOKENS = ("1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "1" + "0" * 5000, "0x10", "01", "1_0")


def hostile(chance: random.Random) -> Any:
    """A value that belongs nowhere, or only here."""
    kind = chance.randrange(8)
    if kind == 0:
        return None
    if kind == 1:
        return chance.choice((True, False))
    if kind <= 3:
        return chance.choice(NUMBERS)
    if kind <= 5:
        return chance.choice(TEXTS)
    if kind == 6:
        return RAW + chance.choice(TOKENS)
    return chance.choice(([], {}, [None], [[]], {"": None}, ["x"] * 50, [1, 2, 3, 4], {"x": {"x": {}}}))


def mutated_json(content: Any, chance: random.Random) -> str:
    """A tree -> text of a tree that one to three things have happened to."""
    tree = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _mutate(tree, chance)
    text = json.dumps(tree)
    for token in TOKENS:
        text = text.replace(f'"{RAW}{token}"', token)
    how = chance.randrange(40)
    if how == 0:
        return text[: chance.randrange(len(text) + 1)]
    if how == 1:
        return "[" * chance.choice((10, 1000, 100_000)) + text
    if how == 2:
        at = chance.randrange(1, len(text))
        return text[:at] + text[at:].replace(",", ", ,", 1)
    if how == 3:  # a key twice
        return text.replace("{", '{"name": 1, ', 1)
    if how == 4:
        return "\ufeff" + text
    return text


def _mutate(tree: Any, chance: random.Random) -> None:
    places = list(_places(tree))
    if not places:
        return
    parent, key = chance.choice(places)
    how = chance.randrange(13)
    if how >= 10:  # of its own type, so that types alone do not refuse it
        parent[key] = _alike(parent[key], chance)
    elif how <= 4:
        parent[key] = hostile(chance)
    elif how == 5:
        del parent[key]
    elif how == 6:
        other, there = chance.choice(places)
        parent[key] = copy.deepcopy(other[there])
    elif how == 7 and isinstance(parent, dict):
        parent[chance.choice([*TEXTS, *map(str, NUMBERS)])] = parent.pop(key)
    elif how == 8 and isinstance(parent, list):
        parent += [copy.deepcopy(parent[key])] * chance.choice((1, 10, 1000))
    elif how == 9:
        nested: Any = parent[key]
        for _ in range(chance.choice((1, 5, 200))):
            nested = [nested] if chance.random() < 0.5 else {"x": nested}
        parent[key] = nested


def _alike(value: Any, chance: random.Random) -> Any:
    """A hostile value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return chance.choice(TEXTS)
    if isinstance(value, int | float):
        return RAW + chance.choice(TOKENS) if chance.random() < 0.3 else chance.choice(NUMBERS)
    return hostile(chance)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes -> bytes of which a few are flipped, cut out, doubled, moved or replaced."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at = chance.randrange(len(data))
        length = min(chance.choice((1, 1, 2, 4, 8, 64, 1024)), len(data) - at)
        how = chance.randrange(8)
        if how <= 2:
            data[at] ^= 1 << chance.randrange(8)
        elif how == 3:
            data[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif how == 4:
            data[at : at + length] = chance.randbytes(length)
        elif how == 5:
            del data[at : at + length]
        elif how == 6:
            data[at:at] = data[at : at + length]
        else:
            del data[at + chance.choice((0, 1, 100)) :]
    return bytes(data)

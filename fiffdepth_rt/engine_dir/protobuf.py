"""Protobuf's wire format, read field by field from an open file: what is not asked for is skipped, not read.

A message is a sequence of fields; a field is its number, its kind, and its content. The format:
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The kinds of fields ("wire types"); 3 and 4, groups, are in no file of ours."""


class DamagedError(Exception):
    """What is wrong with the bytes."""


def fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that reaches from where the file stands to `end`, as (number, kind, content).

    content: of a VARINT its value, below 2**64; of the others the position at which the field ends, and the
    file stands at its first byte. Raises DamagedError.
    """
    at = file.tell()
    while at < end:
        start = at
        tag, at = _varint(file, at, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise DamagedError(f"there is no field {number} (byte {start})")
        if kind == VARINT:
            value, at = _varint(file, at, end)
            yield number, kind, value
            continue
        if kind == LENGTH:
            length, at = _varint(file, at, end)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise DamagedError(f"there is no wire type {kind} (byte {start})")
        at += length
        if at > end:
            raise DamagedError(f"it ends within a field (byte {start})")
        yield number, kind, at
        file.seek(at)


def numbers(file: BinaryIO, kind: int, content: int) -> Iterator[int]:
    """A field of whole numbers: one by itself, or many in a row ("packed")."""
    if kind == VARINT:
        yield content
        return
    at = file.tell()
    while at < content:
        value, at = _varint(file, at, content)
        yield value


def _varint(file: BinaryIO, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, where the file stands, and the position behind it.

    It has 1 to 10 bytes, the lowest 7 bits first; the highest bit of a byte says that more follow.
    """
    value = 0
    for i in range(min(10, end - at)):
        read = file.read(1)
        if not read:
            break
        byte = read[0]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise DamagedError(f"it ends within a number (byte {at})")

"""The fields of a serialized protobuf message, found without parsing it: for messages with one large field."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: its number, wire type, where it starts, where its content starts, and where it stops."""

    number: int
    kind: int
    start: int
    content: int
    stop: int


def fields(message: bytes, at: int = 0, end: int | None = None, most: float = math.inf) -> Iterator[Field]:
    """The fields between two offsets, in their order; ValueError where the bytes are no whole message.

    Knows the four wire types that proto3 has; groups are refused, and so are more than `most` fields: of those that a
    stranger sends, a hundred megabytes of empty ones would take a minute to walk.
    """
    end = len(message) if end is None else end
    found = 0
    while at < end:
        start = at
        found += 1
        if found > most:
            raise ValueError(f"it has more than {most} fields")
        tag, at = read_varint(message, at)
        content, kind = at, tag & 7
        if kind == VARINT:
            _, at = read_varint(message, at)
        elif kind == FIXED64:
            at += 8
        elif kind == BYTES:
            size, content = read_varint(message, at)
            at = content + size
        elif kind == FIXED32:
            at += 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if at > end:
            raise ValueError("it ends in the middle of a field")
        yield Field(tag >> 3, kind, start, content, at)


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at an offset, and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends in the middle of a field")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def varint(value: int, width: int = 0) -> bytes:
    """A number as the wire has it; padded to `width` bytes, which every parser accepts, where that is longer."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, kind: int) -> bytes:
    """What stands before a field."""
    return varint(number << 3 | kind)


def delimited(number: int, content: bytes) -> bytes:
    """A field of wire type BYTES: a string, bytes, or a message."""
    return tag(number, BYTES) + varint(len(content)) + content

"""The few bytes of protobuf that a model file must be read by without any library: which are graph, which metadata.

In a ModelProto field 14 holds the metadata. All other bytes, in order, are the graph, and their sha256 names it:
writing a card into a file does not change it, and one flipped bit of a weight does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from .errors import FileFormatError

METADATA_FIELD = 14


def graph_sha256(data: bytes) -> str:
    """Give the sha256 (64 hex digits) of the file without its metadata; FileFormatError if it is no protobuf."""
    digest = hashlib.sha256()
    view = memoryview(data)
    for field, start, end, _ in _fields(view):
        if field != METADATA_FIELD:
            digest.update(view[start:end])
    return digest.hexdigest()


def read_metadata(data: bytes) -> dict[str, str]:
    """Give the file's metadata; FileFormatError if it is no protobuf."""
    found: dict[str, str] = {}
    for field, _, end, content in _fields(memoryview(data)):
        if field == METADATA_FIELD:
            entry = memoryview(data)[content:end]
            parts = {part: bytes(entry[begin:stop]) for part, _, stop, begin in _fields(entry)}
            try:
                found[parts.get(1, b"").decode()] = parts.get(2, b"").decode()
            except UnicodeDecodeError as error:
                raise FileFormatError(f"the metadata is not UTF-8: {error}") from error
    return found


def with_metadata(data: bytes, key: str, value: str) -> bytes:
    """Append one entry to a file that has none; a ModelProto's fields after 14 are not used by us."""
    entry = _string(1, key.encode()) + _string(2, value.encode())
    return data + _string(METADATA_FIELD, entry)


def _string(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _fields(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, start, end, start of the content) of each field at the top of a message."""
    at = 0
    while at < len(view):
        start = at
        tag, at = _read_varint(view, at)
        content = at
        match tag & 7:
            case 0:
                _, at = _read_varint(view, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                length, content = _read_varint(view, at)
                at = content + length
            case other:
                raise FileFormatError(f"not an ONNX file: wire type {other} at byte {start}")
        if at > len(view) or tag >> 3 == 0:
            raise FileFormatError(f"not a whole ONNX file: the field at byte {start} does not fit")
        yield tag >> 3, start, at, content


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise FileFormatError(f"not a whole ONNX file: a number ends beyond byte {at}")
        number |= (view[at] & 127) << shift
        shift += 7
        at += 1
        if view[at - 1] < 128:
            return number, at

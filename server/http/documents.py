"""JSON: bodies to objects, strictly and within limits, and messages to JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from typing import Any

import numpy as np
import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.responses import Response

from server.errors import InvalidInput, TooLarge

JSON = "application/json"
_LARGE = 64 << 10  # bytes from which a document is read in a thread, one at a time
_NOT_FINITE = re.compile(rb"NaN|Infinity|[eE]\+?\d{2}")
_NAMES: dict[type, str] = {
    bool: "true or false", int: "a number", float: "a number", str: "text", type(None): "null", list: "a list",
    dict: "an object",
}  # fmt: skip


class Documents:
    """Reads documents of at most so many bytes; of large ones, one at a time, since they grow while they are read."""

    def __init__(self, most: int):
        self._most, self._one = most, asyncio.Lock()

    async def read(self, body: bytes | bytearray | memoryview) -> Any:
        """The object; InvalidInput where it is no JSON, TooLarge where it is too much of it."""
        if len(body) > self._most:
            raise TooLarge(
                f"the JSON has {len(body)} bytes; the most is {self._most}: send numbers by the binary extension, "
                "pictures as files"
            )
        if len(body) < _LARGE:
            return parse(body)
        async with self._one:
            return await asyncio.to_thread(_parse_large, body)


def _parse_large(body: bytes | bytearray | memoryview) -> Any:
    """Without Python's search for cycles, which looks at a million new lists again and again while all wait."""
    searches = gc.isenabled()
    gc.disable()
    try:
        return parse(body)
    finally:
        if searches:
            gc.enable()


def parse(body: bytes | bytearray | memoryview) -> Any:
    """The object in a document. NaN and the infinite are let in, since the model's check has better words for them."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        content = bytes(body)
        if _NOT_FINITE.search(content) and b"\\u" not in content:  # half a surrogate pair must not get in on the way
            try:
                return json.loads(content)
            except (ValueError, RecursionError):
                pass
        raise InvalidInput(f"the body is no JSON: {error}") from error


def field(document: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field of an object, of a kind; InvalidInput where it is of another."""
    value = document.get(name, default)
    if type(value) is not kind:
        raise InvalidInput(f"{name!r} is {what(value)}; it must be {_NAMES[kind]}")
    return value


def what(value: Any) -> str:
    """What kind of thing a value of a document is, in words."""
    return _NAMES[type(value)]


def plain(message: Message) -> Any:
    """A message as JSON has it: fields by their names, numbers as numbers, what is not set left out."""
    if message.DESCRIPTOR.name == "InferParameter":
        kind = message.WhichOneof("parameter_choice")
        return getattr(message, kind) if kind else None
    out = {}
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            out[field.name] = _value(field, getattr(message, field.name))
    return out


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: plain(value[key]) if isinstance(value[key], Message) else value[key] for key in value}
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:  # as numpy's, they are written as short as float32 can be told
        return np.array(value, np.float32) if field.is_repeated else np.float32(value)
    return [_one(field, item) for item in value] if field.is_repeated else _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value


def write(document: Any) -> bytes:
    """A document as bytes; arrays of numpy as lists."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def response(document: Any, status: int = 200) -> Response:
    """A document as a response."""
    return Response(write(document), status, media_type=JSON)

"""The card inside a model file: what the file says of itself, and whether the file is what the card says.

A card is input like any other: it is read, checked and bounded before anything believes it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from server.errors import ModelRefused

KEY = "topclass.card"
SCHEMA = 1
_METADATA_PROPS = 14  # ModelProto.metadata_props


@dataclass(frozen=True)
class Golden:
    """Inputs [n, …] and the probabilities [n, C] that the exporter got for them."""

    inputs: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Card:
    """What the server needs of a card; `json` is the whole of it."""

    json: str
    labels: tuple[str, ...]
    graph_sha256: str
    golden: Golden | None


def read(text: str) -> Card:
    """The card from its JSON. ModelRefused where it is no card, or of a schema that this server does not know."""
    try:
        document = json.loads(text)
        schema = document["schema"]
        if schema != SCHEMA:
            raise ModelRefused(f"its card has schema {schema!r}; this server reads schema {SCHEMA}")
        labels = tuple(document["labels"])
        if not all(isinstance(label, str) for label in labels):
            raise TypeError("labels must be strings")
        return Card(text, labels, document["certificate"]["graph_sha256"], _golden(document["golden"]))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise ModelRefused(f"its card cannot be read: {type(error).__name__}: {error}") from error


def _golden(document: dict[str, Any] | None) -> Golden | None:
    if not document:
        return None
    dtypes: dict[str, np.dtype] = {"uint8": np.dtype(np.uint8), "float32": np.dtype(np.float32)}
    dtype = dtypes[document["dtype"]]
    data = base64.b64decode(document["inputs_base64"], validate=True)
    inputs = np.frombuffer(data, dtype).reshape([int(size) for size in document["shape"]])
    probabilities = np.array(document["probabilities"], np.float32)
    if probabilities.ndim != 2 or len(inputs) != len(probabilities):
        raise ValueError(f"{len(inputs)} golden inputs with probabilities of shape {probabilities.shape}")
    return Golden(inputs, probabilities)


def graph_sha256(model: bytes) -> str:
    """The sha256 of a serialized ONNX model without its metadata: what the card's certificate names.

    ModelRefused where the bytes are no protobuf message.
    """
    digest = hashlib.sha256()
    view = memoryview(model)
    for field in fields(model):
        if field.number != _METADATA_PROPS:
            digest.update(view[field.start : field.stop])
    return digest.hexdigest()


class Field(NamedTuple):
    """One field of a protobuf message: its number, and where tag, value and what follows begin in the bytes."""

    number: int
    start: int
    body: int
    stop: int


def fields(message: bytes, at: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message in `message[at:end]`. Knows the four wire types that ONNX uses.

    ModelRefused where the bytes are no protobuf message.
    """
    end = len(message) if end is None else end
    while at < end:
        start = at
        tag, at = varint(message, at)
        body = at
        match tag & 7:
            case 0:
                _, at = varint(message, at)
            case 1:
                at += 8
            case 2:
                size, body = varint(message, at)
                at = body + size
            case 5:
                at += 4
            case kind:
                raise ModelRefused(f"it is not a whole ONNX file: wire type {kind} at byte {start}")
        if at > end:
            raise ModelRefused("it is not a whole ONNX file: it ends in the middle of a field")
        yield Field(tag >> 3, start, body, at)


def varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where it ends; ModelRefused where it does not end."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ModelRefused("it is not a whole ONNX file: it ends in the middle of a field")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelRefused("it is not a whole ONNX file: a number of more than ten bytes")

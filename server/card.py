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
from typing import Any

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
    for field, start, stop in _top_level_fields(model):
        if field != _METADATA_PROPS:
            digest.update(view[start:stop])
    return digest.hexdigest()


def _top_level_fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Each field's number, where it starts and where it stops. Knows the four wire types that proto3 has."""
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                at += size
            case 5:
                at += 4
            case kind:
                raise ModelRefused(f"it is not a whole ONNX file: wire type {kind} at byte {start}")
        if at > end:
            raise ModelRefused("it is not a whole ONNX file: it ends in the middle of a field")
        yield tag >> 3, start, at


def _varint(message: bytes, at: int) -> tuple[int, int]:
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

"""The card inside a model file: what the file says of itself, and whether the file is what the card says.

A card is input like any other: it is read, checked and bounded before anything believes it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.errors import ModelRefused
from server.protobuf import fields

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
    try:
        for field in fields(model):
            if field.number != _METADATA_PROPS:
                digest.update(view[field.start : field.stop])
    except ValueError as error:
        raise ModelRefused(f"it is not a whole ONNX file: {error}") from error
    return digest.hexdigest()

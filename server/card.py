"""The card inside a model file: what the file says of itself, and whether the file is what the card says.

A card is input like any other: it is read, checked and bounded before anything believes it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.drift import Reference, read_reference
from server.errors import ModelRefused
from server.protobuf import fields

KEY = "topclass.card"
SCHEMA = 1
MOST_TEXT = 64 << 20  # characters: golden pictures of megapixels fit
MOST_FIELDS = 100_000  # at a file's top: metadata, functions, opsets; weights and nodes lie deeper
_METADATA_PROPS = 14  # ModelProto.metadata_props


@dataclass(frozen=True)
class Golden:
    """Inputs [n, …], and the probabilities [n, C] and scores of strangeness [n] that the exporter got for them."""

    inputs: np.ndarray
    probabilities: np.ndarray
    ood_scores: np.ndarray | None


@dataclass(frozen=True)
class Card:
    """What the server needs of a card; `json` is the whole of it.

    ood_threshold: what the graph's output `ood_score` must exceed to say that an input is unlike the training data;
    None where the model has no such output.
    """

    json: str
    labels: tuple[str, ...]
    graph_sha256: str
    golden: Golden | None
    ood_threshold: float | None
    reference: Reference | None = None


def read(text: str) -> Card:
    """The card from its JSON. ModelRefused where it is no card, or of a schema that this server does not know."""
    if len(text) > MOST_TEXT:
        raise ModelRefused(f"its card has {len(text)} characters; the most is {MOST_TEXT}")
    try:
        document = json.loads(text)
        schema = document["schema"]
        if schema != SCHEMA:
            raise ModelRefused(f"its card has schema {str(schema)[:40]}; this server reads schema {SCHEMA}")
        certified = _texts([document["certificate"]["graph_sha256"]])[0]
        labels = _texts(document["labels"])
        reference = read_reference(document.get("reference"), len(labels))
        threshold = _threshold(document.get("out_of_distribution"))
        golden = _golden(document["golden"], threshold is not None)
        return Card(text, labels, certified, golden, threshold, reference)
    # Whoever wrote it may have written anything: numbers that no float holds, brackets without end, half characters.
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ModelRefused(f"its card cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _texts(values: Any) -> tuple[str, ...]:
    """Strings that can be sent; TypeError or ValueError where a value is none."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("labels and hashes must be strings")
    for value in values:
        value.encode()  # JSON can hold half a surrogate pair, UTF-8 and protobuf cannot
    return tuple(values)


def _threshold(document: dict[str, Any] | None) -> float | None:
    if document is None or document["threshold"] is None:
        return None
    threshold = document["threshold"]
    if isinstance(threshold, bool) or not math.isfinite(threshold):
        raise ValueError(f"an out-of-distribution threshold of {str(threshold)[:40]}")
    return float(threshold)


def _golden(document: dict[str, Any] | None, scored: bool) -> Golden | None:
    if document is None:
        return None
    dtypes: dict[str, np.dtype] = {"uint8": np.dtype(np.uint8), "float32": np.dtype(np.float32)}
    dtype, shape = dtypes[document["dtype"]], document["shape"]
    if not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"golden inputs of shape {str(shape)[:100]}")
    inputs = np.frombuffer(base64.b64decode(document["inputs_base64"], validate=True), dtype).reshape(shape)
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        probabilities = np.array(document["probabilities"], np.float32)
        scores = np.array(document["ood_scores"], np.float32) if scored else None
    if probabilities.ndim != 2 or len(inputs) != len(probabilities) or not np.isfinite(probabilities).all():
        raise ValueError(f"{len(inputs)} golden inputs with probabilities of shape {probabilities.shape}")
    if scores is not None and (scores.shape != (len(inputs),) or not np.isfinite(scores).all()):
        raise ValueError(f"{len(inputs)} golden inputs with ood_scores of shape {scores.shape}")
    return Golden(inputs, probabilities, scores)


def graph_sha256(model: bytes) -> str:
    """The sha256 of a serialized ONNX model without its metadata: what the card's certificate names.

    ModelRefused where the bytes are no protobuf message.
    """
    digest = hashlib.sha256()
    view = memoryview(model)
    try:
        for field in fields(model, most=MOST_FIELDS):
            if field.number != _METADATA_PROPS:
                digest.update(view[field.start : field.stop])
    except ValueError as error:
        raise ModelRefused(f"it is not a whole ONNX file: {error}") from error
    return digest.hexdigest()

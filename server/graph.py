"""What the server wants to know of a serialized ONNX graph before it gives it to ONNX Runtime. Reads bytes only."""

from __future__ import annotations

import re
from collections.abc import Iterator

from server.errors import ModelRefused
from server.protobuf import BYTES, Field, fields, read_varint

# Which fields of an ONNX message hold which other messages, as far as tensors can lie in them (onnx.proto).
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
# The key of an entry that names another file, in every way that protobuf allows to write its tag and its length. A
# file without these bytes has no such entry; most have none, and are not walked.
_LOCATION = re.compile(rb"(?:\x0a|\x8a\x80{0,8}\x00)(?:\x08|\x88\x80{0,8}\x00)location")


def refuse_external_data(model: bytes) -> None:
    """ModelRefused for a model that keeps tensors in other files: ONNX Runtime would look for them where we run."""
    if not _LOCATION.search(model):
        return
    try:
        found = any(kind == "external" for kind, _ in _walk(model, "model", 0, len(model)))
    except RecursionError as error:
        raise ModelRefused("its graphs are nested too deeply") from error
    except ValueError as error:
        raise ModelRefused(f"it is not a whole ONNX file: {error}") from error
    if found:
        raise ModelRefused(
            "it keeps tensors in another file, and the server reads no file that a model names: save it as one file, "
            "onnx.save_model(model, path, save_as_external_data=False)"
        )


def class_labels(model: bytes) -> tuple[str, ...]:
    """The labels that a classifier of ai.onnx.ml (scikit-learn's) carries in its node; none where there is no such.

    For a model that ONNX Runtime could load: of other bytes it may raise ValueError.
    """
    if b"classlabels_" not in model:
        return ()
    for graph in _messages(model, 7, 0, len(model)):
        for node in _messages(model, 1, graph.content, graph.stop):
            for attribute in _messages(model, 5, node.content, node.stop):
                if labels := _labels(model, attribute):
                    return labels
    return ()


def _labels(model: bytes, attribute: Field) -> tuple[str, ...]:
    inside = fields(model, attribute.content, attribute.stop)
    name = next(inside, None)  # the name is its first field; the others may be millions
    if name is None or not model[name.content : name.stop].startswith(b"classlabels_"):
        return ()
    strings, numbers = list[str](), list[str]()
    for field in inside:
        if field.number == 9:  # strings
            strings.append(model[field.content : field.stop].decode("utf-8", "replace"))
        elif field.number == 8:  # ints: one for each field, or all of them packed into one
            numbers += map(str, _numbers(model, field))
    return tuple(strings or numbers)


def _numbers(model: bytes, field: Field) -> Iterator[int]:
    at = field.content
    while at < field.stop:
        value, at = read_varint(model, at)
        yield value - (1 << 64) if value >> 63 else value


def _messages(model: bytes, number: int, at: int, end: int) -> Iterator[Field]:
    return (field for field in fields(model, at, end) if field.number == number and field.kind == BYTES)


def _walk(model: bytes, kind: str, at: int, end: int) -> Iterator[tuple[str, Field]]:
    """Every message inside, at any depth, that may hold tensors."""
    children = _INSIDE.get(kind, {})
    for field in fields(model, at, end) if children else ():
        if field.kind == BYTES and (inside := children.get(field.number)):
            yield inside, field
            yield from _walk(model, inside, field.content, field.stop)

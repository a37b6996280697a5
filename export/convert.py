"""Keras to ONNX, layer by layer: the scaling, the softmax and everything between in one graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from . import network as nw
from .emit import emit
from .errors import ExportError, NotAClassifierError, RunError, UnsupportedLayerError
from .fallback import convert_by_tracing
from .fold import fold
from .head import Head, find_head
from .ood import Detector
from .read import check_ends, read_network

INPUT_NAMES = {"image": "image", "table": "features"}
REFERENCE_ELEMENTS = 1 << 24
"""At most so many input elements go through Keras at once: 64 MB of float32, some GB of activations at worst."""


@dataclass(frozen=True)
class Conversion:
    """The graph, without a card, and how it came to be.

    `converter` is "topclass" or "tf2onnx"; `reason` says why the latter; `head` what was appended.
    """

    model: onnx.ModelProto
    converter: str
    reason: str
    head: Head
    preprocessing: str


def convert(
    model: Any,
    kind: str,
    inputs: NDArray[Any],
    name: str = "model",
    temperature: float = 1.0,
    detector: Detector | None = None,
) -> Conversion:
    """Convert a built Keras model of one input and one class vector, its logits divided by the temperature.

    With a detector the graph has a second output, its score; not if tf2onnx had to make it.

    `kind` is "image" (the graph takes uint8) or "table" (float32); `inputs` [n, ...] are a few rows as served, by
    which an output of unknown kind is judged. Raises NotAClassifierError for a model that is no classifier, and
    ExportError where tf2onnx, asked for layers that we do not know, cannot either.
    """
    shape, neurons = check_ends(model)
    _check_kind(kind, shape)
    head = find_head(model, neurons, _outputs(model, inputs[:64]))
    if temperature != 1 and head not in (Head.PROBABILITIES, Head.LOGITS):
        raise RunError(f"a temperature of {temperature:g} is for networks that end in a softmax; {head.value}")
    try:
        net = read_network(model)
        scalings = _scalings(net)
        head.extend(net)
        if temperature != 1:
            head.temper(net, temperature)
    except UnsupportedLayerError as error:
        proto = convert_by_tracing(model, head, INPUT_NAMES[kind], kind, shape, name, temperature)
        return Conversion(proto, "tf2onnx", str(error), head, _preprocessing(kind, head, []))
    if detector is not None:
        detector.extend(net)
    fold(net)
    proto = emit(net, INPUT_NAMES[kind], kind, name)
    return Conversion(proto, "topclass", "", head, _preprocessing(kind, head, scalings))


def reference(model: Any, head: Head, inputs: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float32]:
    """Give Keras' probabilities [n, classes] for inputs as served [n, ...]: what the ONNX file is measured by."""
    outputs = _outputs(model, inputs)
    return np.asarray(keras.ops.convert_to_numpy(head.apply(outputs, temperature)), np.float32)


def reference_scores(model: Any, detector: Detector, inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Give the detector's scores [n] by Keras' features, a few rows at a time."""
    return np.concatenate([detector.scores(model, part) for part in _portions(model, inputs)])


def _outputs(model: Any, inputs: NDArray[Any]) -> NDArray[np.float32]:
    return np.concatenate([_call(model, part) for part in _portions(model, inputs)])


def _portions(model: Any, inputs: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, min(256, REFERENCE_ELEMENTS // max(1, inputs[:1].size)))
    for start in range(0, len(inputs), step):
        yield inputs[start : start + step].astype(model.inputs[0].dtype)


def _call(model: Any, inputs: NDArray[Any]) -> NDArray[np.float32]:
    try:
        output = model(inputs, training=False)
    except Exception as error:  # Keras raises anything; the reader needs the first line, not the trace
        first = (str(error).strip() or "no reason given").splitlines()[0]
        raise ExportError(f"the Keras model fails on inputs {list(inputs.shape)}: {first}") from error
    return np.asarray(keras.ops.convert_to_numpy(keras.tree.flatten(output)[0]), np.float32)


def _check_kind(kind: str, shape: nw.Shape) -> None:
    if kind not in INPUT_NAMES:
        raise ExportError(f"input kind {kind!r}; expected 'image' or 'table'")
    if (kind == "table") != (len(shape) == 1):
        raise NotAClassifierError(f"the input is [N, {', '.join(map(str, shape))}], which is no {kind}")


def _scalings(net: nw.Network) -> list[str]:
    """Say in words what the Affine steps right behind the input do."""
    words: list[str] = []
    readers = net.readers(net.ops[0].name)
    while len(readers) == 1 and isinstance(readers[0], nw.Affine | nw.Reshape):
        op = readers[0]
        if isinstance(op, nw.Affine):
            words.append(_words(op))
        readers = net.readers(op.name)
    return words


def _words(op: nw.Affine) -> str:
    if op.scale.ndim:
        return f"each column scaled by layer {op.name!r}, as fitted in training"
    offset = f" {'-' if op.offset < 0 else '+'} {abs(float(op.offset)):.6g}" if op.offset else ""
    return f"x * {float(op.scale):.6g}{offset} (layer {op.name!r})"


def _preprocessing(kind: str, head: Head, scalings: list[str]) -> str:
    """Say for the card what happens inside the graph, and so must not happen before it."""
    taken = "Raw pixels, 0 to 255, uint8; cast to float32" if kind == "image" else "Raw columns, float32"
    scaled = "".join(f"; {words}" for words in scalings) or "; scaled as the network's own layers do"
    return f"{taken}{scaled}. All of it is inside the graph: feed raw values. At the end, {head.value}."

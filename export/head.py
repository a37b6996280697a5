"""What stands between the last layer and a vector of class probabilities."""

from __future__ import annotations

from enum import Enum
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from . import network as nw
from .errors import NotAClassifierError, UnsupportedLayerError

SIGN = type(keras.ops.sign(keras.KerasTensor((1,)))._keras_history.operation)
"""The class of the operation that keras.ops.sign leaves in a Functional model; it has no public name."""
_PASSED_OVER = (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling2D,
)
"""Layers behind which we look for the one that says what the numbers are."""


class Head(Enum):
    """What the Keras model gives, and so what the graph must add; the value says it to people."""

    PROBABILITIES = "the network's own output is the probabilities"
    LOGITS = "the Keras model gives logits: a softmax was appended"
    SIGMOID = "the Keras model gives one sigmoid p: the graph gives two columns, 1 - p and p"
    LOGIT = "the Keras model gives one logit: a sigmoid was appended, and its p given as two columns, 1 - p and p"
    STEP = "the Keras model gives one step s, 0 or 1: the graph gives two columns, 1 - s and s"
    SIGMOIDS = "the network gives each class a sigmoid of its own, and these need not add up to 1"

    def classes(self, neurons: int) -> int:
        """Count the classes of a network with that many output neurons."""
        return 2 if self in _TWO_COLUMNS else neurons

    def extend(self, net: nw.Network) -> None:
        """Append to the network what makes its output probabilities."""
        if self is Head.LOGITS:
            net.output = net.add(nw.Softmax("softmax", [net.output], net.find(net.output).shape, 0))
        if self is Head.LOGIT:
            net.output = net.add(nw.Activation("sigmoid", [net.output], (1,), "sigmoid"))
        if self in _TWO_COLUMNS:
            net.output = net.add(nw.BothSides("two_classes", [net.output], (2,)))

    def temper(self, net: nw.Network, temperature: float) -> None:
        """Divide the logits before the last softmax; `fold` will melt that into the layer before.

        UnsupportedLayerError where the network does not end in a softmax over the classes.
        """
        last = net.find(net.output)
        if not isinstance(last, nw.Softmax) or len(last.shape) != 1:
            raise UnsupportedLayerError("a temperature: the network does not end in a softmax")
        scale, offset = np.array(1 / temperature), np.array(0.0)
        net.insert_before(nw.Affine("temperature", list(last.inputs), last.shape, scale, offset), last)

    def apply(self, output: Any, temperature: float = 1.0) -> Any:
        """Do the same to a Keras tensor [N, neurons]; gives [N, classes].

        The logarithm of a softmax is its logits but for a constant, by which the temperature finds them again.
        """
        if self is Head.LOGITS:
            return keras.ops.softmax(output / temperature, axis=-1)
        if self is Head.PROBABILITIES and temperature != 1:
            return keras.ops.softmax(keras.ops.log(keras.ops.maximum(output, 1e-37)) / temperature, axis=-1)
        if self is Head.LOGIT:
            output = keras.ops.sigmoid(output)
        if self in _TWO_COLUMNS:
            return keras.ops.concatenate([1.0 - output, output], axis=-1)
        return output


_TWO_COLUMNS = (Head.SIGMOID, Head.LOGIT, Head.STEP)


def find_head(model: Any, neurons: int, rows: NDArray[np.float32]) -> Head:
    """Tell it from the last layer or, where that says nothing, from `rows` [n, neurons] that the model gave.

    Raises NotAClassifierError for anything that is no distribution over classes.
    """
    last = _last_function(model)
    if neurons == 1:
        heads = {"sigmoid": Head.SIGMOID, "linear": Head.LOGIT, "step": Head.STEP}
    else:
        heads = {"softmax": Head.PROBABILITIES, "linear": Head.LOGITS, "sigmoid": Head.SIGMOIDS}
    if last in heads:
        return heads[last]
    if last is None and neurons > 1 and _sum_to_one(rows):
        return Head.PROBABILITIES
    wanted = "a sigmoid, a logit or a step" if neurons == 1 else "a softmax, sigmoids or logits"
    raise NotAClassifierError(
        f"the last layer gives {neurons} values of {last or 'an unknown kind'}, which are no class probabilities; "
        f"expected {wanted}"
    )


def _sum_to_one(rows: NDArray[np.float32]) -> bool:
    return bool(np.all(rows >= 0) and np.all(np.abs(rows.sum(axis=1) - 1) < 1e-3))


def _last_function(model: Any) -> str | None:
    """Name the activation that the model's output went through; None where its layer has none."""
    tensor = model.outputs[0]
    while True:
        layer = tensor._keras_history.operation
        if isinstance(layer, keras.Model):
            return _last_function(layer) if len(layer.outputs or []) == 1 else None
        if isinstance(layer, keras.layers.Softmax):
            return "softmax"
        if isinstance(layer, keras.layers.ReLU):
            return "step" if _is_step(layer, tensor) else None
        function = getattr(layer, "activation", None)
        named = keras.activations.serialize(function) if function is not None else None
        if isinstance(layer, keras.layers.Activation) and named == "linear":
            named = None
        elif named is not None:
            return named if isinstance(named, str) else None
        elif not isinstance(layer, _PASSED_OVER):
            return None
        node = layer._inbound_nodes[tensor._keras_history.node_index]
        tensor = node.arguments.keras_tensors[0]


def _is_step(layer: Any, tensor: Any) -> bool:
    """Tell whether it is ReLU of the sign: 1 above 0, else 0."""
    node = layer._inbound_nodes[tensor._keras_history.node_index]
    before = node.arguments.keras_tensors[0]._keras_history.operation
    plain = not (layer.negative_slope or layer.threshold) and layer.max_value is None
    return plain and type(before) is SIGN

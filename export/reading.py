"""What every reader of a Keras layer needs: its shapes, its weights, its activation, and a way to refuse it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from . import network as nw
from .activations import DEFAULT_NUMBERS, FUNCTIONS
from .errors import UnsupportedLayerError

Read = Callable[[nw.Network, Any, list[str], str], str]
"""network, Keras layer, names of what goes in, name to use → name of what comes out."""


def demand(condition: bool, layer: Any, what: str) -> None:
    """Refuse a layer or a setting by UnsupportedLayerError, unless the condition holds."""
    if not condition:
        raise UnsupportedLayerError(f"layer {layer.name!r}: {what}")


def output_shape(net: nw.Network, layer: Any, inputs: list[str]) -> nw.Shape:
    """Ask Keras for the shape that comes out, without the batch."""
    shapes = [(None, *net.find(name).shape) for name in inputs]
    result = layer.compute_output_shape(shapes[0] if len(shapes) == 1 else shapes)
    demand(None not in result[1:], layer, f"its output shape {tuple(result)} is not fixed")
    return tuple(result[1:])


def float64(values: Any) -> nw.Floats:
    """Give a weight as an array, in the precision that folding is done in."""
    return np.asarray(keras.ops.convert_to_numpy(values), np.float64)


def activate(net: nw.Network, layer: Any, source: str, name: str, prefix: str = "") -> str:
    """Append the layer's activation; `prefix` is put before its own name where the layer has other steps."""
    function = keras.activations.serialize(layer.activation) if layer.activation is not None else "linear"
    shape = net.find(source).shape
    if function == "linear":
        return source
    if not isinstance(function, str) or function not in {*FUNCTIONS, "softmax"}:
        demand(False, layer, f"activation {function!r} is not known")
    if function == "softmax":
        return net.add(nw.Softmax(f"{name}{prefix and '/softmax'}", [source], shape, len(shape) - 1))
    return net.add(
        nw.Activation(
            f"{name}{prefix and '/' + function}", [source], shape, function, DEFAULT_NUMBERS.get(function, ())
        )
    )

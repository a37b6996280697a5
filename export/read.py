"""Walks a Keras model, nested ones too, and writes down what it computes as a Network."""

from __future__ import annotations

from typing import Any

import keras

from . import network as nw
from .errors import NotAClassifierError, UnsupportedLayerError
from .layers import read_layer


def check_ends(model: Any) -> tuple[nw.Shape, int]:
    """Give the input shape, without the batch, and the number of output neurons.

    Raises NotAClassifierError unless there is one input of fixed shape and one output vector.
    """
    inputs, outputs = list(model.inputs or []), list(model.outputs or [])
    for what, ends in (("input", inputs), ("output", outputs)):
        if len(ends) != 1:
            raise NotAClassifierError(
                f"the network has {len(ends)} {what}s ({', '.join(end.name for end in ends)}); a classifier has one"
            )
    shape, out = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if None in shape[1:] or not 2 <= len(shape) <= 4:
        raise NotAClassifierError(
            f"the input is {_text(shape)}; expected one of fixed size: [N, height, width], "
            "[N, height, width, channels] or [N, features]"
        )
    if len(out) != 2 or out[1] is None:
        raise NotAClassifierError(f"the output is {_text(out)}; expected one vector of classes, [N, classes]")
    return shape[1:], out[1]


def _text(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join(['N', *(str(size or '?') for size in shape[1:])])}]"


def read_network(model: Any) -> nw.Network:
    """Write a Sequential or Functional model down; UnsupportedLayerError for a layer we do not know."""
    shape, _ = check_ends(model)
    net = nw.Network()
    source = net.add(nw.Source("", [], shape))
    net.output = _read_model(net, model, source, "")
    return net


def _graph_of(model: Any) -> Any:
    """Give the Functional model that holds the nodes; Keras keeps one inside every built Sequential."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    if not hasattr(graph, "_nodes_by_depth"):
        raise UnsupportedLayerError(f"model {model.name!r}: neither Sequential nor Functional")
    return graph


def _read_model(net: nw.Network, model: Any, source: str, prefix: str) -> str:
    graph = _graph_of(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedLayerError(f"model {model.name!r}: more than one input or output inside the network")
    names = {id(graph.inputs[0]): source}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                names[id(node.outputs[0])] = _read_node(net, node, names, prefix)
    return names[id(graph.outputs[0])]


def _read_node(net: nw.Network, node: Any, names: dict[int, str], prefix: str) -> str:
    layer = node.operation
    _check_call(node)
    inputs = [names[id(tensor)] for tensor in node.arguments.keras_tensors]
    name = f"{prefix}{layer.name}"
    if isinstance(layer, keras.Model):
        return _read_model(net, layer, inputs[0], f"{name}/")
    return read_layer(net, layer, inputs, name)


def _check_call(node: Any) -> None:
    """Refuse calls that say more than "these tensors", such as a mask or a number.

    `training` is no matter, even where it was fixed to True: a model called with training=False hands that to all.
    """
    layer, arguments = node.operation, node.arguments
    said = [key for key, value in arguments.kwargs.items() if key != "training" and value is not None]
    if len(arguments.args) != 1 or said or len(node.outputs) != 1:
        raise UnsupportedLayerError(f"layer {layer.name!r}: called with more than its inputs")

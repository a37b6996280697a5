"""Keras' activation functions as ONNX nodes of opset 17. All are elementwise, so they fit any layout."""

from __future__ import annotations

import math
from collections.abc import Callable

from .graph import Graph

Build = Callable[[Graph, str, str, tuple[float, ...]], str]
"""graph, name of the step, tensor that goes in, numbers → tensor that comes out."""


def _node(op_type: str, **fixed: float) -> Build:
    def build(graph: Graph, name: str, x: str, _: tuple[float, ...]) -> str:
        return graph.node(op_type, [x], name, **fixed)

    return build


def _with_alpha(op_type: str) -> Build:
    def build(graph: Graph, name: str, x: str, numbers: tuple[float, ...]) -> str:
        return graph.node(op_type, [x], name, alpha=numbers[0])

    return build


def _clip(low: float | None = None, high: float | None = None) -> Build:
    def build(graph: Graph, name: str, x: str, numbers: tuple[float, ...]) -> str:
        bottom, top = numbers if low is None or high is None else (low, high)
        return graph.node("Clip", [x, graph.scalar(f"{name}/low", bottom), graph.scalar(f"{name}/high", top)], name)

    return build


def _capped_leaky_relu(graph: Graph, name: str, x: str, numbers: tuple[float, ...]) -> str:
    slope, top = numbers
    leaky = graph.node("LeakyRelu", [x], f"{name}/leaky", alpha=slope)
    return graph.node("Min", [leaky, graph.scalar(f"{name}/high", top)], name)


def _silu(graph: Graph, name: str, x: str, _: tuple[float, ...]) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x], f"{name}/gate")], name)


def _mish(graph: Graph, name: str, x: str, _: tuple[float, ...]) -> str:
    softplus = graph.node("Softplus", [x], f"{name}/softplus")
    return graph.node("Mul", [x, graph.node("Tanh", [softplus], f"{name}/gate")], name)


def _half_gated(graph: Graph, name: str, x: str, gate: str) -> str:
    """Build `(x * 0.5) * (1 + gate)`, the common end of both GELUs."""
    one_more = graph.node("Add", [gate, graph.scalar(f"{name}/one", 1.0)], f"{name}/gate")
    half = graph.node("Mul", [x, graph.scalar(f"{name}/half", 0.5)], f"{name}/half_x")
    return graph.node("Mul", [half, one_more], name)


def _gelu(graph: Graph, name: str, x: str, _: tuple[float, ...]) -> str:
    scaled = graph.node("Div", [x, graph.scalar(f"{name}/sqrt2", math.sqrt(2.0))], f"{name}/scaled")
    return _half_gated(graph, name, x, graph.node("Erf", [scaled], f"{name}/erf"))


def _gelu_tanh(graph: Graph, name: str, x: str, _: tuple[float, ...]) -> str:
    square = graph.node("Mul", [x, x], f"{name}/square")
    cube = graph.node("Mul", [square, x], f"{name}/cube")
    small = graph.node("Mul", [cube, graph.scalar(f"{name}/c", 0.044715)], f"{name}/small")
    total = graph.node("Add", [x, small], f"{name}/sum")
    scaled = graph.node("Mul", [total, graph.scalar(f"{name}/k", math.sqrt(2.0 / math.pi))], f"{name}/scaled")
    return _half_gated(graph, name, x, graph.node("Tanh", [scaled], f"{name}/tanh"))


FUNCTIONS: dict[str, Build] = {
    "relu": _node("Relu"),
    "relu6": _clip(0.0, 6.0),
    "clip": _clip(),  # numbers: low, high
    "capped_leaky_relu": _capped_leaky_relu,  # numbers: slope, high
    "leaky_relu": _with_alpha("LeakyRelu"),
    "elu": _with_alpha("Elu"),
    "celu": _with_alpha("Celu"),
    "selu": _node("Selu"),
    "sigmoid": _node("Sigmoid"),
    "hard_sigmoid": _node("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_silu": _node("HardSwish"),
    "hard_tanh": _clip(-1.0, 1.0),
    "tanh": _node("Tanh"),
    "sign": _node("Sign"),
    "softplus": _node("Softplus"),
    "softsign": _node("Softsign"),
    "exponential": _node("Exp"),
    "silu": _silu,
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}

DEFAULT_NUMBERS: dict[str, tuple[float, ...]] = {"leaky_relu": (0.2,), "elu": (1.0,), "celu": (1.0,)}
"""What Keras takes when a function is given by name alone."""

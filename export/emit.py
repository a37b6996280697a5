"""Turns a Network into ONNX nodes, one function for each kind of step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from . import network as nw
from .activations import FUNCTIONS
from .graph import Graph
from .layout import Emission, Value

Emit = Callable[[Emission, Any, list[Value]], Value]


def emit(net: nw.Network, input_name: str, kind: str, name: str) -> onnx.ModelProto:
    """Write the whole network: one input `input_name`, uint8 for "image"; outputs [N, classes] and, if any, [N]."""
    (source,) = (op for op in net.ops if isinstance(op, nw.Source))
    graph = Graph(input_name, kind, source.shape)
    emission = Emission(graph)
    for op in net.ops:
        if isinstance(op, nw.Source):
            tensor = input_name
            if kind == "image":
                tensor = graph.node("Cast", [input_name], f"{input_name}/float", to=onnx.TensorProto.FLOAT)
            emission.values[op.name] = Value(tensor, op.shape, op.shape)
        else:
            emission.values[op.name] = EMITTERS[type(op)](emission, op, [emission.values[each] for each in op.inputs])
    last = emission.keras_order(emission.values[net.output], net.output or input_name)
    return graph.finish(last.tensor, last.shape[0], name, emission.values[net.score].tensor if net.score else None)


def _affine(e: Emission, op: nw.Affine, inputs: list[Value]) -> Value:
    value, scale = e.fitted(inputs[0], op.scale, op.name)
    _, offset = e.fitted(inputs[0], op.offset, op.name)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shift = offset / scale
    if np.abs(offset).max() > 1 and bool(np.all(np.abs(shift) < 1e30)):  # (x - mean) / deviation, Keras' own order
        tensor = e.graph.node("Add", [value.tensor, e.graph.constant(f"{op.name}/shift", shift)], f"{op.name}/shifted")
        if np.any(scale != 1):
            tensor = e.graph.node("Mul", [tensor, e.graph.constant(f"{op.name}/scale", scale)], op.name)
        return replace(value, tensor=tensor)
    tensor = value.tensor
    if np.any(scale != 1):
        tensor = e.graph.node("Mul", [tensor, e.graph.constant(f"{op.name}/scale", scale)], f"{op.name}/scaled")
    if np.any(offset):
        tensor = e.graph.node("Add", [tensor, e.graph.constant(f"{op.name}/offset", offset)], op.name)
    return replace(value, tensor=tensor)


def _dense(e: Emission, op: nw.Dense, inputs: list[Value]) -> Value:
    value, kernel = inputs[0], op.kernel
    if value.hwc is not None and len(value.shape) == 1:
        kernel = kernel.reshape(*value.hwc, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        value = replace(value, hwc=None)
    tensor = e.keras_order(value, op.name).tensor
    names = [e.graph.constant(f"{op.name}/kernel", kernel)]
    if len(op.shape) == 1:
        names.append(e.graph.constant(f"{op.name}/bias", op.bias))
        return Value(e.graph.node("Gemm", [tensor, *names], op.name), op.shape, op.shape)
    tensor = e.graph.node("MatMul", [tensor, *names], f"{op.name}/matmul")
    tensor = e.graph.node("Add", [tensor, e.graph.constant(f"{op.name}/bias", op.bias)], op.name)
    return Value(tensor, op.shape, op.shape)


def _picture(tensor: str, shape: nw.Shape) -> Value:
    """Stand for a tensor that is [N, channels, height, width] now."""
    height, width, channels = shape
    return Value(tensor, (channels, height, width), shape, shape)


def _conv(e: Emission, op: nw.Conv, inputs: list[Value]) -> Value:
    value = e.channels_first(inputs[0], op.name)
    kernel = e.graph.constant(f"{op.name}/kernel", op.kernel.transpose(3, 2, 0, 1))
    names = [value.tensor, kernel] + ([e.graph.constant(f"{op.name}/bias", op.bias)] if np.any(op.bias) else [])
    attributes = {"strides": op.strides, "dilations": op.dilations, "pads": op.pads, "group": op.groups}
    size = list(op.kernel.shape[:2])
    return _picture(e.graph.node("Conv", names, op.name, kernel_shape=size, **attributes), op.shape)


def _both_sides(e: Emission, op: nw.BothSides, inputs: list[Value]) -> Value:
    (yes,) = (e.keras_order(each, op.name).tensor for each in inputs)
    no = e.graph.node("Sub", [e.graph.scalar(f"{op.name}/one", 1.0), yes], f"{op.name}/no")
    return Value(e.graph.node("Concat", [no, yes], op.name, axis=1), op.shape, op.shape)


def _strangeness(e: Emission, op: nw.Strangeness, inputs: list[Value]) -> Value:
    """|z - c|² as |z|² - 2 z·c + |c|², where z has one more element, 1, which carries |c|² through the product."""
    g, name = e.graph, op.name
    features = e.keras_order(inputs[0], name).tensor
    length = g.node("ReduceL2", [features], f"{name}/length", axes=[1], keepdims=1)
    length = g.node("Max", [length, g.scalar(f"{name}/shortest", op.shortest)], f"{name}/length_or_more")
    unit = g.node("Div", [features, length], f"{name}/unit")
    kernel = np.hstack([op.whiten, np.zeros((len(op.whiten), 1))])
    bias = np.append(-op.mean @ op.whiten, 1.0)
    constants = [g.constant(f"{name}/whiten", kernel), g.constant(f"{name}/mean", bias)]
    place = g.node("Gemm", [unit, *constants], f"{name}/place")
    square = g.node("ReduceSumSquare", [place], f"{name}/square", axes=[1], keepdims=1)
    centers = np.vstack([-2 * op.centers.T, (op.centers**2).sum(axis=1) - 1])
    distances = g.node("Gemm", [place, g.constant(f"{name}/centers", centers), square], f"{name}/distances")
    return Value(g.node("ReduceMin", [distances], f"{name}/least", axes=[1], keepdims=0), (), ())


def _activation(e: Emission, op: nw.Activation, inputs: list[Value]) -> Value:
    return replace(inputs[0], tensor=FUNCTIONS[op.function](e.graph, op.name, inputs[0].tensor, op.numbers))


def _prelu(e: Emission, op: nw.PRelu, inputs: list[Value]) -> Value:
    value, slope = e.fitted(inputs[0], op.slope, op.name)
    return replace(
        value, tensor=e.graph.node("PRelu", [value.tensor, e.graph.constant(f"{op.name}/slope", slope)], op.name)
    )


def _softmax(e: Emission, op: nw.Softmax, inputs: list[Value]) -> Value:
    value = e.keras_order(inputs[0], op.name)
    return replace(value, tensor=e.graph.node("Softmax", [value.tensor], op.name, axis=op.axis + 1))


def _pool(e: Emission, op: nw.Pool, inputs: list[Value]) -> Value:
    value = e.channels_first(inputs[0], op.name)
    attributes = {"kernel_shape": op.size, "strides": op.strides, "pads": op.pads}
    op_type = {"max": "MaxPool", "average": "AveragePool"}[op.kind]
    return _picture(e.graph.node(op_type, [value.tensor], op.name, **attributes), op.shape)


def _global_pool(e: Emission, op: nw.GlobalPool, inputs: list[Value]) -> Value:
    value = e.channels_first(inputs[0], op.name)
    op_type = {"max": "GlobalMaxPool", "average": "GlobalAveragePool"}[op.kind]
    return Value(e.graph.node(op_type, [value.tensor], op.name), (op.shape[-1], 1, 1), op.shape)


def _reshape(e: Emission, op: nw.Reshape, inputs: list[Value]) -> Value:
    value = inputs[0]
    if value.hwc is not None and op.shape not in ((math.prod(op.shape),), value.hwc):
        value = e.keras_order(value, op.name)
    return replace(value, shape=op.shape)


def _permute(e: Emission, op: nw.Permute, inputs: list[Value]) -> Value:
    value = e.keras_order(inputs[0], op.name)
    axes = [0, *(axis + 1 for axis in op.axes)]
    return Value(e.graph.node("Transpose", [value.tensor], op.name, perm=axes), op.shape, op.shape)


def _together(e: Emission, name: str, values: list[Value], along: bool) -> list[Value]:
    """Give all in one order: channels first if one of the pictures is so, else Keras'.

    Flattened pictures may stay as they are if all are flattened alike and are not put one after another (`along`).
    """
    if all(len(value.shape) == 3 for value in values) and any(value.hwc is not None for value in values):
        return [e.channels_first(value, name) for value in values]
    if not along and len({(value.hwc, value.shape) for value in values}) == 1:
        return [replace(value, tensor=e.view(value, value.shape, name), actual=value.shape) for value in values]
    return [e.keras_order(value, name) for value in values]


def _merge(e: Emission, op: nw.Merge, inputs: list[Value]) -> Value:
    values = _together(e, op.name, inputs, along=False)
    tensor = values[0].tensor
    if op.kind in ("Mean", "Max"):
        tensor = e.graph.node(op.kind, [value.tensor for value in values], op.name)
    else:
        for value in values[1:]:
            tensor = e.graph.node(op.kind, [tensor, value.tensor], op.name)
    if len(op.shape) == 3 and values[0].hwc is not None:
        return _picture(tensor, op.shape)
    return Value(tensor, op.shape, op.shape, values[0].hwc)


def _concat(e: Emission, op: nw.Concat, inputs: list[Value]) -> Value:
    values = _together(e, op.name, inputs, along=True)
    first = values[0].hwc is not None
    axis = (2, 3, 1)[op.axis] if first else op.axis + 1
    tensor = e.graph.node("Concat", [value.tensor for value in values], op.name, axis=axis)
    return _picture(tensor, op.shape) if first else Value(tensor, op.shape, op.shape)


def _pad(e: Emission, op: nw.Pad, inputs: list[Value]) -> Value:
    value = e.channels_first(inputs[0], op.name)
    top, left, bottom, right = op.pads
    pads = e.graph.constant(f"{op.name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
    return _picture(e.graph.node("Pad", [value.tensor, pads], op.name), op.shape)


def _crop(e: Emission, op: nw.Crop, inputs: list[Value]) -> Value:
    value = e.channels_first(inputs[0], op.name)
    top, left, _, _ = op.pads
    names = [
        e.graph.constant(f"{op.name}/{what}", np.array(numbers))
        for what, numbers in (
            ("starts", [top, left]),
            ("ends", [top + op.shape[0], left + op.shape[1]]),
            ("axes", [2, 3]),
        )
    ]
    return _picture(e.graph.node("Slice", [value.tensor, *names], op.name), op.shape)


def _up_sample(e: Emission, op: nw.UpSample, inputs: list[Value]) -> Value:
    value = e.channels_first(inputs[0], op.name)
    factors = e.graph.constant(f"{op.name}/factors", np.array([1.0, 1.0, *op.factors]))
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _picture(e.graph.node("Resize", [value.tensor, "", factors], op.name, **attributes), op.shape)


def _layer_norm(e: Emission, op: nw.LayerNorm, inputs: list[Value]) -> Value:
    value = e.keras_order(inputs[0], op.name)
    names = [e.graph.constant(f"{op.name}/scale", op.scale), e.graph.constant(f"{op.name}/offset", op.offset)]
    tensor = e.graph.node("LayerNormalization", [value.tensor, *names], op.name, axis=-1, epsilon=op.epsilon)
    return replace(value, tensor=tensor)


EMITTERS: dict[type[nw.Op], Emit] = {
    nw.Affine: _affine,
    nw.Dense: _dense,
    nw.Conv: _conv,
    nw.Activation: _activation,
    nw.PRelu: _prelu,
    nw.Softmax: _softmax,
    nw.Pool: _pool,
    nw.GlobalPool: _global_pool,
    nw.Reshape: _reshape,
    nw.Permute: _permute,
    nw.Merge: _merge,
    nw.Concat: _concat,
    nw.Pad: _pad,
    nw.Crop: _crop,
    nw.UpSample: _up_sample,
    nw.LayerNorm: _layer_norm,
    nw.BothSides: _both_sides,
    nw.Strangeness: _strangeness,
}

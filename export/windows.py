"""Reads the Keras layers that slide a window over a picture: convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import network as nw
from .reading import Read, activate, demand, float64, output_shape


def _pads(layer: Any, shape: nw.Shape, size: Sequence[int], dilation: Sequence[int] = (1, 1)) -> nw.Pads:
    """Where TensorFlow puts the zeros of padding="same": half before, the odd one after."""
    if layer.padding == "valid":
        return nw.NO_PADS
    demand(layer.padding == "same", layer, f"padding {layer.padding!r} is not known")
    before, after = [], []
    for length, window, stride, spread in zip(shape[:2], size, layer.strides, dilation, strict=True):
        reach = (window - 1) * spread + 1
        total = max((-(-length // stride) - 1) * stride + reach - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return (before[0], before[1], after[0], after[1])


def _conv(net: nw.Network, layer: Any, inputs: list[str], name: str, kernel: nw.Floats, groups: int) -> nw.Conv:
    """Make the step, not yet appended, of any layer that slides `kernel` [h, w, in / groups, out]."""
    shape = net.find(inputs[0]).shape
    dilation = tuple(layer.dilation_rate)
    pads = _pads(layer, shape, kernel.shape[:2], dilation)
    out = output_shape(net, layer, inputs)
    bias = np.zeros(kernel.shape[-1])
    strides = tuple(layer.strides)
    return nw.Conv(name, inputs, (*out[:2], kernel.shape[-1]), kernel, bias, strides, dilation, pads, groups)


def conv2d(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    """Conv2D, with groups and dilation."""
    op = _conv(net, layer, inputs, name, float64(layer.kernel), layer.groups)
    if layer.use_bias:
        op.bias = float64(layer.bias)
    return activate(net, layer, net.add(op), name, "/")


def _per_channel(kernel: nw.Floats) -> nw.Floats:
    """Turn a depthwise kernel [h, w, in, multiplier] into that of a convolution with `in` groups."""
    return kernel.reshape(*kernel.shape[:2], 1, -1)


def depthwise(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    """DepthwiseConv2D: a convolution with as many groups as channels."""
    kernel = float64(layer.kernel)
    op = _conv(net, layer, inputs, name, _per_channel(kernel), kernel.shape[2])
    if layer.use_bias:
        op.bias = float64(layer.bias)
    return activate(net, layer, net.add(op), name, "/")


def separable(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    """SeparableConv2D: a depthwise convolution, then one of 1x1."""
    kernel = float64(layer.depthwise_kernel)
    depthwise = _conv(net, layer, inputs, f"{name}/depthwise", _per_channel(kernel), kernel.shape[2])
    source = net.add(depthwise)
    pointwise = float64(layer.pointwise_kernel)
    bias = float64(layer.bias) if layer.use_bias else np.zeros(pointwise.shape[-1])
    shape = (*depthwise.shape[:2], pointwise.shape[-1])
    op = nw.Conv(f"{name}/pointwise", [source], shape, pointwise, bias, (1, 1), (1, 1), nw.NO_PADS, 1)
    return activate(net, layer, net.add(op), name, "/")


def pool(kind: str) -> Read:
    """Read a pooling layer of that kind, "max" or "average"."""

    def read(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
        size = tuple(layer.pool_size)
        pads = _pads(layer, net.find(inputs[0]).shape, size)
        return net.add(nw.Pool(name, inputs, output_shape(net, layer, inputs), kind, size, tuple(layer.strides), pads))

    return read


def global_pool(kind: str) -> Read:
    """Read a global pooling layer of that kind, "max" or "average"."""

    def read(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
        return net.add(nw.GlobalPool(name, inputs, output_shape(net, layer, inputs), kind))

    return read

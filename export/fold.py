"""Arithmetic that need not wait for a request: scalings and batch norms melt into the weights beside them.

Each rule finds one place, rewrites it and says True; `fold` repeats them until none finds any. All is done in
float64 and is exact up to the last rounding, or it is not done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from . import network as nw

LARGEST_FOLDED_OFFSET = 4.0
"""An offset of more standard deviations than this is subtracted before the weights, as Keras does: inside a bias
it would meet a product of about its own size, and float32 would lose the digits that matter."""


def fold(net: nw.Network) -> None:
    """Rewrite the network in place; what it computes stays the same."""
    rules = (_drop_idle, _merge_affines, _fold_back, _fold_pad, _fold_forward, _sink)
    while any(rule(net) for rule in rules):
        pass
    for op in [op for op in net.ops if isinstance(op, nw.Pad)]:
        _part_from_pool(net, op)


def _affines(net: nw.Network) -> Iterator[nw.Affine]:
    return (op for op in net.ops if isinstance(op, nw.Affine))


def _drop_idle(net: nw.Network) -> bool:
    """Take out a Permute or Reshape that changes nothing, an Affine of x * 1 + 0, and zero borders."""
    for op in net.ops:
        same = (
            (isinstance(op, nw.Permute) and op.axes == tuple(range(len(op.axes))))
            or (isinstance(op, nw.Reshape) and op.shape == net.find(op.inputs[0]).shape)
            or (isinstance(op, nw.Affine) and bool(np.all(op.scale == 1.0)) and not np.any(op.offset))
            or (isinstance(op, nw.Pad | nw.Crop) and not any(op.pads))
        )
        if same:
            net.drop(op)
            return True
    return False


def _merge_affines(net: nw.Network) -> bool:
    for first in _affines(net):
        second = net.only_reader(first.name)
        if isinstance(second, nw.Affine):
            second.set(first.scale * second.scale, first.offset * second.scale + second.offset)
            net.drop(first)
            return True
    return False


def _fold_back(net: nw.Network) -> bool:
    """BatchNormalization into the Dense or Conv before it."""
    for op in _affines(net):
        before = net.find(op.inputs[0])
        if isinstance(before, nw.Dense | nw.Conv) and net.only_reader(before.name) is op:
            before.kernel = before.kernel * op.scale
            before.bias = before.bias * op.scale + op.offset
            net.drop(op)
            return True
    return False


def _fold_pad(net: nw.Network) -> bool:
    """ZeroPadding2D into the convolution after it."""
    for op in net.ops:
        after = net.only_reader(op.name)
        if isinstance(op, nw.Pad) and isinstance(after, nw.Conv):
            top, left, bottom, right = (a + b for a, b in zip(after.pads, op.pads, strict=True))
            after.pads = (top, left, bottom, right)
            net.drop(op)
            return True
    return False


def _part_from_pool(net: nw.Network, op: nw.Pad) -> None:
    """Keep ONNX Runtime from melting a Pad into the pool behind it.

    Its own optimizer does so whatever the numbers are, but a MaxPool pads with -inf: wrong for negative pictures, and
    refused where the border is as wide as the window. Where it is right we do it here; else one row too many is
    padded and cut off again, for a Pad behind which comes no pool is left alone.
    """
    pool = net.only_reader(op.name)
    if not isinstance(pool, nw.Pool):
        return
    top, left, bottom, right = (a + b for a, b in zip(pool.pads, op.pads, strict=True))
    narrow = max(top, bottom) < pool.size[0] and max(left, right) < pool.size[1]
    if pool.kind == "max" and narrow and _never_negative(net.find(op.inputs[0])):
        pool.pads = (top, left, bottom, right)
        net.drop(op)
        return
    height, width, channels = op.shape
    top, left, bottom, right = op.pads
    op.pads, op.shape = (top, left, bottom + 1, right), (height + 1, width, channels)
    crop = nw.Crop(f"{op.name}/cut", [op.name], (height, width, channels), (0, 0, 1, 0))
    pool.inputs = [net.add(crop)]
    net.ops.remove(crop)
    net.ops.insert(net.ops.index(op) + 1, crop)


def _never_negative(op: nw.Op) -> bool:
    return isinstance(op, nw.Activation) and op.function in ("relu", "relu6", "sigmoid")


def _fold_forward(net: nw.Network) -> bool:
    """Rescaling and Normalization into the Dense or Conv after them: the scale always, the offset where it may."""
    for op in _affines(net):
        after = net.only_reader(op.name)
        if not isinstance(after, nw.Dense | nw.Conv):
            continue
        padded = isinstance(after, nw.Conv) and any(after.pads)
        if np.any(op.offset) and (padded or np.abs(op.offset).max() > LARGEST_FOLDED_OFFSET):
            if np.all(op.scale == 1.0) or not _shifts_first(op):
                continue
            _scale_input(after, op.scale)
            op.set(np.ones_like(op.scale), op.offset / op.scale)
            return True
        _shift_input(after, op.offset)
        _scale_input(after, op.scale)
        net.drop(op)
        return True
    return False


def _shifts_first(op: nw.Affine) -> bool:
    """Tell whether `(x + offset / scale) * scale` can be written in float32."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return bool(np.all(np.abs(op.offset / op.scale) < 1e30))


def _input_rows(op: nw.Dense | nw.Conv, vector: nw.Floats) -> nw.Floats:
    """Arrange one number per input channel so that it broadcasts against the kernel."""
    if vector.ndim == 0:
        return vector
    if isinstance(op, nw.Dense):
        return vector[:, None]
    _, _, inputs, outputs = op.kernel.shape
    groups = np.repeat(np.arange(op.groups), outputs // op.groups)
    arranged: nw.Floats = vector[groups[None, :] * inputs + np.arange(inputs)[:, None]]
    return arranged


def _scale_input(op: nw.Dense | nw.Conv, scale: nw.Floats) -> None:
    op.kernel = op.kernel * _input_rows(op, scale)


def _shift_input(op: nw.Dense | nw.Conv, offset: nw.Floats) -> None:
    weighted = op.kernel * _input_rows(op, offset)
    op.bias = op.bias + weighted.sum(axis=tuple(range(op.kernel.ndim - 1)))


def _sink(net: nw.Network) -> bool:
    """Let an Affine change places with a step that only moves or selects numbers, if weights lie further on."""
    for op in _affines(net):
        after = net.only_reader(op.name)
        if after is not None and _passes(op, after) and _reaches_weights(net, after):
            _swap(net, op, after)
            return True
    return False


def _passes(op: nw.Affine, after: nw.Op) -> bool:
    scalar = op.scale.ndim == 0
    match after:
        case nw.Reshape():
            return scalar or after.shape == (math.prod(after.shape),) or after.shape[-1] == op.shape[-1]
        case nw.Permute():
            return scalar
        case nw.Pool(kind="max") | nw.GlobalPool(kind="max"):
            return bool(np.all(op.scale > 0))
        case nw.Pool() | nw.GlobalPool() | nw.Crop():
            return True
        case nw.Pad():
            return not np.any(op.offset)
    return False


def _reaches_weights(net: nw.Network, op: nw.Op) -> bool:
    """Tell whether, past steps that only move or select numbers, a Dense or Conv is next."""
    following: nw.Op | None = op
    while isinstance(following, nw.Reshape | nw.Permute | nw.Pool | nw.GlobalPool | nw.Crop | nw.Pad):
        following = net.only_reader(following.name)
    return isinstance(following, nw.Dense | nw.Conv)


def _swap(net: nw.Network, op: nw.Affine, after: nw.Op) -> None:
    """Put `op` right behind `after`, which it has passed."""
    if op.scale.ndim == 1 and isinstance(after, nw.Reshape):
        repeat = after.shape[-1] // op.scale.size
        op.set(np.tile(op.scale, repeat), np.tile(op.offset, repeat))
    readers = net.readers(after.name)
    after.inputs = list(op.inputs)
    for reader in readers:
        reader.inputs = [op.name if name == after.name else name for name in reader.inputs]
    op.inputs, op.shape = [after.name], after.shape
    if net.output == after.name:
        net.output = op.name
    net.ops.remove(op)
    net.ops.insert(net.ops.index(after) + 1, op)

"""How one tensor lies in memory, and the moves between Keras' order of the axes and that of ONNX' convolutions.

Keras keeps the channels last, ONNX wants them first. A tensor is transposed where it meets the first convolution
and never back, if that can be helped: elementwise steps take either order, and a Dense layer behind a Flatten gets
its weights permuted instead. A Reshape is written only when a step needs the new shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from . import network as nw
from .graph import Graph


@dataclass(frozen=True)
class Value:
    """One tensor of the graph and how it stands for what Keras has there.

    `tensor` has the shape [N, *actual]. Row by row its elements are those of Keras' [N, *shape] in the same order;
    or, where `hwc` is set, of Keras' tensor seen as [N, *hwc] with the channels moved first.
    """

    tensor: str
    actual: nw.Shape
    shape: nw.Shape
    hwc: nw.Shape | None = None


class Emission:
    """The graph that grows, and which Value stands for which step."""

    def __init__(self, graph: Graph) -> None:
        """Write into `graph`."""
        self.graph = graph
        self.values: dict[str, Value] = {}
        self._done: dict[tuple[str, nw.Shape | str], str] = {}

    def view(self, value: Value, shape: nw.Shape, name: str) -> str:
        """Give the tensor in another shape [N, *shape], its elements in the same order."""
        if value.actual == shape:
            return value.tensor
        key = (value.tensor, shape)
        if key not in self._done:
            target = self.graph.constant(f"{name}/shape", np.array([0, *shape]))
            self._done[key] = self.graph.node("Reshape", [value.tensor, target], f"{name}/reshape")
        return self._done[key]

    def keras_order(self, value: Value, name: str) -> Value:
        """Give it as Keras has it: [N, *shape], channels last."""
        if value.hwc is not None and not _one_order(value.hwc):
            height, width, channels = value.hwc
            picture = self.view(value, (channels, height, width), name)
            value = replace(value, tensor=self._transpose(picture, [0, 2, 3, 1], name), actual=value.hwc)
        return Value(self.view(value, value.shape, name), value.shape, value.shape)

    def channels_first(self, value: Value, name: str) -> Value:
        """Give a picture as [N, channels, height, width]. With one channel, or one pixel, that costs no Transpose."""
        height, width, channels = value.shape
        if value.hwc is not None and value.hwc != value.shape:
            value = self.keras_order(value, name)
        if value.hwc is None and not _one_order(value.shape):
            value = self.keras_order(value, name)
            tensor = self._transpose(value.tensor, [0, 3, 1, 2], name)
        else:
            tensor = self.view(value, (channels, height, width), name)
        return Value(tensor, (channels, height, width), value.shape, value.shape)

    def fitted(self, value: Value, parameter: nw.Floats, name: str) -> tuple[Value, nw.Floats]:
        """Give value and parameter (which broadcasts against Keras' shape) in shapes that broadcast as they are."""
        if parameter.size == 1:
            return value, parameter.reshape(())
        if value.hwc is None:
            return self.keras_order(value, name), parameter
        if value.hwc != value.shape:  # flattened, channels first: the vector gets the same order
            value = replace(value, tensor=self.view(value, value.shape, name), actual=value.shape)
            return value, parameter.reshape(value.hwc).transpose(2, 0, 1).reshape(-1)
        value = self.channels_first(value, name)
        return value, np.moveaxis(parameter.reshape((1,) * (3 - parameter.ndim) + parameter.shape), 2, 0)

    def _transpose(self, tensor: str, axes: list[int], name: str) -> str:
        key = (tensor, str(axes))
        if key not in self._done:
            self._done[key] = self.graph.node("Transpose", [tensor], f"{name}/transpose", perm=axes)
        return self._done[key]


def _one_order(hwc: nw.Shape) -> bool:
    """Tell whether channels first and channels last are the same in memory: one channel, or one pixel."""
    return hwc[2] == 1 or math.prod(hwc[:2]) == 1

"""The three networks that are measured, with random weights from a seed: pictures in, ten probabilities out.

Each comes in two files, `NAME` that takes uint8 and `NAME-f32` that takes float32 as the V2 protocol's clients send it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import models

CLASSES = 10
ROWS = {"mlp": (28, 28), "lenet": (28, 28), "resnet": (32, 32, 3)}


class Net:
    """A graph in the making: each method adds a node and gives the name of what it computes."""

    def __init__(self, seed: int = 0):
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        """A tensor that is in the file."""
        self.constants.append(numpy_helper.from_array(values, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def weights(self, *shape: int) -> str:
        """Random ones, such that what comes out is about as large as what goes in."""
        return self.constant(self._random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32))

    def add(self, kind: str, *inputs: str, output: str = "", **how: Any) -> str:
        """Any node."""
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **how))
        return output

    def scaled(self) -> str:
        """The picture as float32 from 0 to 1."""
        return self.add(
            "Mul", self.add("Cast", "image", to=TensorProto.FLOAT), self.constant(np.array(1 / 255, np.float32))
        )

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        """A fully connected layer."""
        bias = self.constant(np.zeros(outputs, np.float32))
        return self.add("Gemm", x, self.weights(outputs, inputs), bias, transB=1)

    def conv(self, x: str, inputs: int, outputs: int, stride: int = 1, size: int = 3) -> str:
        """A convolution that keeps the borders."""
        how: dict[str, Any] = {"pads": [size // 2] * 4, "strides": [stride] * 2}
        return self.add("Conv", x, self.weights(outputs, inputs, size, size), **how)

    def block(self, x: str, inputs: int, outputs: int) -> str:
        """Two convolutions beside a short cut; halves the sides where the channels grow."""
        stride = 1 if inputs == outputs else 2
        inner = self.conv(self.add("Relu", self.conv(x, inputs, outputs, stride)), outputs, outputs)
        short = x if stride == 1 else self.conv(x, inputs, outputs, stride, size=1)
        return self.add("Relu", self.add("Add", inner, short))

    def model(self, logits: str, row: tuple[int, ...]) -> onnx.ModelProto:
        """uint8 [N, *row] → float32 [N, CLASSES]."""
        self.add("Softmax", logits, output="probabilities", axis=1)
        return models.model(self.nodes, self.constants, row, CLASSES)


def mlp() -> onnx.ModelProto:
    """784-128-10."""
    net = Net()
    hidden = net.add("Relu", net.dense(net.add("Flatten", net.scaled()), 784, 128))
    return net.model(net.dense(hidden, 128, CLASSES), ROWS["mlp"])


def resnet() -> onnx.ModelProto:
    """A residual network of CIFAR's kind: 16, 32 and 64 channels, one block of each."""
    net = Net()
    x = net.add("Relu", net.conv(net.add("Transpose", net.scaled(), perm=[0, 3, 1, 2]), 3, 16))
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        x = net.block(x, inputs, outputs)
    return net.model(net.dense(net.add("Flatten", net.add("GlobalAveragePool", x)), 64, CLASSES), ROWS["resnet"])


NETWORKS = {"mlp": mlp, "lenet": models.lenet, "resnet": resnet}


def float32(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network that takes float32, still from 0 to 255."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return changed


def publish(repository: Path, name: str, both: bool = True) -> None:
    """A network's two files, as version 1 of two models; or only the one that takes uint8."""
    proto = NETWORKS[name]()
    models.put(repository, name, 1, proto)
    if both:
        models.put(repository, f"{name}-f32", 1, float32(proto))

"""A growing list of ONNX nodes and constants with readable, unique names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .names import OUTPUT, SCORE

OPSET = 17
"""The newest opset from before MaxPool lost its CUDA kernel; every node of our networks has one."""
IR_VERSION = 8
"""Goes with opset 17; onnx.helper's own default is newer than ONNX Runtime takes."""


class Graph:
    """Nodes, constants and their names; `finish` makes the file."""

    def __init__(self, input_name: str, kind: str, shape: Sequence[int]) -> None:
        """Start with one input of uint8 ("image") or float32 ("table"), `shape` without the batch."""
        element = TensorProto.UINT8 if kind == "image" else TensorProto.FLOAT
        self.input = helper.make_tensor_value_info(input_name, element, ["N", *shape])
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._names = {input_name, OUTPUT, SCORE}

    def node(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node of one output, and give that output's name."""
        unique = self._unique(name)
        self._nodes.append(helper.make_node(op_type, list(inputs), [unique], name=unique, **attributes))
        return unique

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Append a constant: floats become float32, integers int64."""
        dtype = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64
        unique = self._unique(name)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), unique))
        return unique

    def scalar(self, name: str, value: float) -> str:
        """Append a constant of shape (): unlike [1], ONNX Runtime broadcasts it at full speed."""
        unique = self._unique(name)
        self._constants.append(numpy_helper.from_array(np.array(value, np.float32), unique))
        return unique

    def finish(self, tensor: str, classes: int, name: str, score: str | None = None) -> onnx.ModelProto:
        """Make the model, with `tensor` as its output `probabilities` [N, classes], and `score` as `ood_score` [N]."""
        if not any(tensor in node.output for node in self._nodes):
            tensor = self.node("Identity", [tensor], f"{OUTPUT}/identity")
        ends = {tensor: OUTPUT} if score is None else {tensor: OUTPUT, score: SCORE}
        for node in self._nodes:
            node.input[:] = [ends.get(each, each) for each in node.input]
            node.output[:] = [ends.get(each, each) for each in node.output]
        outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])]
        if score is not None:
            outputs.append(helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["N"]))
        graph = helper.make_graph(self._nodes, name, [self.input], outputs, self._constants)
        return helper.make_model(
            graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="topclass"
        )

    def _unique(self, name: str) -> str:
        unique, number = name, 2
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        return unique

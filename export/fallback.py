"""tf2onnx, for models with layers that we do not know. Its file keeps the same contract."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import onnx

from .errors import ExportError
from .graph import IR_VERSION, OPSET
from .head import Head
from .names import OUTPUT


def convert_by_tracing(
    model: Any, head: Head, input_name: str, kind: str, shape: Sequence[int], name: str, temperature: float = 1.0
) -> onnx.ModelProto:
    """Trace `model(x, training=False)` with the cast before and the head after it; ExportError if that fails.

    `shape` leaves the batch out. The model is always called with training=False: Random* layers default to True,
    and one of them is enough to put every dropout into training mode.
    """
    import tensorflow as tf
    import tf2onnx

    dtype = tf.uint8 if kind == "image" else tf.float32
    signature = [tf.TensorSpec([None, *shape], dtype, name=input_name)]

    def predict(x: Any) -> Any:
        output = head.apply(model(tf.cast(x, model.inputs[0].dtype), training=False), temperature)
        return tf.identity(tf.cast(output, tf.float32), name=OUTPUT)

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto: onnx.ModelProto
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            proto, _ = tf2onnx.convert.from_function(tf.function(predict), signature, opset=OPSET)
    except Exception as error:  # tf2onnx raises whatever its own parts raise
        raise ExportError(f"tf2onnx cannot convert the model: {type(error).__name__}: {_first_line(error)}") from error
    _keep_contract(proto, input_name, head.classes(model.outputs[0].shape[-1]), name)
    return proto


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0]


def _keep_contract(proto: onnx.ModelProto, input_name: str, classes: int, name: str) -> None:
    """Rename the ends, make the batch symbolic, and write the versions down."""
    graph = proto.graph
    renamed = {graph.input[0].name: input_name, graph.output[0].name: OUTPUT}
    for node in graph.node:
        node.input[:] = [renamed.get(each, each) for each in node.input]
        node.output[:] = [renamed.get(each, each) for each in node.output]
    graph.name, graph.input[0].name, graph.output[0].name = name, input_name, OUTPUT
    for end in (graph.input[0], graph.output[0]):
        end.type.tensor_type.shape.dim[0].dim_param = "N"
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = classes
    proto.ir_version, proto.producer_name = IR_VERSION, "topclass (tf2onnx)"
    del proto.metadata_props[:]

"""Tiny ONNX classifiers built by hand: milliseconds to make and load, no TensorFlow."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ("cat", "dog", "emu")
SIDE = 4


def weights(features: int, classes: int, seed: int = 0) -> np.ndarray:
    """What `classifier` computes with: float32 [features, classes]."""
    return np.random.default_rng(seed).normal(0, 1 / 255, (features, classes)).astype(np.float32)


def expected(rows: np.ndarray, classes: int = 3, seed: int = 0) -> np.ndarray:
    """The probabilities [n, C] that `classifier` gives, computed by numpy."""
    flat = rows.reshape(len(rows), -1).astype(np.float32)
    logits = flat @ weights(flat.shape[1], classes, seed)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def classifier(
    row: Sequence[Any] = (SIDE, SIDE),
    *,
    classes: int = 3,
    seed: int = 0,
    dtype: int = TensorProto.UINT8,
    rounds: int = 0,
    scale: float = 1,
    features: int = 0,
) -> onnx.ModelProto:
    """softmax(flat(x) · W): uint8 or float32 [N, *row] → float32 [N, classes].

    rounds makes it slow: so many products with a 256 x 256 matrix. scale multiplies W.
    """
    features = features or int(np.prod(row))
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["cast"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [numpy_helper.from_array(weights(features, classes, seed) * np.float32(scale), "w")]
    if rounds:
        nodes[2:3] = [*_ballast(features, rounds, constants), helper.make_node("MatMul", ["same", "w"], ["logits"])]
    return model(nodes, constants, row, classes, dtype=dtype)


def _ballast(features: int, rounds: int, constants: list[TensorProto]) -> list[onnx.NodeProto]:
    """flat → same, equal in value, after `rounds` products of each row with a 256 x 256 matrix of zeros."""
    constants += [
        numpy_helper.from_array(np.zeros((features, 256), np.float32), "in"),
        numpy_helper.from_array(np.zeros((256, 256), np.float32), "square"),
        numpy_helper.from_array(np.zeros((256, features), np.float32), "out"),
    ]
    return [
        helper.make_node("MatMul", ["flat", "in"], ["h0"]),
        *(helper.make_node("MatMul", [f"h{n}", "square"], [f"h{n + 1}"]) for n in range(rounds)),
        helper.make_node("MatMul", [f"h{rounds}", "out"], ["zero"]),
        helper.make_node("Add", ["flat", "zero"], ["same"]),
    ]


def model(
    nodes: list[onnx.NodeProto], constants: list[TensorProto], row: Sequence[Any], classes: int,
    *, dtype: int = TensorProto.UINT8, batch: Any = "N", output: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    """A model from nodes that lead from `image` to `probabilities`."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, [batch, *row])],
        [helper.make_tensor_value_info("probabilities", output, [batch, classes])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scored(threshold: float = 128, **changes: Any) -> onnx.ModelProto:
    """`classifier` with a card and a second output, `ood_score` [N]: the mean of a row; `changes` as in `with_card`."""
    proto = classifier()
    proto.graph.node.append(helper.make_node("ReduceMean", ["flat"], ["ood_score"], axes=[1], keepdims=0))
    proto.graph.output.append(helper.make_tensor_value_info("ood_score", TensorProto.FLOAT, ["N"]))
    plain = json.loads(with_card(proto).metadata_props[0].value)["golden"]
    scores = golden_rows().mean(axis=(1, 2)).tolist()
    card = {"golden": plain | {"ood_scores": scores}, "out_of_distribution": {"threshold": threshold}}
    return with_card(proto, **(card | changes))


def golden_rows() -> np.ndarray:
    """The golden samples that `with_card` writes: uint8 [2, 4, 4]."""
    return np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE), np.uint8)


def lenet(seed: int = 0) -> onnx.ModelProto:
    """A network of LeNet-5's shape with random weights: uint8 [N, 28, 28] → float32 [N, 10]."""
    random = np.random.default_rng(seed)
    constants: list[TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        values = random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    constants.append(numpy_helper.from_array(np.array([-1, 1, 28, 28], np.int64), "planes"))
    constants.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "planes"], ["x"]),
        helper.make_node("Conv", ["x", constant("w1", 6, 1, 5, 5)], ["c1"], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], **pool),
        helper.make_node("Conv", ["p1", constant("w2", 16, 6, 5, 5)], ["c2"]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], **pool),
        helper.make_node("Flatten", ["p2"], ["flat"]),
        helper.make_node("Gemm", ["flat", constant("w3", 120, 400)], ["d1"], transB=1),
        helper.make_node("Relu", ["d1"], ["r3"]),
        helper.make_node("Gemm", ["r3", constant("w4", 84, 120)], ["d2"], transB=1),
        helper.make_node("Relu", ["d2"], ["r4"]),
        helper.make_node("Gemm", ["r4", constant("w5", 10, 84)], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return model(nodes, constants, (28, 28), 10)


def with_card(proto: onnx.ModelProto, labels: Sequence[str] = LABELS, **changes: Any) -> onnx.ModelProto:
    """The same model with a card as the exporter writes it; `changes` replace parts of the card."""
    golden = golden_rows()
    card = {
        "schema": 1,
        "labels": list(labels),
        "certificate": {"graph_sha256": hashlib.sha256(proto.SerializeToString()).hexdigest()},
        "golden": {
            "shape": list(golden.shape),
            "dtype": "uint8",
            "inputs_base64": base64.b64encode(golden.tobytes()).decode(),
            "probabilities": expected(golden).tolist(),
        },
    }
    described = onnx.ModelProto()
    described.CopyFrom(proto)
    helper.set_model_props(described, {"topclass.card": json.dumps(card | changes)})
    return described


def put(repository: Path, name: str, version: int, content: onnx.ModelProto | bytes) -> Path:
    """Publishes a model as the exporter does: by renaming a finished folder."""
    data = content if isinstance(content, bytes) else content.SerializeToString()
    hidden = repository / f".tmp-{name}-{version}"
    hidden.mkdir(parents=True)
    (hidden / "model.onnx").write_bytes(data)
    (repository / name).mkdir(exist_ok=True)
    return hidden.rename(repository / name / str(version)) / "model.onnx"

"""Run folders and proven files, small enough to be made anew for each test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.card import build_card, to_json
from export.runs import Run
from export.verify import BATCH_SIZES, CARD_KEY, TOLERANCE, open_session, run
from export.wire import graph_sha256, with_metadata

from .networks import NETWORKS, shake


@pytest.fixture(scope="session")
def keras() -> Any:
    """The keras module, imported when the first test needs it."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras as module

    return module


def make_inputs(shape: tuple[int, ...], rows: int = 40, seed: int = 3) -> np.ndarray:
    """Make rows as they are served: uint8 pictures, float32 tables."""
    rng = np.random.default_rng(seed)
    if len(shape) == 1:
        return rng.normal(0, 2, (rows, *shape)).astype(np.float32)
    return rng.integers(0, 256, (rows, *shape), dtype=np.uint8)


def make_metrics(shape: tuple[int, ...], labels: list[str], name: str = "tiny") -> dict[str, Any]:
    """Make a metrics.json as training writes it."""
    if len(shape) == 1:
        described: dict[str, Any] = {"kind": "table", "features": [f"x{i}" for i in range(shape[0])]}
    else:
        channels = shape[2] if len(shape) == 3 else 1
        described = {"kind": "image", "height": shape[0], "width": shape[1], "channels": channels}
    return {
        "schema": 1,
        "model": name,
        "run": "20260101T000000Z-abcdef",
        "recipe": "training.tiny",
        "arguments": {"epochs": 1},
        "labels": labels,
        "input": described,
        "data": {"name": "noise", "sha256": "0" * 64, "sizes": {"train": 1, "validation": 40, "test": 1}},
        "metrics": {"test": {"accuracy": 0.5, "log_loss": 0.7}},
        "seconds": {"data": 0.0, "fit": 0.0, "evaluate": 0.0},
        "created": "2026-01-01T00:00:00+00:00",
        "git_commit": None,
        "versions": {"numpy": np.__version__},
    }


def write_run(folder: Path, model: Any, classes: int, rows: int = 40) -> Path:
    """Write a complete run folder around a Keras model."""
    shape = tuple(model.inputs[0].shape[1:])
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    inputs = make_inputs(shape, rows)
    np.savez(folder / "samples.npz", inputs=inputs, labels=np.arange(rows) % classes)
    metrics = make_metrics(shape, [f"class {i}" for i in range(classes)])
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path, keras: Any) -> Path:
    """A complete run of an MLP with 5 classes."""
    return write_run(tmp_path / "runs" / "tiny" / "20260101T000000Z-abcdef", shake(NETWORKS["mlp"](keras)), 5)


def edit_metrics(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a run's metrics.json."""
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def proven_bytes(name: str = "hand-made") -> bytes:
    """Make a proven file without TensorFlow: 2x3 pictures, 3 classes, one Gemm."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.normal(0, 0.01, (6, 3)).astype(np.float32), "kernel")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("MatMul", ["flat", "kernel"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 2, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [kernel],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    inputs = make_inputs((2, 3), 10)
    made = Run(Path("nowhere"), make_metrics((2, 3), ["a", "b", "c"], name), inputs, np.zeros(10, np.int64))
    certificate = {
        "samples": 10,
        "batch_sizes": list(BATCH_SIZES),
        "max_abs_difference": 1e-7,
        "max_rel_difference": 1e-6,
        "argmax_agreement": 1.0,
        "tolerance": TOLERANCE,
        "provider": "CPUExecutionProvider",
        "converter": "topclass",
        "graph_sha256": graph_sha256(data),
    }
    card = build_card(made, name, "Raw pixels.", certificate, run(open_session(data), inputs))
    return with_metadata(data, CARD_KEY, to_json(card))


@pytest.fixture
def proven(tmp_path: Path) -> Path:
    """A proven file on disk."""
    path = tmp_path / "proven.onnx"
    path.write_bytes(proven_bytes())
    return path

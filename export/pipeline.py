"""The whole way from a run folder to the bytes of a proven file. It imports Keras, so import it late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .card import build_card, to_json
from .convert import Conversion, convert, reference, reference_scores
from .errors import ExportError, RunError
from .names import SCORE
from .ood import Detector, read_detector
from .runs import Run, load_keras, read_run
from .verify import CARD_KEY, Row, compare, open_session, probes, run_in_batches, verify_file
from .wire import graph_sha256, with_metadata

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A proven file, not yet anywhere: its bytes, its card, and how the graph came to be."""

    data: bytes
    card: dict[str, Any]
    conversion: Conversion


def export_run(folder: Path, name: str | None = None, say: Say = lambda _: None) -> Exported:
    """Convert, prove and describe one run; `name` is the model's, by default that of the run.

    `say` is told each step in a line. Raises ExportError: RunError for the folder, NotAClassifierError for the
    network, ParityError when Keras and ONNX Runtime differ.
    """
    run = read_run(folder)
    detector = read_detector(run.folder, run.metrics.get("out_of_distribution"))
    say(f"reading {run.folder / 'model.keras'}")
    model = load_keras(run)
    conversion = _convert(run, model, name or str(run.metrics["model"]), detector)
    by = conversion.converter if not conversion.reason else f"{conversion.converter}, for {conversion.reason}"
    say(f"converted by {by}: {len(conversion.model.graph.node)} nodes")
    no_score = ""
    if detector is not None and conversion.reason:
        detector, no_score = None, "the graph was made by tf2onnx, which carries no score"
        say(f"without the run's out-of-distribution score: {no_score}")
    data, card = _prove(run, model, conversion, name or str(run.metrics["model"]), detector, no_score)
    return Exported(data, card, conversion)


def _convert(run: Run, model: Any, name: str, detector: Detector | None) -> Conversion:
    expected = list(model.inputs[0].shape[1:]) if model.inputs and len(model.inputs) == 1 else None
    if expected is not None and list(run.inputs.shape[1:]) != expected and None not in expected:
        raise RunError(f"the samples are {list(run.inputs.shape)}, but the Keras model takes [N, {_join(expected)}]")
    conversion = convert(model, run.kind, run.inputs, name, run.temperature, detector)
    classes = conversion.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if len(run.class_labels) != classes:
        raise RunError(f"metrics.json has {len(run.class_labels)} labels, but the network gives {classes} classes")
    return conversion


def _prove(
    run: Run, model: Any, conversion: Conversion, name: str, detector: Detector | None, no_score: str
) -> tuple[bytes, dict[str, Any]]:
    try:
        onnx.checker.check_model(conversion.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    data = conversion.model.SerializeToString()
    rows = [*(Row(f"sample {i}", values) for i, values in enumerate(run.inputs)), *probes(run.inputs)]
    inputs = np.stack([row.values for row in rows])
    expected = reference(model, conversion.head, inputs, run.temperature)
    scores = None if detector is None else reference_scores(model, detector, inputs)
    certificate = {
        "samples": len(run.inputs),
        "probes": len(rows) - len(run.inputs),
        **compare(data, rows, expected, scores),
        "converter": conversion.converter,
        "graph_sha256": graph_sha256(data),
    }
    session, size = open_session(data), min(32, len(run.inputs))
    answers = run_in_batches(session, run.inputs, size)
    strange = None if detector is None else run_in_batches(session, run.inputs, size, SCORE)
    card = build_card(run, name, conversion.preprocessing, certificate, answers, strange, no_score)
    data = with_metadata(data, CARD_KEY, to_json(card))
    return data, verify_file(data)


def _join(sizes: list[Any]) -> str:
    return ", ".join(map(str, sizes))

"""What the file says of itself: one JSON document in its metadata, from which people and the server read all."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ExportError
from .runs import Run
from .verify import CARD_SCHEMA

GOLDEN_ROWS = 4
LARGEST_CARD = 1 << 20
"""In bytes. ONNX Runtime takes more, but whoever lists models reads every card."""
CONFIDENCE_BOUNDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
_OUR_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")


def build_card(
    run: Run,
    name: str,
    preprocessing: str,
    certificate: dict[str, Any],
    probabilities: NDArray[np.float32],
    scores: NDArray[np.float32] | None = None,
    no_score: str = "",
) -> dict[str, Any]:
    """Write the card of a verified graph.

    `probabilities` [n, classes] are the graph's own answers to the run's samples [n, ...], `scores` [n] its second
    output, if it has one; some become golden. `no_score` says why the score that the run has is not in the graph.
    """
    metrics = run.metrics
    stated = metrics["input"]
    image = run.kind == "image"
    return {
        "schema": CARD_SCHEMA,
        "name": name,
        "recipe": metrics["recipe"],
        "run": metrics["run"],
        "labels": run.class_labels,
        "input": {
            "name": "image" if image else "features",
            "kind": run.kind,
            "dtype": str(run.inputs.dtype),
            "shape": [None, *run.inputs.shape[1:]],
            **({"channels": stated.get("channels", 1)} if image else {"features": stated.get("features", [])}),
        },
        "preprocessing": preprocessing,
        "training_data": {key: metrics["data"].get(key) for key in ("name", "sha256", "sizes")},
        "arguments": metrics["arguments"],
        "metrics": metrics["metrics"],
        "calibration": metrics.get("calibration") or {"temperature": 1.0, "fitted": False},
        "out_of_distribution": {"threshold": None, "reason": no_score}
        if no_score
        else metrics.get("out_of_distribution"),
        "reference": reference(probabilities),
        "certificate": certificate,
        "golden": golden(run.inputs, probabilities, scores),
        "versions": {**metrics["versions"], **_our_versions()},
        "git_commit": metrics.get("git_commit"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def reference(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """Count how the graph answers held-out samples, for a server to see drift: [n, classes] as two histograms.

    `predicted` [classes] by the class said; `confidence` by its probability, whose bins end below `confidence_bounds`.
    """
    bins = np.searchsorted(CONFIDENCE_BOUNDS, probabilities.max(axis=1), side="right")
    return {
        "rows": len(probabilities),
        "predicted": np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist(),
        "confidence_bounds": list(CONFIDENCE_BOUNDS),
        "confidence": np.bincount(bins, minlength=len(CONFIDENCE_BOUNDS) + 1).tolist(),
    }


def golden(
    inputs: NDArray[Any], probabilities: NDArray[np.float32], scores: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """Choose a few samples, of different predicted classes as far as there are, with their exact answers."""
    chosen = _choose(probabilities.argmax(axis=1))
    picked = np.ascontiguousarray(inputs[chosen])
    return {
        "shape": list(picked.shape),
        "dtype": str(picked.dtype),
        "inputs_base64": base64.b64encode(picked.astype(picked.dtype.newbyteorder("<")).tobytes()).decode("ascii"),
        "probabilities": [[exact_decimal(value) for value in row] for row in probabilities[chosen]],
        **({} if scores is None else {"ood_scores": [exact_decimal(value) for value in scores[chosen]]}),
    }


def exact_decimal(value: np.float32) -> float:
    """Give the shortest decimal number that is read back as the same float32."""
    return float(np.format_float_scientific(value, unique=True))


def to_json(card: dict[str, Any]) -> str:
    """Write the card down; ExportError if it is too large or holds what JSON cannot."""
    try:
        text = json.dumps(card, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ExportError(f"the run's numbers cannot be written as JSON: {error}") from error
    size = len(text.encode())
    if size > LARGEST_CARD:
        raise ExportError(f"the card has {size:,} bytes, over the {LARGEST_CARD:,} that a model file may carry")
    return text


def _choose(classes: NDArray[np.int64]) -> list[int]:
    """Take the first sample of each predicted class, spread over the classes, then whichever come first."""
    _, firsts = np.unique(classes, return_index=True)
    spread = np.unique(np.linspace(0, len(firsts) - 1, min(GOLDEN_ROWS, len(firsts))).round().astype(int))
    chosen = [int(firsts[i]) for i in spread]
    others = [i for i in range(len(classes)) if i not in chosen]
    return sorted([*chosen, *others[: GOLDEN_ROWS - len(chosen)]])


def _our_versions() -> dict[str, str]:
    found = {}
    for package in _OUR_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # onnxruntime-gpu answers for onnxruntime under another name
            continue
    return found
